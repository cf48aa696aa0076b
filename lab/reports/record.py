"""The small record that a run leaves beside its report, and the key that tells whether it is still true."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """What one notebook's run came to.

    status "done" or "failed"; cell counts all cells of the source notebook from 1, None = before the first.
    verdict and question are markdown; figure is plotly JSON or None; parameters holds every value used,
    changed the default of each that was given another value; results what the notebook handed over by
    `lab.reports.result`; data what was read, each {name, rows, sha256}; beside how many others could run at the time.
    """

    name: str
    title: str
    question: str
    verdict: str
    figure: dict | None
    status: str
    cell: int | None
    error: str
    reason: str
    parameters: dict
    changed: dict
    results: dict
    data: list[dict]
    versions: dict[str, str]
    device: str
    started: str
    seconds: float
    beside: int
    source: str
    sha256: str
    key: str
    bytes: int

    @property
    def failed(self) -> bool:
        return self.status != "done"

    @property
    def problem(self) -> str:
        """One line: where and why a run failed."""
        where = f"cell {self.cell}: " if self.cell else ""
        first = self.reason.strip().splitlines()[:1]
        return f"{where}{self.error}: {first[0]}" if first else f"{where}{self.error}"


def read(path: Path) -> Record | None:
    """The record in a file, None where there is none that this version of the lab can read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = {field.name for field in fields(Record)}
    if not isinstance(content, dict) or content.keys() != names:
        return None
    return Record(**content)


def read_all(folder: Path) -> list[Record]:
    """Every record in a folder of reports, by name."""
    return [record for path in sorted(folder.glob("*.json")) if (record := read(path))]


def write(record: Record, path: Path) -> None:
    replace(path, json.dumps(asdict(record), ensure_ascii=False, separators=(",", ":")))


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader, or a killed run, never meets half of one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # a report is meant to be read; mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def key(sha256: str, parameters: Mapping[str, object], versions: Mapping[str, str], device: str) -> str:
    """Changes whenever the same notebook could give another result: its source, values, our code, packages, device."""
    parts = [sha256, sorted((name, repr(value)) for name, value in parameters.items()), _code(), dict(versions), device]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> str:
    import lab

    root = Path(str(lab.__file__)).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in {".py", ".j2", ".css", ".js", ".json"}:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
