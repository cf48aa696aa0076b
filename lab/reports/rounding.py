"""Arrays of a figure without the digits that no eye sees: six of them are kept, more where values lie close together.

A number drawn is off by at most half of its sixth digit or a hundred-thousandth of its array's span, whichever is
less: a fiftieth of a pixel on a screen of two thousand, and exact again to a pixel at a zoom of fifty.
"""

import base64
import math
from collections.abc import Iterable, Mapping

import numpy as np

DIGITS = 6
SEEN = 1e-5  # of an array's span


def light(figure: Mapping) -> dict:
    """The figure with the numbers of its data and frames rounded; the layout, whose numbers are chosen, stays."""
    parts = {name: _rounded(figure[name]) for name in ("data", "frames") if figure.get(name)}
    return {**figure, **parts}


def array(values: object) -> np.ndarray | None:
    """Plotly's array as numpy: a list, or {dtype, bdata, shape} as it writes arrays; None for anything else."""
    if isinstance(values, list | tuple):
        return np.asarray(values, dtype=object)
    if not (isinstance(values, Mapping) and "bdata" in values and "dtype" in values):
        return None
    flat = np.frombuffer(base64.b64decode(values["bdata"]), dtype=np.dtype(values["dtype"]).newbyteorder("<"))
    shape = values.get("shape")
    return flat.reshape([int(n) for n in str(shape).split(",")]) if shape is not None else flat


def _rounded(value: object) -> object:
    if isinstance(value, Mapping):
        if "bdata" in value:
            return _packed(value)
        return {name: _rounded(part) for name, part in value.items()}
    if not isinstance(value, list):
        return value
    if not _numbers(value):
        return [_rounded(part) for part in value]
    digits = _digits(x for x in value if x is not None)
    return [float(f"{x:.{digits}g}") if isinstance(x, float) and math.isfinite(x) else x for x in value]


def _numbers(values: list) -> bool:
    return any(isinstance(x, float) for x in values) and all(
        x is None or (isinstance(x, int | float) and not isinstance(x, bool)) for x in values
    )


def _digits(values: Iterable[float | int]) -> int:
    """Enough significant digits that neighbours within the span stay apart: more for 1000.001 to 1000.002."""
    finite = [float(x) for x in values if math.isfinite(x)]
    largest, span = max(map(abs, finite), default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    if not span or not math.isfinite(span):
        return 15
    return min(17, DIGITS + max(0, math.ceil(math.log10(largest / span))))


def _packed(value: Mapping) -> Mapping:
    """A packed array of 64-bit floats in 32 bits, where that is as good."""
    if value.get("dtype") != "f8":
        return value
    wide = array(value)
    finite = wide[np.isfinite(wide)]
    if not finite.size or np.abs(finite).max() > np.finfo(np.float32).max:
        return value
    with np.errstate(under="ignore"):
        narrow = wide.astype("<f4")
    off = np.abs(finite - narrow[np.isfinite(wide)]).max()
    lost = (narrow == 0) & (wide != 0)  # too small for 32 bits, and seen on a logarithmic axis
    if lost.any() or off > SEEN * (finite.max() - finite.min()):
        return value
    return {**value, "dtype": "f4", "bdata": base64.b64encode(narrow.tobytes()).decode()}
