"""A user's own table: a json, csv or parquet file, a folder in the hub's form, or a hub data set's name."""

import contextlib
import csv
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lab.data import ledger

# half of a character outside the first 65,536, without its other half: no text, which readers drop or refuse
HALF = re.compile(
    rb"(?<!\\)(?:\\\\)*(\\u[dD](?:[89abAB]\w\w(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]\w\w\\u[dD])[c-fC-F]\w\w))"
)
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def read(
    source: str | os.PathLike,
    columns: Sequence[str] = ("text",),
    split: str = "train",
    n: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Read a table through `datasets` and check that it has these columns, without holes.

    source: a path whose suffix is .jsonl, .json, .csv or .parquet, an existing folder of such files in the
    hub's form, or else the name of a hub data set ("owner/name"); code shipped with a data set never runs.
    A file has the one split "train". Other columns than the required ones are kept. In a csv file only an
    empty cell is missing, "NA" and "None" are words; in a folder or on the hub, the data set's settings hold.
    n: that many rows drawn under the seed, in their order; all by default. A file or folder is read anew each
    time and leaves no copy; the hub's data are cached by `datasets`.

    Raises ValueError, chained from its cause, for what cannot be found, reached or parsed, for an unknown
    suffix, split or column, for an empty table or a hole in a required column, for a required column that a csv file
    has twice, for half characters in a json file, and for an n beyond its rows.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    if n is not None and n < 1:
        raise ValueError(f"n={n}: ask for at least one row, or leave n out for all")
    path = Path(source).expanduser()
    if path.is_dir():
        table = _split_of(str(path.resolve()), split, shown=source, own=True)
    elif isinstance(source, os.PathLike) or path.exists() or path.suffix.lower() in FORMATS:
        table = _file(path, split, columns)
    else:
        table = _split_of(source, split, shown=source, own=False)
    _check(table, columns, source)
    ledger.note(str(source), len(table), lambda: ledger.of_file(path) if path.is_file() else ledger.of_table(table))
    if n is None:
        return table
    if n > len(table):
        raise ValueError(f"n={n} rows asked for, but {source} has {len(table)}")
    rows = np.random.default_rng(seed).choice(len(table), n, replace=False)
    return table.iloc[np.sort(rows)].reset_index(drop=True)


def _file(path: Path, split: str, columns: list[str]) -> pd.DataFrame:
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; known are {list(FORMATS)}")
    if not path.is_file():
        raise ValueError(f"no file {path} (looked in {path.resolve().parent}); a hub data set has no suffix")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    if split != "train":
        raise ValueError(f"{path} has the one split 'train', not {split!r}; put each split in a file of its own")

    if form == "csv":
        _check_header(path, columns)
    if form == "json" and (half := HALF.search(path.read_bytes())):
        raise ValueError(
            f"{path}: at byte {half.start(1)} stands {half[1].decode()}, half a character (a lone surrogate), which no "
            "text can hold; whatever wrote the file cut a text inside one: write it anew"
        )

    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    options = {"csv": {"keep_default_na": False, "na_values": [""]}}.get(form, {})
    with _quiet(), tempfile.TemporaryDirectory(prefix="lab-read-") as scratch:
        try:
            data = getattr(Dataset, f"from_{form}")(str(path), cache_dir=scratch, keep_in_memory=True, **options)
            return data.to_pandas()
        except (DatasetGenerationError, OSError, ValueError) as error:
            cause = error.__cause__ or error
            if "corresponds to no data" in str(cause):  # a header alone, or an empty list
                raise ValueError(f"{path} has no rows") from error
            raise ValueError(f"{path} does not parse as {form}: {cause}") from error


def _check_header(path: Path, columns: list[str]) -> None:
    """pandas would call the second of two equal columns "query.1" and go on with the first."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        names = next(csv.reader(file), [])
    if twice := [name for name in columns if names.count(name) > 1]:
        raise ValueError(f"{path} has the column {twice} more than once: {names}; rename or drop the others")


def _split_of(name: str, split: str, shown: str | os.PathLike, own: bool) -> pd.DataFrame:
    """One split of a data set that `load_dataset` finds: a folder of the user's own, or a name on the hub."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    with _quiet(), tempfile.TemporaryDirectory(prefix="lab-read-") as scratch:
        try:
            loaded = load_dataset(name, cache_dir=scratch if own else None)
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: it ships a script
            why = f"{type(error).__name__}: {error}"
            if own:
                raise ValueError(f"the folder {shown} cannot be read as a data set ({why})") from error
            raise ValueError(
                f"{shown!r} is no file here and cannot be read as a hub data set ({why}); "
                f"a file ends in one of {list(FORMATS)}, a data set is 'owner/name' and needs a network"
            ) from error
        if split not in loaded:
            raise ValueError(f"{shown} has no split {split!r}; it has {sorted(loaded)}")
        return loaded[split].to_pandas()


def _check(table: pd.DataFrame, columns: list[str], source: str | os.PathLike) -> None:
    if missing := [name for name in columns if name not in table.columns]:
        raise ValueError(f"{source} has no column {missing}; it has {list(table.columns)}")
    if table.empty:
        raise ValueError(f"{source} has no rows")
    for name in columns:
        holes = np.flatnonzero(table[name].isna())
        if len(holes):
            first = ", ".join(map(str, holes[:10])) + (", ..." if len(holes) > 10 else "")
            raise ValueError(
                f"{source}: column {name!r} has no value in {len(holes)} of {len(table)} rows, counted from 0: "
                f"{first}; fill or drop them"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars of `datasets`, dead widgets in a report, and without its log of what we raise anyway."""
    import datasets

    shown, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()
