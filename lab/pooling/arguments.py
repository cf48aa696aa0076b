"""What operators are built with, checked in words: an error of torch's would come later, from further inside."""

import math
from numbers import Integral, Real
from typing import Any


def check_counts(least: int = 1, **given: Any) -> None:
    """TypeError for what is no whole number, ValueError for one below `least`."""
    for name, value in given.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be a whole number, {least} or more; got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be {least} or more; got {value}")


def check_positive(**given: Any) -> None:
    """TypeError for what is no number, ValueError for one that is not positive and finite; NaN is not."""
    for name, value in given.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, positive and finite; got {value!r}")
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {value}")
