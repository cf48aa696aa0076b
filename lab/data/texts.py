"""Docstrings and code of the installed scientific stack as a table: harvested once, cached, drawn evenly.

The corpus is a function of what is installed, so it travels by name and version (`manifest`), never by copy:
licences stay with the packages. Identifiers leak words between a summary and its code, and copies of
models differ in a name only, so a held-out set should be split by package.
"""

import hashlib
import io
import json
import logging
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lab.data import cache, harvest, ledger, stack

log = logging.getLogger(__name__)

COLUMNS = ("name", "text", "summary", "code", "package", "module", "parent")
CHUNK = 3_000_000  # bytes of source per worker process: half a second's work, so that its start is lost in it
_unsaved: dict[str, pd.DataFrame] = {}  # where no folder can be written, at least this process harvests once
_digests: dict[str, str] = {}  # half a second each, and a notebook draws several times


def docstrings(n: int = 2000, seed: int = 0, packages: Sequence[str] | None = None) -> pd.DataFrame:
    """Draw n documented functions, evenly over packages, shuffled; the index runs 0 to n - 1.

    Columns: name (qualified, inside its module), text (whole docstring), summary (its first paragraph on one
    line), code (source without that docstring), package, module (dotted), parent (class, or "").
    Every package gives the same number; one that has fewer gives all it has and the others share the rest.
    packages: import names to draw from, all of the corpus by default. The same seed gives the same rows as
    long as the same versions are installed; `.attrs` says which.

    Raises ValueError for n below 1 or above what there is, and for a package the corpus does not have.
    """
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one docstring")
    table = corpus()
    if packages is not None:
        wanted = [packages] if isinstance(packages, str) else list(packages)
        if unknown := sorted(set(wanted).difference(table.package)):
            raise ValueError(f"no docstrings of {unknown}; the corpus has {sorted(table.package.unique())}")
        table = table[table.package.isin(wanted)]
    if n > len(table):
        raise ValueError(f"n={n} docstrings asked for, but there are {len(table)}; ask for fewer or more packages")
    generator = np.random.default_rng(seed)
    rows = table.groupby("package", sort=True).indices
    shares = even_shares([len(found) for found in rows.values()], n, generator)
    drawn = [generator.choice(found, k, replace=False) for found, k in zip(rows.values(), shares, strict=True)]
    return table.iloc[generator.permutation(np.concatenate(drawn))].reset_index(drop=True)


def corpus() -> pd.DataFrame:
    """All docstrings there are, by package, module and line; columns as in `docstrings`.

    About 20 s on two cores the first time, then a tenth of a second from the cache (`lab.data.cache.folder()`)
    until a package changes its version. `.attrs` holds the versions, the number of files read per package and
    the modules that could not be parsed. No two rows share their code or their summary.

    Raises ValueError when nothing of the scientific stack is installed.
    """
    versions = stack.installed()
    if not versions:
        raise ValueError(f"none of {sorted(stack.STACK)} is installed: there are no docstrings to read")
    key = _key(versions)
    path = cache.folder() / f"docstrings-{key}.parquet"
    if key in _unsaved:
        return _noted(_unsaved[key].copy(), key)
    found = _load(path, logging.DEBUG)
    if found is None:
        with cache.alone(path):
            found = _load(path)  # while this one waited another may have made it
            if found is None:
                found = _made(path, key, versions)
    return _noted(found, key)


def _made(path: Path, key: str, versions: dict[str, str]) -> pd.DataFrame:
    content = _parquet(*_harvest(versions))
    found = _open(io.BytesIO(content))
    try:
        _write(path, content)
    except OSError as error:
        log.warning("the corpus cannot be kept (%s); set LAB_CACHE to a folder that can be written", error)
        _unsaved[key] = found.copy()
    return found


def _noted(table: pd.DataFrame, key: str) -> pd.DataFrame:
    def digest() -> str:
        if key not in _digests:
            _digests[key] = ledger.of_table(table[["name", "code"]])
        return _digests[key]

    ledger.note("docstrings of the installed packages", len(table), digest)
    return table


