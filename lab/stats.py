"""What a difference means: estimates with intervals."""

import numpy as np
import xarray as xr


def bootstrap(
    samples: xr.DataArray, along: str = "example", *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """The mean along one axis with its percentile bootstrap interval: variables estimate, low, high.

    The same resampled examples serve all other axes (a paired bootstrap), so the interval of a difference is that
    of `bootstrap(a - b)`. level: the share of resampled means inside, e.g. 0.95. One example more or less is the
    unit: where examples come in groups, average within the groups first.

    Efron, 1979; percentile interval as in Efron & Tibshirani, 1993, section 13.3 (numbers recalled).
    Raises ValueError for an unknown axis, fewer than two examples, NaN, draws below 1 or a level outside (0, 1).
    """
    if along not in samples.dims:
        raise ValueError(f"no axis {along!r}; there are {samples.dims}")
    n = samples.sizes[along]
    if n < 2 or draws < 1 or not 0 < level < 1:
        raise ValueError(f"got {n} samples, draws={draws}, level={level}; needed are 2 or more, 1 or more, and (0, 1)")
    values = samples.astype(float)
    if bool(values.isnull().any()):
        raise ValueError(f"{int(values.isnull().sum())} of {values.size} samples are NaN; drop or fill them first")
    # how often each example was drawn, [draws, n]: resampled means are then one matrix product
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    weights = xr.DataArray(counts / n, dims=("draw", along))
    means = xr.dot(weights, values, dim=along)
    tail = (1 - level) / 2
    low, high = (means.quantile(q, dim="draw").drop_vars("quantile") for q in (tail, 1 - tail))
    result = xr.Dataset({"estimate": values.mean(along), "low": low, "high": high})
    return result.assign_attrs(level=level, draws=draws, n=n)


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
