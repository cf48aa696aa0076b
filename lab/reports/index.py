"""reports/index.html: every report's title, question, headline figure and verdict, from the records in the folder."""

import json
from dataclasses import asdict
from pathlib import Path

from lab.reports import figures, record, render
from lab.reports.record import Record

HEAVY = 400_000  # characters of JSON; a heavier headline figure is only in its report, so that the index stays light


def write(folder: Path) -> Path:
    """Render the index of a folder of reports; its path."""
    path = folder / "index.html"
    record.replace(path, page(record.read_all(folder)))
    return path


def page(records: list[Record]) -> str:
    """The index as one self-contained page."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(render.TEMPLATES), autoescape=True)
    environment.filters |= render.filters()
    environment.globals["plotly"] = figures.plotly
    drawn = {f"figure-{n}": r.figure for n, r in enumerate(records) if r.figure and len(json.dumps(r.figure)) <= HEAVY}
    entries = [(r, anchor if (anchor := f"figure-{n}") in drawn else None) for n, r in enumerate(records)]
    nonce = render.nonce([asdict(r) for r in records])
    return environment.get_template("index.html.j2").render(entries=entries, figures=drawn, nonce=nonce)
