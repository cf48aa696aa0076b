"""Pairs, or texts with labels, to train on, looked through before anything is trained."""

import re
from itertools import chain
from typing import Any

import pandas as pd

from lab.data.ledger import of_texts

HALF = re.compile("[\ud800-\udfff]")
SHOWN = 5  # rows that a message names


def checked(
    pairs: object, model: Any, batch: int, *, truncate: bool, no_duplicates: bool, what: str = "pairs"
) -> pd.DataFrame:
    """The columns query, positive and negatives, in this order and as strings; or text and label, where these are.

    Raises ValueError for missing columns or one that stands twice, fewer than two rows, a batch below 2 or above the
    rows, sides that are empty or hold half a character, a negative that is its row's own positive, equal queries or
    positives unless no_duplicates, and texts beyond the model's window unless truncate; for labels that are no whole
    numbers from 0 on, and where no batch could hold two texts of each of two labels; TypeError for what is no table.
    """
    if not isinstance(pairs, pd.DataFrame):
        raise TypeError(
            f"{what} must be a pandas DataFrame with the columns query and positive; got {type(pairs).__name__}"
        )
    if not pairs.columns.is_unique:
        twice = pairs.columns[pairs.columns.duplicated()].unique().tolist()
        raise ValueError(f"{what} have the columns {twice} more than once; keep one of each")
    if "query" not in pairs and {"text", "label"} <= set(pairs):
        table = _labelled(pairs, batch, what, no_duplicates)
        if not truncate:
            _refuse_long(table[["text"]], model, what)
        return table
    if missing := [name for name in ("query", "positive") if name not in pairs]:
        raise ValueError(
            f"{what} lack {missing}; needed are query and positive, negatives are columns whose names begin with "
            f'"negative"; got {list(map(str, pairs.columns))}: rename with pairs.rename(columns={{...}})'
        )
    if batch < 2:
        raise ValueError(f"batch must be 2 or more: the other pairs of a batch are the negatives; got {batch}")
    if len(pairs) < max(2, batch):
        raise ValueError(f"{what} must be {max(2, batch)} or more, to fill one batch; got {len(pairs)}")
    columns = ["query", "positive", *(name for name in pairs if str(name).startswith("negative"))]
    table = pairs[columns].reset_index(drop=True)
    _refuse_no_text(table, what)
    for name in columns[2:]:
        same = table[name] == table["positive"]
        if same.any():
            raise ValueError(
                f"{int(same.sum())} of {len(table)} {what} have their own positive as {name!r}, {_rows(same)}: nothing "
                "tells a text from itself; drop them, or draw another negative"
            )
    if not no_duplicates:
        _refuse_duplicates(table, what)
    if not truncate:
        _refuse_long(table, model, what)
    return table


def held_out_pairs(
    held_out: object, table: pd.DataFrame, model: Any, *, truncate: bool, no_duplicates: bool
) -> pd.DataFrame:
    """Held-out rows of the same columns as the table, checked as it was.

    With no_duplicates those that repeat an earlier query or positive are left out: they would stand as each other's
    negatives in every look.
    """
    what = "held-out texts" if "label" in table else "held-out pairs"
    least = 4 if "label" in table else 2
    rest = checked(held_out, model, least, truncate=truncate, no_duplicates=no_duplicates, what=what)
    if list(rest) != list(table):
        raise ValueError(f"pairs have the columns {list(table)}, held-out pairs {list(rest)}; they must be the same")
    if no_duplicates:
        rest = rest[~(rest["query"].duplicated() | rest["positive"].duplicated())].reset_index(drop=True)
        if len(rest) < 2:
            raise ValueError(f"{what} must hold 2 or more that repeat no query or positive; got {len(rest)}")
    return rest


def _labelled(pairs: pd.DataFrame, batch: int, what: str, no_duplicates: bool) -> pd.DataFrame:
    if no_duplicates:
        raise ValueError("no_duplicates keeps equal texts of pairs apart; these are texts with labels: leave it out")
    if batch < 4 or batch % 2:
        raise ValueError(
            f"with labels a batch holds two texts or more of each: it must be even, 4 or more; got {batch}"
        )
    table = pairs[["text", "label"]].reset_index(drop=True)
    _refuse_no_text(table[["text"]], what)
    label = table["label"]
    if not pd.api.types.is_integer_dtype(label) or label.isna().any() or (label < 0).any():
        raise ValueError(
            f"labels must be whole numbers from 0 on; got {label.dtype}, such as {label.iloc[:3].tolist()}: number "
            "them with pd.factorize(labels)[0]"
        )
    twos = (label.value_counts() // 2).sort_values(ascending=False)
    # they take turns by twos until one label alone is left
    fill = int(2 * twos.clip(upper=twos.iloc[1]).sum()) if len(twos) > 1 else 0
    if fill < batch:
        raise ValueError(
            f"{len(table)} {what} of {len(twos)} labels fill {fill} places of a batch of {batch}, in which two or more "
            "texts of each of two or more labels must stand; give more of them, or take a smaller batch"
        )
    return table.astype({"label": "int64"})


def _refuse_no_text(table: pd.DataFrame, what: str) -> None:
    for name in table:
        empty = ~table[name].map(lambda text: isinstance(text, str) and bool(text.strip())).astype(bool)
        if empty.all():
            raise ValueError(
                f"{what} have no text at all in {name!r}: call it something else if it is no column of texts (names "
                'that begin with "negative" are of negatives), or drop it'
            )
        if empty.any():
            raise ValueError(
                f"{int(empty.sum())} of {len(table)} {what} have no text in {name!r}, {_rows(empty)}; drop them"
            )
        half = table[name].map(lambda text: HALF.search(text) is not None).astype(bool)
        if half.any():
            raise ValueError(
                f"{int(half.sum())} of {len(table)} {what} have half a character (a lone surrogate, which no encoding "
                f'writes) in {name!r}, {_rows(half)}; replace it: text.encode("utf-8", "replace").decode()'
            )


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
    texts = chain(pairs.columns, *(map(str, pairs[name]) for name in pairs))
    return f"{len(pairs)} rows, {of_texts(texts)[:16]}"
