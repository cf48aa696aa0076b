"""What the start page shows: which notebook answers which question, what each uses, and what came out here so far."""

import ast
import os
from collections import Counter
from pathlib import Path

from lab.reports import markdown, notebook, record, render

START = "00_start"


def folder(named: str | Path = "") -> Path:
    """The folder of the notebooks: the one named, else notebooks/ below the working directory, else that itself.

    ValueError: there is no notebook in it.
    """
    found = Path(named) if named else Path("notebooks") if Path("notebooks").is_dir() else Path()
    if not any(found.glob("*.ipynb")):
        raise ValueError(f"there is no notebook in {found.resolve()}; name the folder that holds them")
    return found.resolve()


def questions(notebooks: str | Path = "", out: str | Path = ""):
    """A row for each notebook, the start page left out: title, question, parameters, status, preset, seconds, verdict.

    notebooks: their folder, see `folder`; out: where the reports are, reports/ beside that folder when not given.
    status is "done", "failed" or "not run"; the columns after it are empty where there is no report. A pandas table,
    indexed by the notebook's name; `.attrs` has both folders. ValueError: a folder without notebooks, or one of them
    cannot be read.
    """
    import pandas as pd

    place = folder(notebooks)
    reports = Path(out).resolve() if out else place.parent / "reports"
    rows = {}
    for path in sorted(place.glob("*.ipynb")):
        if path.stem == START:
            continue
        source, run = notebook.load(path), record.read(reports / f"{path.stem}.json")
        rows[path.stem] = {
            "title": markdown.text(source.title),
            "question": " ".join(markdown.text(source.question).split()),
            "parameters": ", ".join(source.known),
            "status": run.status if run else "not run",
            "preset": run.parameters.get("preset", "") if run else "",
            "seconds": run.seconds if run else float("nan"),
            "verdict": " ".join(markdown.text(run.verdict).split()) if run else "",
        }
    columns = ["title", "question", "parameters", "status", "preset", "seconds", "verdict"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("notebook")
    table.attrs |= {"notebooks": str(place), "reports": str(reports)}
    return table


def contents(table):
    """The questions as an IPython Markdown list; live, each name opens its notebook; a report has nothing to open."""
    from IPython.display import Markdown

    lines = []
    for name, row in table.iterrows():
        shown = f"[{_plain(name)}]({name.replace(' ', '%20')}.ipynb)" if live() else f"**{_plain(name)}**"
        run = f" *{row.status}, {row.preset}, {render.duration(row.seconds)}*" if row.status == "done" else ""
        run = f" *{row.status}*" if row.status == "failed" else run
        lines.append(f"- {shown}: {_plain(row.question or row.title)}{run}")
    return Markdown("\n".join(lines))


def uses(notebooks: str | Path = ""):
    """How often each notebook names each room of the lab: calls[notebook, room], read from its source, not run."""
    import numpy as np
    import xarray as xr

    import lab

    place = folder(notebooks)
    counts = {path.stem: _named(notebook.load(path)) for path in sorted(place.glob("*.ipynb")) if path.stem != START}
    calls = np.array([[count[room] for room in lab.ROOMS] for count in counts.values()])
    return xr.DataArray(
        calls.reshape(len(counts), len(lab.ROOMS)),
        dims=("notebook", "room"),
        coords={"notebook": list(counts), "room": list(lab.ROOMS)},
        name="calls",
    )


def live() -> bool:
    """Whether someone may press a button: not while `lab report` runs the notebook."""
    from lab.data.ledger import VARIABLE  # set for every kernel that makes a report

    return VARIABLE not in os.environ


def _named(source: notebook.Source) -> Counter:
    """How often each room is named, as lab.room or by a name that was imported from it."""
    cells = [cell["source"] for cell in source.node.cells if cell["cell_type"] == "code"]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell))]
    bound, found = {}, Counter()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lab":
            for name in node.names:
                room = [*node.module.split(".")[1:], name.name][0]
                bound[name.asname or name.name] = room
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id="lab"), attr=room):
                found[room] += 1
            case ast.Name(id=name) if name in bound:
                found[bound[name]] += 1
    return found


def _plain(text: str) -> str:
    """Words as markdown that says just these words."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|$~" else c for c in text)