def manifest() -> pd.DataFrame:
    """What the corpus was made of: package, version, files read, docstrings kept; one row per package."""
    table = corpus()
    table = pd.DataFrame(
        {
            "package": list(table.attrs["versions"]),
            "version": list(table.attrs["versions"].values()),
            "files": list(table.attrs["files"].values()),
            "docstrings": table.package.value_counts().reindex(list(table.attrs["versions"]), fill_value=0),
        }
    )
    return table.reset_index(drop=True)


def even_shares(sizes: Sequence[int], n: int, generator: np.random.Generator) -> np.ndarray:
    """Fill equal shares like water: min(size, level) each, what remains one by one to drawn others."""
    sizes = np.asarray(sizes)
    low, high = 0, int(sizes.max())  # the level is the highest whose sum is at most n
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(sizes, level).sum() <= n else (low, level - 1)
    shares = np.minimum(sizes, low)
    more = generator.permutation(np.flatnonzero(sizes > low))[: n - shares.sum()]
    shares[more] += 1
    return shares


def _key(versions: dict[str, str]) -> str:
    """Name of a harvest: what was read, the parser that read it, and the rules it read by."""
    digest = hashlib.sha256()
    for module in (harvest, stack):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(".".join(platform.python_version_tuple()[:2]).encode())
    digest.update("\n".join(f"{name}=={number}" for name, number in sorted(versions.items())).encode())
    return digest.hexdigest()[:24]


def _harvest(versions: dict[str, str]) -> tuple[list[dict], dict]:
    """Rows of every file of these packages, first of each kind, and what they were made of.

    Plain processes of harvest.py rather than a pool: a pool that forks is unsafe below torch's threads, and one
    that spawns imports the caller's script again, which a notebook or a script without a guard does not survive.
    """
    files = {package: stack.sources(package) for package in versions}
    sources = [source for found in files.values() for source in found]
    rows, unreadable = [], []
    with (
        ThreadPoolExecutor(_cores()) as threads,
        tqdm(total=len(sources), desc="docstrings", unit="file", mininterval=1, leave=False) as progress,
    ):
        for chunk, results in threads.map(_read, _chunks(sources)):
            for source, found in zip(chunk, results, strict=True):
                rows += found or ()
                if found is None:
                    unreadable.append(source.module)
            progress.update(len(chunk))
    made_of = {
        "versions": versions,
        "files": {package: len(found) for package, found in files.items()},
        "unreadable": unreadable,
    }
    return list(harvest.first(rows)), made_of


def _read(chunk: list[stack.Source]) -> tuple[list[stack.Source], list]:
    """Harvest some files in a process of their own; None for a file that is not Python."""
    asked = "".join(json.dumps([package, module, str(path)]) + "\n" for package, module, path in chunk)
    done = subprocess.run(  # noqa: S603 (our own file, isolated from the caller's folder and variables)
        [sys.executable, "-I", harvest.__file__], input=asked, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise RuntimeError(f"reading docstrings ended with code {done.returncode}: {done.stderr[-2000:]}")
    return chunk, [json.loads(line) for line in done.stdout.splitlines()]


def _chunks(sources: Iterable[stack.Source]) -> list[list[stack.Source]]:
    """The files in order, cut where another CHUNK of bytes begins."""
    chunks, total = {}, 0
    for source in sources:
        chunks.setdefault(total // CHUNK, []).append(source)
        total += source.path.stat().st_size
    return list(chunks.values())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parquet(rows: list[dict], made_of: dict) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({name: pa.string() for name in COLUMNS}, metadata={"lab": json.dumps(made_of)})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _open(file: Path | io.BytesIO) -> pd.DataFrame:
    """The table in a parquet file; ValueError when the file is whole but not one of ours."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, page_checksum_verification=True)
    if tuple(table.column_names) != COLUMNS or b"lab" not in (table.schema.metadata or {}):
        raise ValueError(f"columns {table.column_names} instead of {COLUMNS}")
    frame = table.to_pandas()
    frame.attrs = json.loads(table.schema.metadata[b"lab"])
    return frame


def _load(path: Path, loud: int = logging.INFO) -> pd.DataFrame | None:
    """The cached table, or None when there is none or it is damaged; a new harvest then takes its place."""
    import pyarrow as pa

    try:
        return _open(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowException) as error:
        log.log(loud, "%s cannot be read (%s); reading the docstrings again", path, error)
        return None


def _write(path: Path, content: bytes) -> None:
    """Put a whole file in place at once: a reader, a kill or a second writer never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
