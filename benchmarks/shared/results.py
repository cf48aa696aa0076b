"""Where a benchmark leaves what it found: benchmarks/results/<name>-<device>.<suffix>."""

import re
from pathlib import Path

from lab.reports.machine import device

FOLDER = Path(__file__).parents[1] / "results"


def write(name: str, suffix: str, text: str, folder: Path = FOLDER) -> Path:
    """The text in a file of the device's name, replacing that of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    where = folder / f"{name}-{re.sub(r'[^a-z0-9]+', '-', device().lower())}.{suffix}"
    where.write_text(text, encoding="utf-8")
    return where
