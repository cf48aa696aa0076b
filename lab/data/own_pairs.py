"""A user's own pairs: read, looked through, and split so that no text stands in two parts."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lab.data.files import read

FEWEST = 20  # different pairs, below which nothing can be held out
SIDES = ("query", "positive")
SHARES = {"training": 0.6, "validation": 0.2, "test": 0.2}


def pairs(
    source: str | os.PathLike,
    columns: Sequence[str] = SIDES,
    *,
    split: str = "train",
    n: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A file of pairs as a table with the columns query, positive, and what else the file has.

    source: as in `read`: jsonl, json, csv, parquet, or a hub data set's name. columns: what the two sides are called
    there. n: drawn under the seed. Pairs that stand in the file again are left out, and counted in .attrs["repeated"].

    Raises ValueError, with the rows, for what `read` refuses, columns that are not two, sides that are no text or
    empty, sides that are equal in every pair, fewer than twenty different pairs, and a column whose name begins with
    "negative", which training takes for texts, without one text in it.
    """
    if len(columns) != 2 or columns[0] == columns[1]:
        raise ValueError(f"a pair has two sides, so two columns; got {list(columns)}")
    table = read(source, columns=columns, split=split, n=n, seed=seed)
    for name in columns:
        wrong = ~_is_text(table[name])
        if wrong.any():
            rows = ", ".join(map(str, np.flatnonzero(wrong)[:5])) + (", ..." if wrong.sum() > 5 else "")
            raise ValueError(
                f"{source}: {int(wrong.sum())} of {len(table)} rows have no text in {name!r}, counted from 0: {rows}; "
                "drop or fill them"
            )
    for name in table.columns:
        if str(name).startswith("negative") and not _is_text(table[name]).any():
            raise ValueError(
                f"{source}: the column {name!r} has no text in it, and a column whose name begins with 'negative' is "
                "trained on as texts that do not belong to the query; call it something else, or leave it out"
            )
    taken = [name for name in SIDES if name in table.columns and name not in columns]
    table = table.drop(columns=taken).rename(columns=dict(zip(columns, SIDES, strict=True)))
    different = table.drop_duplicates(list(SIDES)).reset_index(drop=True)
    if (different["query"] == different["positive"]).all():
        raise ValueError(
            f"{source}: in every pair both sides are the same text; are {list(columns)} the columns meant?"
        )
    if len(different) < FEWEST:
        raise ValueError(
            f"{source} has {len(different)} different pairs; needed are {FEWEST}, some of them to hold out"
        )
    different.attrs["repeated"] = len(table) - len(different)
    return different


def split_pairs(table: pd.DataFrame, shares: Mapping[str, float] = SHARES, seed: int = 0) -> dict[str, pd.DataFrame]:
    """The pairs in parts of these shares, {name: table}, with no text of a pair in two of them.

    Pairs that have a text in common, on either side, also over others, stay together and are dealt out, the largest
    group first, to the part that lacks most; negatives may stand anywhere. Raises ValueError for shares that are not
    positive or do not sum to 1, a side that stands twice, and where so much hangs together that a part gets less than
    half of its share.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares are positive and sum to 1; got {dict(shares)}")
    if list(table.columns).count("query") != 1 or list(table.columns).count("positive") != 1:
        raise ValueError(f"pairs have one column query and one positive; got {list(map(str, table.columns))}")
    n = len(table)
    # a text that asks here and answers there is one text
    ends = pd.factorize(pd.concat([table[name] for name in SIDES]))[0].reshape(2, n)
    graph = coo_array((np.ones(n), (ends[0], ends[1])), shape=(2 * n, 2 * n))
    group = connected_components(graph, directed=False)[1][ends[0]]
    names, unit, sizes = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    lacking = {name: share * n for name, share in shares.items()}
    home = np.empty(len(names), dtype=object)
    for one in order[np.argsort(-sizes[order], kind="stable")]:
        home[one] = max(lacking, key=lacking.get)
        lacking[home[one]] -= sizes[one]
    parts = {name: table[home[unit] == name].reset_index(drop=True) for name in shares}
    if short := {name: len(part) for name, part in parts.items() if len(part) < max(1, 0.5 * shares[name] * n)}:
        raise ValueError(
            f"too much hangs together: of {n} pairs {sizes.max()} share texts with each other, and {short} is all that "
            "is left for those parts; give pairs of more different texts"
        )
    return parts


def _is_text(column: pd.Series) -> pd.Series:
    return column.map(lambda text: isinstance(text, str) and bool(text.strip())).astype(bool)
