"""Where a benchmark leaves what it found: benchmarks/results/<name>-<device>.<suffix>."""

import json
import re
from pathlib import Path
from typing import Any

from lab.reports.machine import device

FOLDER = Path(__file__).parents[1] / "results"


def place(name: str, suffix: str, folder: Path = FOLDER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{re.sub(r'[^a-z0-9]+', '-', device().lower())}.{suffix}"


def resumed(where: Path, terms: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a stopped run on the same terms left in this file, a line each; on other terms it begins anew."""
    whole = where.read_text(encoding="utf-8").rpartition("\n")[0] if where.exists() else ""  # the last may be cut short
    found = [json.loads(line) for line in whole.splitlines()]
    rows = found[1:] if found[:1] == [json.loads(json.dumps(terms))] else []
    where.write_text("".join(json.dumps(line) + "\n" for line in [terms, *rows]), encoding="utf-8")
    return rows


def append(where: Path, row: dict[str, Any]) -> None:
    with where.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write(name: str, suffix: str, text: str, folder: Path = FOLDER) -> Path:
    """The text in a file of the device's name, replacing that of an earlier run."""
    where = place(name, suffix, folder)
    where.write_text(text, encoding="utf-8")
    return where
