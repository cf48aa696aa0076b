"""Notebooks as they stand in git: no trace of a run, an interface that tools can read, nothing defined inside.

That they run is tested with the reports.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST = 15  # lines of a code cell; what is longer belongs in lab/
PRESET = 'preset: str = "quick"  # smoke | quick | full'
PARAMETER = re.compile(r"(?P<name>[a-z]\w*): (?P<type>[^=]+?) = (?P<default>.+?)  # \S.*")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool}


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    return [*traces(notebook), *opening(notebook), *interface(notebook), *style(notebook)]


def traces(notebook) -> Iterator[str]:
    """What a run or an editor leaves behind."""
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        yield "an older format than 4.5, which has no cell ids"
    if "widgets" in notebook.metadata:
        yield "widget state"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "its kernel is not python3"
    ids = [cell.get("id") for cell in notebook.cells]
    if not all(ids) or len(set(ids)) < len(ids):
        yield "a cell without an id of its own"
    for n, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.outputs:
            yield f"cell {n} has outputs"
        if cell.cell_type == "code" and cell.execution_count is not None:
            yield f"cell {n} has an execution count"
        if cell.metadata.keys() & {"papermill", "execution"}:
            yield f"cell {n} has times of a run"


def opening(notebook) -> Iterator[str]:
    first = notebook.cells[0] if notebook.cells else nbformat.v4.new_raw_cell()
    if first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        yield "it does not open with a title"
    if not re.search(r"\n\n\*\*Question\.\*\* \S", first.source):
        yield "the first cell has no paragraph **Question.**"


def tagged(notebook, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def interface(notebook) -> Iterator[str]:
    for tag in ("parameters", "headline", "verdict"):
        if [cell.cell_type for cell in tagged(notebook, tag)] != ["code"]:
            yield f"not exactly one code cell is tagged {tag}"
    lines = [line for cell in tagged(notebook, "parameters") for line in cell.source.splitlines()]
    if not any(line.startswith(PRESET) for line in lines):
        yield f"the parameters lack the line {PRESET}"
    if not any(line.startswith("seed: int = ") for line in lines):
        yield "the parameters lack a seed"
    for line in lines:
        yield from parameter_faults(line)


def parameter_faults(line: str) -> Iterator[str]:
    match = PARAMETER.fullmatch(line)
    if match is None:
        yield f"not `name: type = default  # help`: {line}"
        return
    try:
        default = ast.literal_eval(match["default"])
    except (ValueError, SyntaxError):
        yield f"the default is not a literal: {line}"
        return
    plain = PLAIN.get(match["type"])
    if plain and (not isinstance(default, plain) or (isinstance(default, bool) and plain is not bool)):
        yield f"the default is not of its type: {line}"


def style(notebook) -> Iterator[str]:
    for n, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if len(cell.source.splitlines()) > LONGEST and cell not in tagged(notebook, "parameters"):
            yield f"cell {n} is longer than {LONGEST} lines"
        if re.search(r"^\s*[!%]", cell.source, re.M):
            yield f"cell {n} has a magic"
            continue
        for node in ast.walk(ast.parse(cell.source)):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    yield f"cell {n} defines {node.name}: it belongs in lab/"
                case ast.Assign(value=ast.Lambda()) | ast.AnnAssign(value=ast.Lambda()):
                    yield f"cell {n} names a lambda: it belongs in lab/"


def test_there_is_a_notebook():
    assert FOLDER / "tour.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean(path):
    assert faults(nbformat.read(path, as_version=nbformat.NO_CONVERT)) == []


def test_titles_and_questions_differ():
    openings = Counter(nbformat.read(path, as_version=4).cells[0].source for path in NOTEBOOKS)
    assert [text for text, times in openings.items() if times > 1] == []


def clean() -> nbformat.NotebookNode:
    code, words = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [
        words("# 01 · Where?\n\n**Question.** Where does it live?"),
        code(f"{PRESET}\nseed: int = 0  # every draw", metadata={"tags": ["parameters"]}),
        code("figure", metadata={"tags": ["headline"]}),
        code("sorted(rows, key=lambda row: row.score)", metadata={"tags": ["verdict"]}),
    ]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def test_a_clean_notebook_has_no_fault():
    assert faults(clean()) == []


def source(n: int, text: str):
    return lambda notebook: notebook.cells[n].update(source=text)


def extra(text: str, **metadata):
    return lambda notebook: notebook.cells.append(nbformat.v4.new_code_cell(text, metadata=metadata))


def parameter(line: str):
    return source(1, f"{PRESET}\nseed: int = 0  # every draw\n{line}")


BROKEN = [
    ("has outputs", lambda nb: nb.cells[2].outputs.append(nbformat.v4.new_output("stream", text="1"))),
    ("execution count", lambda nb: nb.cells[2].update(execution_count=1)),
    ("times of a run", lambda nb: nb.cells[2].metadata.update(papermill={"duration": 1})),
    ("widget state", lambda nb: nb.metadata.update(widgets={})),
    ("older format", lambda nb: nb.update(nbformat_minor=4)),
    ("id of its own", lambda nb: nb.cells[2].update(id=nb.cells[1].id)),
    ("without an id", lambda nb: nb.cells[2].pop("id")),
    ("not python3", lambda nb: nb.metadata.kernelspec.update(name="ir")),
    ("open with a title", source(0, "Where?\n\n**Question.** Where?")),
    ("no paragraph", source(0, "# Where?\n\nQuestion. Where?")),
    ("tagged parameters", extra(f"{PRESET}\nseed: int = 0  # every draw", tags=["parameters"])),
    ("tagged headline", lambda nb: nb.cells.pop(2)),
    ("tagged verdict", lambda nb: nb.cells[3].metadata.update(tags=[])),
    ("lack the line", source(1, 'preset: str = "full"  # smoke | quick | full\nseed: int = 0  # every draw')),
    ("lack a seed", source(1, PRESET)),
    ("not `name: type", parameter("n = 3  # texts")),
    ("not `name: type", parameter("n: int = 3")),
    ("not a literal", parameter("n: int = lab.N  # texts")),
    ("not of its type", parameter("n: int = 'three'  # texts")),
    ("not of its type", parameter("n: int = True  # texts")),
    ("longer than", extra("x\n" * 16)),
    ("has a magic", extra("%pip install x")),
    ("has a magic", extra("if x:\n    !ls")),
    ("defines f", extra("def f(): pass")),
    ("defines C", extra("class C: pass")),
    ("names a lambda", extra("f = lambda x: x")),
]


@pytest.mark.parametrize(("fault", "damage"), BROKEN)
def test_a_fault_is_seen(fault, damage):
    notebook = clean()
    damage(notebook)
    (found,) = faults(notebook)
    assert fault in found
