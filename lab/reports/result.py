"""Numbers that a notebook hands over by name: to its record, and to the table of a sweep."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

MIME = "application/vnd.lab.result+json"


@dataclass(frozen=True)
class Result:
    """Shown as a line of text, and read by `lab report` and `lab sweep` from the cell's output."""

    values: dict[str, object]

    def _repr_mimebundle_(self, **_: object) -> dict:
        said = ", ".join(
            f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
            for name, value in self.values.items()
        )
        return {MIME: self.values, "text/plain": said}


def result(**values: object) -> Result:
    """The last expression of a cell, it hands these values over: result(mrr=float(mrr.estimate), best="mean").

    Numbers (numpy's and arrays of one entry too), truth values, words and None; NaN and infinity become None, which
    JSON can say. ValueError for anything else: an array is not one result, so select or average first.
    """
    return Result({name: _plain(name, value) for name, value in values.items()})


def _plain(name: str, value: object) -> object:
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    match value:
        case None | bool() | str():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
    raise ValueError(f"{name} must be one number, truth value or word; got {type(value).__name__}: select or average")
