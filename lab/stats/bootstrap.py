"""Estimates with intervals, by drawing the examples again."""

import numpy as np
import xarray as xr

from lab.stats.samples import between, check_draws, checked, stretch


def bootstrap(
    samples: xr.DataArray, along: str = "example", *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """The mean along one axis with its bootstrap interval: variables estimate, low, high.

    The same resampled examples serve all other axes (a paired bootstrap), so the interval of a difference is that
    of `bootstrap(a - b)`. level: how often the interval is to hold the truth, e.g. 0.95. One example more or less is
    the unit: where examples come in groups, average within the groups first, or draw them level by level with `levels`.

    Percentiles alone are too narrow for few samples: of normal ones they hold the truth 51, 75, 84 and 90 times in a
    hundred for 2, 3, 5 and 10. So the resampled means are moved away from the estimate by sqrt(n / (n - 1)) t / z, with
    Student's t of n - 1 degrees of freedom, and the interval is as wide as their standard deviation makes it, lopsided
    as their percentiles are: of two samples 12.7 times their half distance to either side. Skewed samples of fewer
    than twenty or so still miss more often than they say.

    Efron, 1979; Efron & Tibshirani, 1993, section 13.3; Hesterberg, 2015, The American Statistician 69(4) (recalled).
    Raises ValueError for an unknown axis, fewer than two examples, NaN, draws below 1 or a level outside (0, 1).
    """
    values = checked(samples, [along])
    check_draws(draws, level)
    n, estimate = values.sizes[along], values.mean(along)
    means = xr.dot(weights(values, along, draws, np.random.default_rng(seed)), values, dim=along)
    result = xr.Dataset({"estimate": estimate, **between(stretch(n, level) * (means - estimate), estimate, level)})
    return result.assign_attrs(level=level, draws=draws, n=n)


def weights(values: xr.DataArray, along: str, draws: int, generator: np.random.Generator) -> xr.DataArray:
    """How often each example was drawn, as shares [draw, along]: a resampled mean is then one product."""
    n = values.sizes[along]
    return xr.DataArray(generator.multinomial(n, np.full(n, 1 / n), size=draws) / n, dims=("draw", along))
