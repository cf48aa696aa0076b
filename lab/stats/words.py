"""The best cell by name, and a difference as a sentence may hold it."""

import xarray as xr


def best(scores: xr.DataArray) -> dict[str, object]:
    """The labels of the highest score, {axis: label}, ready for `.sel(**best(scores))`; the first of equals.

    Chosen among many, the best looks better than it is: judge it on examples it was not chosen on.
    """
    if not scores.ndim or scores.size == 0:
        raise ValueError(f"nothing to choose from in scores of shape {scores.shape}")
    return {str(axis): scores[axis].values[int(at)].item() for axis, at in scores.argmax(...).items()}


def in_words(interval: xr.Dataset) -> str:
    """A difference and its interval as a sentence may hold them: "+0.031 [+0.012, +0.050], a difference".

    interval: estimate, low, high of one number, from `bootstrap(a - b)`. It is called a difference when the interval
    leaves out zero.
    """
    estimate, low, high = (float(interval[name]) for name in ("estimate", "low", "high"))
    call = "a difference" if low > 0 or high < 0 else "no difference that these examples can show"
    return f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}], {call}"
