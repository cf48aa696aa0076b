"""reports/index.html: every report's title, question, headline figure and verdict, from the records in the folder."""

from dataclasses import asdict
from pathlib import Path

from lab.reports import record, render, thumbnail
from lab.reports.record import Record


def write(folder: Path) -> Path:
    """Render the index of a folder of reports; its path."""
    path = folder / "index.html"
    reference = (folder / "reference" / "index.html").is_file()
    record.replace(path, page(record.read_all(folder), reference=reference))
    return path


def page(records: list[Record], *, reference: bool = False) -> str:
    """The gallery as one self-contained page; reference: whether the pages of `lab docs` lie beside it."""
    return render.filled(
        "index.html.j2",
        {"thumbnail": thumbnail.thumbnail},
        records=records,
        reference=reference,
        nonce=render.nonce([asdict(r) for r in records]),
    )
