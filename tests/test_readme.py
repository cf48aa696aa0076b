"""The README says only what is so: its tree, links and code are held against the disk and the package."""

import ast
import importlib
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
TREE_ROOT = re.compile(r"(lab|\.)/(\s|$)")


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def in_git() -> set[str]:
    """Files that are tracked, or would be after `git add`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in run.stdout.split("\0") if name and (ROOT / name).exists()}


def tree(text: str) -> Iterator[str]:
    """The paths of the folder tree, one name a line, nested by column; what follows the name is a remark."""
    blocks = [body for _, body in FENCE.findall(text) if TREE_ROOT.match(body)]
    assert len(blocks) == 1, f"{len(blocks)} blocks open with the repository's root, `lab/`, instead of 1"
    above: list[tuple[int, str]] = []
    for line in blocks[0].splitlines()[1:]:
        drawn = re.match(r"[\s│├└─|`-]*", line).end()
        if name := line[drawn:].split(maxsplit=1)[:1]:
            above = [(column, part) for column, part in above if column < drawn] + [(drawn, name[0].rstrip("/"))]
            yield "/".join(part for _, part in above)


def test_the_tree_is_the_disk():
    named = list(tree(readme()))
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert len(named) == len(set(named))
    assert {path for path in named if "/" not in path} == {path.partition("/")[0] for path in in_git()}


def test_the_tree_names_every_room():
    named = {path.removeprefix("lab/") for path in tree(readme()) if re.fullmatch(r"lab/[^/]+", path)}
    files = {path.split("/")[1] for path in in_git() if path.startswith("lab/")}
    assert named | {"__init__.py"} == files | {"__init__.py"}


def test_a_tree_is_read_by_columns():
    drawn = "```\nlab/\n├── lab/          the package\n│   ├── data/     corpora\n│   └── plots.py\n└── tests/\n```\n"
    plain = "```text\nlab/\n  lab/  the package\n    data/  corpora\n    plots.py\n  tests/\n```\n"
    assert list(tree(drawn)) == list(tree(plain)) == ["lab", "lab/data", "lab/plots.py", "tests"]


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(text: str, files: set[str]) -> list[str]:
    """Targets that a reader of a fresh clone would not find."""
    prose = FENCE.sub("", text)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", prose) + re.findall(r"\b(?:src|href)=[\"']([^\"']+)", prose)
    headings = {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.M)}
    folders = {str(parent) for name in files for parent in Path(name).parents}
    broken = []
    for target in targets:
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        found = path.rstrip("/").removeprefix("./") in files | folders if path else anchor in headings
        broken += [] if found else [target]
    return broken


def test_links_lead_somewhere():
    assert broken_links(readme(), in_git()) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("[a](docs/a.md)", []),
        ("[a](docs/)", []),
        ("[a](docs/a.md#part)", []),
        ("[a](https://example.org)", []),
        ("# The way\n[a](#the-way)", []),
        ("```\n[a](gone.md)\n```\n", []),
        ("[a](gone.md)", ["gone.md"]),
        ("![a](docs/gone.png 'title')", ["docs/gone.png"]),
        ('<img width="9" src="gone.png">', ["gone.png"]),
        ("# The way\n[a](#away)", ["#away"]),
    ],
)
def test_a_broken_link_is_seen(text, broken):
    assert broken_links(text, {"docs/a.md"}) == broken


def python_blocks(text: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in {"python", "py"}]


def unknown_names(code: str) -> list[str]:
    """Each `lab.x.y` in the code that the package does not have, by whatever name it was imported."""
    bound, unknown = {}, []
    nodes = sorted(ast.walk(ast.parse(code)), key=lambda node: getattr(node, "lineno", 0))
    for node in nodes:
        match node:
            case ast.Import(names=names):
                bound |= {(n.asname or "lab"): (n.name if n.asname else "lab") for n in names if is_ours(n.name)}
                unknown += [n.name for n in names if is_ours(n.name) and not resolves(n.name)]
            case ast.ImportFrom(module=str(module), names=names) if is_ours(module):
                bound |= {(n.asname or n.name): f"{module}.{n.name}" for n in names}
                unknown += [f"{module}.{n.name}" for n in names if not resolves(f"{module}.{n.name}")]
            case ast.Attribute() if (name := dotted(node)) and name.partition(".")[0] in bound:
                first, _, rest = name.partition(".")
                if not resolves(f"{bound[first]}.{rest}"):
                    unknown.append(f"{bound[first]}.{rest}")
    return unknown


def is_ours(module: str) -> bool:
    return module.partition(".")[0] == "lab"


def dotted(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr) if inner := dotted(value):
            return f"{inner}.{attr}"
    return ""


def resolves(name: str) -> bool:
    first, *rest = name.split(".")
    found = importlib.import_module(first)
    for part in rest:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_the_code_parses_and_names_what_exists():
    blocks = python_blocks(readme())
    assert blocks, "the README shows no use of the package"
    assert [name for code in blocks for name in unknown_names(code)] == []


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        ("import lab\nlab.__doc__", []),
        ("import lab\nlab.cellar.dig()", ["lab.cellar", "lab.cellar.dig"]),
        ("import lab as house\nhouse.cellar", ["lab.cellar"]),
        ("from lab import cellar", ["lab.cellar"]),
        ("from lab import __doc__ as text\ntext.gone()", ["lab.__doc__.gone"]),
        ("import numpy as np\nnp.cellar", []),
    ],
)
def test_an_unknown_name_is_seen(code, unknown):
    assert sorted(unknown_names(code)) == unknown


def test_the_commands_exist():
    shell = " ".join(body for language, body in FENCE.findall(readme()) if language in {"", "sh", "bash", "console"})
    named = set(re.findall(r"^(?:\$ )?(?:\.venv/bin/)?lab ([a-z]+)", shell, re.M))
    command = [Path(sysconfig.get_path("scripts")) / "lab", "--help"]
    offered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert named <= set(re.findall(r"[a-z]+", offered))
