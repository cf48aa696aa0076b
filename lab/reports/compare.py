"""Two runs of the same notebooks side by side: what they were given, what came out, and where they differ.

lab report --compare reports other-reports        every notebook that both folders have
lab report --compare a/tour.json b/tour.json      one
"""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

from markupsafe import Markup

from lab.reports import figures, notebook, outputs, record, render
from lab.reports.record import Record

PAGE = "compare.html"


@dataclass(frozen=True)
class Cell:
    """What one cell of the notebook showed in each run; same where it did so in both."""

    name: str
    left: tuple[Markup, ...]
    right: tuple[Markup, ...]
    same: bool


@dataclass(frozen=True)
class Pair:
    """A notebook's two records, with the tables of what differs and the cells of both."""

    left: Record
    right: Record
    parameters: list[tuple[str, str, str]]
    versions: list[tuple[str, str, str]]
    facts: list[tuple[str, str, str]]
    cells: list[Cell]
    note: str


def write(a: str | Path, b: str | Path, out: str | Path) -> Path:
    """The page of the comparison in the folder `out`; its path. ValueError: see `pairs`."""
    sides = [Path(a), Path(b)]
    found = pairs(*sides)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    record.replace(folder / PAGE, page(found, [str(side) for side in sides]))
    return folder / PAGE


def pairs(a: Path, b: Path) -> list[tuple[tuple[Record, Path], tuple[Record, Path]]]:
    """The records that belong together, each with its folder.

    a, b: folders of reports, or one report of each: its .json, .html or .ipynb file. ValueError: nothing there that is
    a record, no notebook that both have, or two files that are runs of different notebooks.
    """
    left, right = _records(a), _records(b)
    if a.is_dir() != b.is_dir():
        raise ValueError(f"--compare needs two folders or two reports, got {a} and {b}")
    if not a.is_dir():
        ((one, where),), ((other, there),) = left.values(), right.values()
        if one.source != other.source:
            raise ValueError(f"two runs of one notebook can be compared; {a} is of {one.source}, {b} of {other.source}")
        return [((one, where), (other, there))]
    if not (both := [name for name in left if name in right]):
        raise ValueError(f"no notebook has a report in both: {a} has {sorted(left)}, {b} has {sorted(right)}")
    return [(left[name], right[name]) for name in both]


def page(found: list[tuple[tuple[Record, Path], tuple[Record, Path]]], sides: list[str]) -> str:
    """One self-contained page of these pairs; sides: what to call the two runs."""
    drawn: dict[str, Mapping] = {}
    told = [_pair(left, right, drawn) for left, right in found]
    nonce = render.nonce([[asdict(one) for one, _ in pair] for pair in found])
    return render.filled("compare.html.j2", pairs=told, figures=drawn, sides=_apart(sides), nonce=nonce)


def _records(place: Path) -> dict[str, tuple[Record, Path]]:
    if place.is_dir():
        found = {one.name: (one, place) for one in record.read_all(place)}
        if not found:
            raise ValueError(f"there is no report in {place.resolve()}; lab report --out {place} leaves some")
        return found
    one = record.read(place.with_suffix(".json"))
    if one is None:
        raise ValueError(f"{place} is neither a folder of reports nor a report with its record beside it")
    return {one.name: (one, place.parent)}


def _apart(sides: list[str]) -> list[str]:
    """Short names of the two runs that still differ."""
    tails = [Path(side).name for side in sides]
    return tails if tails[0] != tails[1] else sides if sides[0] != sides[1] else ["first", "second"]


def _pair(left: tuple[Record, Path], right: tuple[Record, Path], drawn: dict[str, Mapping]) -> Pair:
    a, b = left[0], right[0]
    paths = [folder / f"{one.name}.ipynb" for one, folder in (left, right)]
    runs = [_cells(path) for path in paths]
    missing = [str(path) for path, run in zip(paths, runs, strict=True) if run is None]
    ended = [one.status + (f": {one.problem}" if one.failed else "") for one in (a, b)]
    facts = [
        ("status", *ended),
        ("run time", render.duration(a.seconds), render.duration(b.seconds)),
        ("date", render.day(a.started), render.day(b.started)),
        ("device", a.device, b.device),
        ("notebook", a.sha256[:16], b.sha256[:16]),
        *_differing(_data(a), _data(b)),
    ]
    return Pair(
        a,
        b,
        _differing({k: repr(v) for k, v in a.parameters.items()}, {k: repr(v) for k, v in b.parameters.items()}),
        _differing(a.versions, b.versions),
        facts,
        [] if missing else _side_by_side(*runs, drawn),
        f"The executed notebook is not there: {', '.join(missing)}" if missing else "",
    )


def _data(one: Record) -> dict[str, str]:
    return {f"data: {read['name']}": f"{read['rows']} rows, {read['sha256'][:16]}" for read in one.data}


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names = dict.fromkeys([*a, *b])
    return [(name, a.get(name, "none"), b.get(name, "none")) for name in names if a.get(name) != b.get(name)]


def _cells(path: Path) -> dict[str, dict] | None:
    """The executed cells by id, None where there is no such file."""
    if not path.is_file():
        return None
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {cell.get("id", str(n)): cell for n, cell in enumerate(cells) if _has_results(cell)}


def _has_results(cell: dict) -> bool:
    return cell["cell_type"] == "code" and not notebook.tagged(cell, "verdict")  # that stands at the top already


def _side_by_side(a: dict[str, dict], b: dict[str, dict], drawn: dict[str, Mapping]) -> list[Cell]:
    """The cells with a figure, a table or words of their own: the headline, then the first run's, then the second's."""
    found = []
    names = dict.fromkeys([*a, *b])
    for name in sorted(names, key=lambda name: not notebook.tagged(a.get(name) or b[name], "headline")):
        shown = [[o for o in map(_joined, (run.get(name) or {}).get("outputs", [])) if _tells(o)] for run in (a, b)]
        if not any(shown):
            continue
        sides = [[], []]
        for pair in zip_longest(*shown):
            for side, output in zip(sides, pair, strict=True):
                if output is not None:
                    anchor = f"figure-{len(drawn) + 1}"
                    if figures.MIME in output["data"]:
                        drawn[anchor] = output["data"][figures.MIME]
                    side.append(outputs.shown(output, anchor))
        same = [o["data"] for o in shown[0]] == [o["data"] for o in shown[1]]
        if same:  # once is enough, and its figures once in the page
            sides[1] = []
        found.append(Cell(re.sub(r"[-_]", " ", html.unescape(name)), tuple(sides[0]), tuple(sides[1]), same))
    return found


def _joined(output: dict) -> dict:
    """nbformat keeps long texts as lists of lines on disk."""
    data = output.get("data", {})
    whole = {
        mime: "".join(v) if isinstance(v, list) and mime.startswith(("text/", "image/")) else v
        for mime, v in data.items()
    }
    return {**output, "data": whole}


def _tells(output: dict) -> bool:
    return output["output_type"] in ("display_data", "execute_result") and bool(output["data"].keys() - {"text/plain"})
