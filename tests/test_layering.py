"""data -> models -> capture -> probes | geometry | attention -> stats -> plots -> widgets -> reports.

The table is the law: a room may import the rooms beside its name, all of which stand above it. A new room,
or a new arrow, is a line here that a reviewer sees.
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from imports import imports

import lab

ROOT = Path(__file__).parents[1]

ROOMS = {
    "kernels": set(),
    "blocks": set(),  # a walk over any tree of modules
    "pooling": {"kernels", "blocks"},
    "data": set(),
    "models": {"blocks"},
    "capture": {"models", "pooling"},
    "attention": {"kernels", "models", "capture"},
    "probes": {"data", "capture"},  # data: what a data set asks
    "geometry": {"capture"},
    "training": {"data", "blocks", "models", "kernels", "pooling", "capture", "attention", "geometry"},
    "stats": set(),  # arrays in, numbers out
    "plots": set(),  # arrays in, figures out
}
ROOMS["widgets"] = set(ROOMS)  # a control may ask for another map, pass, test or training step
ROOMS["reports"] = set(ROOMS)


def rooms_on_disk(package: Path) -> set[str]:
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    return folders | {path.stem for path in package.glob("*.py") if path.stem != "__init__"}


def trespasses(package: Path) -> list[str]:
    """One line for each import of a room that the table does not grant."""
    found = []
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        granted = ROOMS.get(room, set()) | {room}
        for line, target in rooms_used(path, package):
            if target not in granted:
                found.append(f"{path.relative_to(package.parent)}:{line} {room} -> {target}")
    return found


def rooms_used(path: Path, package: Path) -> set[tuple[int, str]]:
    known = rooms_on_disk(package) | set(ROOMS)
    used = set()
    for entry in imports(path, package.parent):
        top, _, rest = entry.name.partition(".")
        if top == package.name and rest.split(".")[0] in known:
            used.add((entry.line, rest.split(".")[0]))
    # `import lab` names no room; `lab.models` further down does
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id=package.name), attr=room) if room in known:
                used.add((node.lineno, room))
            case ast.Import(names=names) if any(n.name == package.name and n.asname for n in names):
                used.add((node.lineno, f"{package.name} under another name"))
    return used


def test_every_room_is_in_the_table():
    rooms = rooms_on_disk(ROOT / "lab")
    assert rooms, "lab/ has no room"
    assert rooms <= set(ROOMS)


def test_the_table_points_one_way():
    order = list(ROOMS)
    for room, granted in ROOMS.items():
        assert granted <= set(order[: order.index(room)]), f"{room} may import a room below it"


def test_kernels_and_pooling_reach_no_model():
    assert ROOMS["kernels"] | ROOMS["pooling"] | ROOMS["blocks"] <= {"kernels", "blocks"}


def test_nothing_imports_upward():
    assert trespasses(ROOT / "lab") == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/files.py", "import lab.models"),
        ("data/files.py", "import lab.models.tiny as t"),
        ("data/files.py", "from lab import models"),
        ("data/files.py", "from lab.models import load"),
        ("data/files.py", "from lab.models.load import load"),
        ("data/files.py", "from .. import models"),
        ("data/files.py", "from ..models import load"),
        ("data/files.py", "def late():\n    from ..models import load"),
        ("data/files.py", "if True:\n    from lab import models"),
        ("data/files.py", "import importlib\nimportlib.import_module('lab.models')"),
        ("data/files.py", "import lab\ndef late():\n    return lab.models.load('minilm')"),
        ("data/files.py", "import lab as house"),
        ("data/deep/er.py", "from ...models import load"),
        ("data/__init__.py", "from ..models import load"),
        ("plots.py", "from .models import load"),
        ("pooling/mean.py", "from ..models import load"),
        ("__init__.py", "from .models import load"),
    ],
)
def test_a_trespass_is_seen(tmp_path, file, source):
    write(tmp_path / "lab" / file, source)
    assert len(trespasses(tmp_path / "lab")) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("pooling/mean.py", "from ..kernels import masked_mean"),
        ("pooling/mean.py", "from .functional import segment_pool"),
        ("capture/states.py", "from lab.pooling import POOLS\nfrom lab import models"),
        ("data/files.py", "import datasets\nfrom torch.nn import attention\nimport models"),
        ("data/files.py", "import lab\nprint(lab.__version__)"),
        ("reports/cli.py", "from .. import models, data\nimport lab.plots"),
    ],
)
def test_a_granted_import_is_not_a_trespass(tmp_path, file, source):
    write(tmp_path / "lab" / file, source)
    assert trespasses(tmp_path / "lab") == []


def write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def fresh(code: str) -> set[str]:
    """The words that `code` prints in an interpreter of its own."""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_lab_loads_the_standard_library_only():
    loaded = fresh("import sys; before = set(sys.modules); import lab; print(*set(sys.modules) - before)")
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"lab"}
    assert {name for name in loaded if name.startswith("lab.")} == set()


def test_each_room_resolves_by_attribute():
    for room in rooms_on_disk(ROOT / "lab"):
        assert getattr(lab, room) is importlib.import_module(f"lab.{room}")


def test_dir_lists_the_rooms():
    assert rooms_on_disk(ROOT / "lab") <= set(dir(lab))
    # before any room is loaded, too: that is what tab completion asks for
    assert rooms_on_disk(ROOT / "lab") <= fresh("import lab; print(*dir(lab))")


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="cellar"):
        _ = lab.cellar
