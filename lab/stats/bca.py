"""The bootstrap interval corrected for bias and skewness, for small or lopsided samples."""

import numpy as np
import xarray as xr

from lab.stats.bootstrap import weights
from lab.stats.samples import check_draws, checked, stretch


def bca(
    samples: xr.DataArray, along: str = "example", *, draws: int = 5000, level: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """The mean along one axis with its BCa bootstrap interval: variables estimate, low, high.

    The bounds are the resampled means at the shares Phi(z0 + (z0 + z_q) / (1 - a (z0 + z_q))), q the two tails;
    z0 = Phi^-1 of the share of resampled means below the estimate (equal ones count half), and for the mean
    a = sum (x_i - m)^3 / (6 (sum (x_i - m)^2)^1.5), from leaving each example out. z0 = a = 0 is the percentile
    interval. Both bounds are then moved away from the estimate by sqrt(n / (n - 1)) t / z, as `bootstrap` does and for
    its reason. Samples that are all equal have an interval of no width. Paired over all other axes, as `bootstrap`.

    Efron, 1987, JASA 82; Efron & Tibshirani, 1993, section 14.3; Hesterberg, 2015 (all recalled). Raises as `bootstrap`
    does.
    """
    from scipy.special import ndtr, ndtri

    values = checked(samples, [along])
    check_draws(draws, level)
    means = xr.dot(weights(values, along, draws, np.random.default_rng(seed)), values, dim=along)
    means = np.sort(means.transpose("draw", ...).values, axis=0)
    estimate = values.mean(along)
    # a mean of equal numbers may differ from another in the last digit
    slack = 1e-12 * np.abs(values).max(along).values
    below = ((means < estimate.values - slack).mean(0) + (means <= estimate.values + slack).mean(0)) / 2
    # a share of none or all, of few draws, would put the bounds at infinity
    z0 = ndtri(np.clip(below, 0.5 / draws, 1 - 0.5 / draws))
    away = values - estimate
    square = (away**2).sum(along).values
    a = (away**3).sum(along).values / np.where(square > 0, 6 * square**1.5, 1)
    bounds = {}
    for name, tail in (("low", (1 - level) / 2), ("high", (1 + level) / 2)):
        z = z0 + ndtri(tail)
        bound = _at(means, ndtr(z0 + z / (1 - a * z)))
        bounds[name] = estimate + stretch(values.sizes[along], level) * (bound - estimate.values)
    result = xr.Dataset({"estimate": estimate, **bounds})
    return result.assign_attrs(level=level, draws=draws, n=values.sizes[along])


def _at(ordered: np.ndarray, share: np.ndarray | float) -> np.ndarray | float:
    """The quantile of each column at its own share, between neighbours in proportion."""
    place = np.asarray(share)[None] * (len(ordered) - 1)
    under = np.floor(place).astype(int)
    over = np.minimum(under + 1, len(ordered) - 1)
    low, high = (np.take_along_axis(ordered, at, axis=0) for at in (under, over))
    return (low + (place - under) * (high - low))[0]
