"""Whether two sets of scores put the same things first."""

import numpy as np
import xarray as xr

from lab.stats.samples import checked


def ranks_agree(one: xr.DataArray, other: xr.DataArray, over: str) -> xr.DataArray:
    """Kendall's tau-a: the share of pairs that both put in the same order, less the share put in opposite orders.

    1 the same ranking, -1 the reverse; a pair that either has as equal counts for nothing, so scores that tell nothing
    apart give 0 (where tau-b and Spearman's correlation are not defined). The axes beside `over` broadcast.
    Kendall, 1938 (recalled). Raises ValueError for an axis that is not there, fewer than two entries, and NaN.
    """
    one, other = xr.align(checked(one, [over]), checked(other, [over]), join="exact")
    pairs = [xr.DataArray(places, dims="pair") for places in np.triu_indices(one.sizes[over], 1)]
    bare = [part.drop_vars(over, errors="ignore") for part in (one, other)]
    signs = [np.sign(part.isel({over: pairs[0]}) - part.isel({over: pairs[1]})) for part in bare]
    return (signs[0] * signs[1]).mean("pair")
