"""Many p-values of one family, adjusted so that one false finding in all of it stays rare."""

from collections.abc import Sequence

import numpy as np
import xarray as xr


def holm(p: xr.DataArray, family: Sequence[str] | None = None) -> xr.DataArray:
    """Holm's step-down adjusted p: p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)), p_(1) <= ... <= p_(m).

    family: the axes whose p-values were one question, declared before looking; by default all of them. Along other
    axes each entry is a family of its own. Holds whatever the dependence. A NaN is no test and counts for none.

    Holm, 1979 (recalled). Raises ValueError for axes that are not there and for p outside [0, 1].
    """
    axes = list(p.dims if family is None else family)
    if missing := [axis for axis in axes if axis not in p.dims]:
        raise ValueError(f"no axis {', '.join(map(repr, missing))} to make a family of; there are {p.dims}")
    if bool(((p < 0) | (p > 1)).any()):
        raise ValueError(f"p-values lie in [0, 1]; got {float(p.min())} to {float(p.max())}")
    values = p.transpose(..., *axes)
    flat = values.values.reshape(-1, int(np.prod([p.sizes[axis] for axis in axes], dtype=int)))
    found = np.stack([_adjusted(row) for row in flat]) if flat.size else flat
    return values.copy(data=found.reshape(values.shape)).transpose(*p.dims)


def _adjusted(p: np.ndarray) -> np.ndarray:
    found, tested = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p[order]
    found[order] = np.minimum(1, np.maximum.accumulate(steps))
    return found
