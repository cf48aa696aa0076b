"""The best of several, chosen where it is not judged."""

import xarray as xr

from lab.stats.samples import checked


def best_elsewhere(scores: xr.DataArray, choose: str, along: str = "seed", *, least: bool = False) -> xr.DataArray:
    """For each entry of `along`, the score there of the label that is best on average over all other entries.

    The best of many looks better than it is where it was chosen; this is the honest number of "the best", one for each
    seed: [along] and the axes that stay, among which the choice is free. least: the worst in place of the best. Entries
    share what they were chosen on, so they hang together a little.

    Raises ValueError for axes that are not there, fewer than two labels or entries, and NaN.
    """
    values = checked(scores, [choose, along])
    others = (values.sum(along) - values) / (values.sizes[along] - 1)
    picked = others.argmin(choose) if least else others.argmax(choose)
    return values.isel({choose: picked}).drop_vars(choose, errors="ignore")
