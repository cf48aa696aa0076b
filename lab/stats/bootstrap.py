"""Estimates with intervals, by drawing the examples again."""

import numpy as np
import xarray as xr

from lab.stats.samples import between, check_draws, checked


def bootstrap(
    samples: xr.DataArray, along: str = "example", *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """The mean along one axis with its percentile bootstrap interval: variables estimate, low, high.

    The same resampled examples serve all other axes (a paired bootstrap), so the interval of a difference is that
    of `bootstrap(a - b)`. level: the share of resampled means inside, e.g. 0.95. One example more or less is the
    unit: where examples come in groups, average within the groups first, or draw them level by level with `levels`.

    Efron, 1979; percentile interval as in Efron & Tibshirani, 1993, section 13.3 (numbers recalled).
    Raises ValueError for an unknown axis, fewer than two examples, NaN, draws below 1 or a level outside (0, 1).
    """
    values = checked(samples, [along])
    check_draws(draws, level)
    means = xr.dot(weights(values, along, draws, np.random.default_rng(seed)), values, dim=along)
    result = xr.Dataset({"estimate": values.mean(along), **between(means, level)})
    return result.assign_attrs(level=level, draws=draws, n=values.sizes[along])


def weights(values: xr.DataArray, along: str, draws: int, generator: np.random.Generator) -> xr.DataArray:
    """How often each example was drawn, as shares [draw, along]: a resampled mean is then one product."""
    n = values.sizes[along]
    return xr.DataArray(generator.multinomial(n, np.full(n, 1 / n), size=draws) / n, dims=("draw", along))
