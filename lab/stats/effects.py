"""How large a difference is, in units that do not shrink with the number of examples."""

import numpy as np
import xarray as xr

from lab.stats.samples import checked


def cohen_dz(differences: xr.DataArray, along: str = "seed") -> xr.DataArray:
    """Mean of the paired differences over their standard deviation (n - 1). Without spread: 0, or infinite.

    Cohen, 1988, section 2.3.5 (recalled). Raises ValueError for fewer than two pairs and NaN.
    """
    values = checked(differences, [along])
    mean, spread = values.mean(along), values.std(along, ddof=1)
    # differences that are all 0.1 have a spread of rounding alone
    flat = spread <= 1e-12 * np.abs(values).max(along)
    return xr.where(flat, np.sign(mean) * xr.where(mean == 0, 0, np.inf).fillna(0), mean / spread.where(~flat, 1))


def rank_biserial(differences: xr.DataArray, along: str = "seed") -> xr.DataArray:
    """(W+ - W-) / (W+ + W-), W the sums of the ranks of |difference| by sign; in [-1, 1].

    The effect size beside the signed-rank test; differences of 0 are left out, all 0 gives 0. Kerby, 2014 (recalled).
    Raises ValueError for fewer than two pairs and NaN.
    """
    values = checked(differences, [along])
    signed = signed_ranks(values.transpose(along, ...).values)
    total = np.abs(signed).sum(0)
    return values.mean(along).copy(data=signed.sum(0) / np.where(total > 0, total, 1))


def cliffs_delta(a: xr.DataArray, b: xr.DataArray, along: str = "seed") -> xr.DataArray:
    """P(a > b) - P(a < b) over all pairs of one of a and one of b, in [-1, 1]: for samples that are not paired.

    Cliff, 1993 (recalled). Other axes must be the same in both. Raises ValueError for an empty sample and NaN.
    """
    a, b = (checked(one, [along], fewest=1).rename({along: name}) for one, name in ((a, "_a"), (b, "_b")))
    a, b = (one.drop_vars(name, errors="ignore") for one, name in ((a, "_a"), (b, "_b")))
    return np.sign(a - b).mean(["_a", "_b"])


def signed_ranks(differences: np.ndarray) -> np.ndarray:
    """Rank of each |difference| down its column, ties sharing their mean rank, with its sign; zeros count for nothing.

    differences: [pairs, cells].
    """
    from scipy.stats import rankdata

    # zeros hold the lowest ranks: what is above them moves down by their number
    return (rankdata(np.abs(differences), axis=0) - (differences == 0).sum(0)) * np.sign(differences)
