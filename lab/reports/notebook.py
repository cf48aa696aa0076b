"""What a notebook file says about itself before it runs: its cells, title, question and parameters."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.reports import parameters

PARAMETERS, INJECTED, MARKER = "parameters", "injected-parameters", "papermill-error-cell-tag"


@dataclass(frozen=True)
class Source:
    """A notebook as it stands on disk."""

    path: Path
    node: dict
    sha256: str
    title: str
    question: str
    known: dict[str, parameters.Parameter]
    alone: bool  # it measures time, so that nothing may run beside it


def load(path: str | Path) -> Source:
    """Read a notebook. ValueError: no such file, not a notebook, no parameters cell or a broken one."""
    import nbformat

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no notebook {path}")
    raw = path.read_bytes()
    try:
        node = nbformat.reads(raw.decode(), as_version=4)
        nbformat.validate(node)
    except (ValueError, TypeError, AttributeError, KeyError, nbformat.ValidationError) as error:
        first = (str(error).splitlines() or ["?"])[0]
        raise ValueError(f"{path} is not a notebook: {first[:200]}") from None
    # left over from an earlier papermill run, they would shadow the defaults
    node.cells = [cell for cell in node.cells if not tagged(cell, INJECTED) and not tagged(cell, MARKER)]
    cell = next((cell for cell in node.cells if tagged(cell, PARAMETERS)), None)
    if cell is None:
        raise ValueError(f"{path} has no cell tagged {PARAMETERS!r}; its parameters would be ignored")
    try:
        known = parameters.read(cell.source)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    title, question, _ = opening(node.cells)
    return Source(path, node, hashlib.sha256(raw).hexdigest(), title or path.stem, question, known, _alone(node))


def _alone(node: dict) -> bool:
    own = node["metadata"].get("lab", {})
    return isinstance(own, dict) and own.get("alone") is True


def tagged(cell: dict, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def opening(cells: Sequence[dict]) -> tuple[str, str, str]:
    """(title, question, what else the first markdown cell says); "" for what is missing."""
    first = next((cell["source"] for cell in cells if cell["cell_type"] == "markdown"), "")
    title, question, rest = "", "", []
    for paragraph in re.split(r"\n\s*\n", first.strip()):
        heading, _, below = paragraph.partition("\n")
        if not title and heading.startswith("# "):
            title = heading[2:].strip()
            paragraph = below
        if not question and paragraph.startswith("**Question.**"):
            question = paragraph.removeprefix("**Question.**").strip()
        elif paragraph:
            rest.append(paragraph)
    return title, question, "\n\n".join(rest)
