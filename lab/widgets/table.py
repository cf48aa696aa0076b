"""The table behind the points: its texts, the columns a colour can tell apart, the rows that hold a word."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lab.widgets.live import plain

LOOKED_AT = 20_000  # rows that tell whether a column's words come again


def table_of(table: Any) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        names = table.columns.map(plain)
        if repeated := names[names.duplicated()].tolist():
            raise ValueError(f"two columns of the table have one name, {repeated}")
        return table.rename(columns=plain).reset_index(drop=True)
    if isinstance(table, str) or not isinstance(table, Sequence | pd.Series | np.ndarray):
        raise TypeError(f"table must be a DataFrame or a list of texts; got {type(table).__name__}")
    return pd.DataFrame({"text": pd.Series(list(table), dtype=object)})


def text_column(data: pd.DataFrame, text: str | None) -> str:
    if text is not None and text not in data:
        raise ValueError(f"the table has no column {text!r}; it has {list(data.columns)}")
    words = [name for name in data if any(isinstance(value, str) for value in data[name].iloc[:100])]
    order = [text, *(name for name in ("text", "summary", "sentence") if name in data), *words, *data.columns]
    found = next((name for name in order if name is not None), None)
    if found is None:
        raise ValueError("the table has no column at all, so there is no text to show")
    return found


def to_colour(data: pd.DataFrame, text: str) -> list[str]:
    """Columns that a colour can tell apart: numbers, and words that come again."""
    found = []
    for name in data.columns:
        column = data[name]
        if name == text:
            continue
        if pd.api.types.is_numeric_dtype(column.dtype):
            found.append(name)
            continue
        some = column.iloc[:LOOKED_AT]
        if len({plain(value, 60) for value in some}) <= max(20, len(some) // 3):
            found.append(name)
    return found


class Words:
    """words.rows_with("a word"): the numbers of the rows that contain it, in any case, in any column."""

    def __init__(self, data: pd.DataFrame) -> None:
        # Python's own lower case: pandas' has no half characters
        self.columns = [[str(value).lower() for value in data[name]] for name in data.columns]
        self.n = len(data)

    def rows_with(self, query: str) -> np.ndarray:
        word = query.strip().lower()
        hit = np.zeros(self.n, bool)
        for column in self.columns if word else []:
            hit |= np.fromiter((word in text for text in column), bool, self.n)
        return np.flatnonzero(hit)
