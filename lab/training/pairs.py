"""Pairs to train on, looked through before anything is trained."""

from itertools import chain
from typing import Any

import pandas as pd

from lab.data.ledger import of_texts

SHOWN = 5  # rows that a message names


def checked(
    pairs: object, model: Any, batch: int, *, truncate: bool, no_duplicates: bool, what: str = "pairs"
) -> pd.DataFrame:
    """The columns query, positive and negatives, in this order and as strings.

    Raises ValueError for columns that are missing or there twice, a column of negatives without a text, fewer than two
    rows, a batch below 2 or above the rows, sides that are empty, equal queries or positives unless no_duplicates, and
    texts beyond the model's window unless truncate; TypeError for
    what is no table.
    """
    if not isinstance(pairs, pd.DataFrame):
        raise TypeError(
            f"{what} must be a pandas DataFrame with the columns query and positive; got {type(pairs).__name__}"
        )
    if missing := [name for name in ("query", "positive") if name not in pairs]:
        raise ValueError(
            f"{what} lack {missing}; needed are query and positive, negatives are columns whose names begin with "
            f'"negative"; got {list(map(str, pairs.columns))}: rename with pairs.rename(columns={{...}})'
        )
    names = list(pairs.columns)
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{what} have the columns {twice} more than once; got {list(map(str, names))}: drop the others"
        )
    if batch < 2:
        raise ValueError(f"batch must be 2 or more: the other pairs of a batch are the negatives; got {batch}")
    if len(pairs) < max(2, batch):
        raise ValueError(f"{what} must be {max(2, batch)} or more, to fill one batch; got {len(pairs)}")
    columns = ["query", "positive", *(name for name in pairs if str(name).startswith("negative"))]
    table = pairs[columns].reset_index(drop=True)
    for name in columns:
        empty = ~table[name].map(lambda text: isinstance(text, str) and bool(text.strip())).astype(bool)
        if empty.all() and name not in ("query", "positive"):
            raise ValueError(
                f'{what} have no text at all in {name!r}: a column whose name begins with "negative" is one of '
                "negatives; call it something else, or drop the column"
            )
        if empty.any():
            raise ValueError(
                f"{int(empty.sum())} of {len(table)} {what} have no text in {name!r}, {_rows(empty)}; drop them"
            )
    if not no_duplicates:
        _refuse_duplicates(table, what)
    if not truncate:
        _refuse_long(table, model, what)
    return table


def _refuse_duplicates(table: pd.DataFrame, what: str) -> None:
    for name in ("positive", "query"):
        again = table[name].duplicated()
        if again.any():
            raise ValueError(
                f"{int(again.sum())} of {len(table)} {what} repeat an earlier {name}, {_rows(again)}: in a batch they "
                "are each other's negatives. Drop them, or keep them out of the same batch with no_duplicates=True"
            )


def _refuse_long(table: pd.DataFrame, model: Any, what: str) -> None:
    window = model.max_seq_length
    if window is None or model.tokenizer is None:
        return
    for name in table:
        # a character is four bytes at the most, and each of them a token at the worst; some stand around a text
        maybe = table[name][table[name].str.len() > window // 8]
        if maybe.empty:
            continue
        ids = model.tokenizer(maybe.tolist(), truncation=False, verbose=False)["input_ids"]
        beyond = table[name].map(lambda _: False)
        beyond[maybe.index] = [len(row) > window for row in ids]
        if beyond.any():
            raise ValueError(
                f"{int(beyond.sum())} of {len(table)} {what} have a {name!r} beyond the model's window of {window} "
                f"tokens, {_rows(beyond)}, {max(map(len, ids))} at the most: shorten them, or cut them there with "
                "truncate=True"
            )


def _rows(wrong: pd.Series) -> str:
    rows = wrong.index[wrong].tolist()
    return f"rows {', '.join(map(str, rows[:SHOWN]))}{' ...' if len(rows) > SHOWN else ''}"


def checksum(pairs: pd.DataFrame | None) -> str:
    """What tells these pairs from others, for a checkpoint to say."""
    if pairs is None:
        return "none"
    texts = chain(pairs.columns, *(pairs[name] for name in pairs))
    return f"{len(pairs)} rows, {of_texts(texts)[:16]}"
