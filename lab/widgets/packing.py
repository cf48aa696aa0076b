"""Points and colours as bytes that a graphics card takes as they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lab.plots.style import COLOURS
from lab.widgets.live import finite, plain

WIDE = 200_000  # points up to which float32 is sent; above, two bytes a number, which show when zoomed in far
EDGE, NOWHERE = 60_000, 65_535  # uint16 of 1.0, and of a point that has no place
OTHER = "#888888"
MANY = 40  # different values up to which whole numbers are classes


def packed(xy: np.ndarray) -> tuple[str, bytes]:
    """Places in [-1, 1] as ("float32" or "uint16", bytes); a point that has none lies beyond: 2, or NOWHERE."""
    there = np.isfinite(xy)
    if len(xy) <= WIDE:
        return "float32", np.where(there, xy, 2).astype("<f4").tobytes()
    return "uint16", np.where(there, np.rint((np.nan_to_num(xy) + 1) / 2 * EDGE), NOWHERE).astype("<u2").tobytes()


@dataclass(frozen=True, eq=False)
class Hues:
    """A column as colours: one byte a row, the palette the bytes point into, and what a legend says of it."""

    codes: np.ndarray  # uint8 [example]; the last of the palette is for rows without a value, and all other classes
    palette: tuple[str, ...]
    legend: dict[str, Any]


def hues(column: pd.Series) -> Hues:
    """Classes get a colour each, the commonest first, up to the number of colours; numbers a scale, low to high."""
    kind = column.dtype
    numbers = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    if numbers and (pd.api.types.is_float_dtype(kind) or column.nunique() > MANY):
        return _scale(pd.to_numeric(column).to_numpy(float, na_value=np.nan))
    return _classes(column)


def _classes(column: pd.Series) -> Hues:
    gone = column.isna().tolist()
    words = pd.Series(
        [None if no else plain(value, most=60) for value, no in zip(column, gone, strict=True)], dtype=object
    )
    counts = words.value_counts()
    shown = list(counts.index[: len(COLOURS) - 1])
    palette = (*COLOURS[: len(shown)], OTHER)
    codes = words.map({name: i for i, name in enumerate(shown)}).fillna(len(shown)).to_numpy(np.uint8)
    rest = int((codes == len(shown)).sum())
    entries = [{"label": name, "colour": palette[i], "n": int(counts.iloc[i])} for i, name in enumerate(shown)]
    if rest:
        left = len(counts) - len(shown)
        label = f"{left} others" if left else "no value"
        entries.append({"label": label, "colour": OTHER, "n": rest})
    return Hues(codes, palette, {"kind": "classes", "entries": entries})


def _scale(values: np.ndarray) -> Hues:
    real = values[np.isfinite(values)]
    low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 1.0)
    place = (values - low) / (high - low if high > low else 1)
    codes = np.where(np.isfinite(values), np.rint(np.clip(np.nan_to_num(place), 0, 1) * 254), 255).astype(np.uint8)
    about = {"kind": "scale", "low": low, "high": high, "missing": int((codes == 255).sum())}
    return Hues(codes, (*_cividis(255), OTHER), finite(about))


def _cividis(n: int) -> tuple[str, ...]:
    from plotly.colors import sample_colorscale

    triples = sample_colorscale("Cividis", np.linspace(0, 1, n).tolist(), colortype="tuple")
    return tuple("#" + "".join(f"{round(255 * part):02x}" for part in triple) for triple in triples)
