"""What a process has read, written down where $LAB_LEDGER says, so that a report can name its data.

The variable is set by whoever starts the process (`lab report` does) and names a file; each data set read
becomes a line of JSON in it: name, rows, sha256. Without the variable nothing is hashed and nothing written.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

VARIABLE = "LAB_LEDGER"


def note(name: str, rows: int, digest: Callable[[], str]) -> None:
    """Write down that a data set of this name and this many rows was read; digest() is its SHA-256."""
    if path := os.environ.get(VARIABLE):
        line = json.dumps({"name": name, "rows": rows, "sha256": digest()})
        with open(path, "a", encoding="utf-8") as file:  # short appends do not mix, whoever else writes
            file.write(line + "\n")


def readings(path: Path) -> list[dict]:
    """The lines of a ledger, each once, in the order of their first reading; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in dict.fromkeys(lines)]


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_texts(texts: Iterable[str]) -> str:
    """SHA-256 of texts in order, and of where one ends and the next begins."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def of_table(table) -> str:
    """SHA-256 of a table's rows, in order, and column names; the same rows read from another format give the same."""
    import pandas as pd

    digest = hashlib.sha256("\n".join(map(str, table.columns)).encode())
    for name in table.columns:
        column = table[name]
        plain = column if column.dtype.kind in "biuf" else column.astype(str)
        digest.update(pd.util.hash_array(plain.to_numpy()).tobytes())
    return digest.hexdigest()
