"""What every statistic asks of its samples first: the axis is there, enough of it, and no number is missing."""

from collections.abc import Sequence

import numpy as np
import xarray as xr


def checked(samples: xr.DataArray, axes: Sequence[str], fewest: int = 2) -> xr.DataArray:
    """The samples as float64; ValueError for an axis that is not there, too few along it, NaN or infinity."""
    if missing := [axis for axis in axes if axis not in samples.dims]:
        raise ValueError(f"no axis {', '.join(map(repr, missing))}; there are {samples.dims}")
    if len(set(axes)) < len(axes):
        raise ValueError(f"each axis can be named once; got {tuple(axes)}")
    for axis in axes:
        if samples.sizes[axis] < fewest:
            raise ValueError(f"got {samples.sizes[axis]} samples along {axis!r}; needed are {fewest} or more")
    values = samples.astype(float)
    if bool(values.isnull().any()):
        raise ValueError(f"{int(values.isnull().sum())} of {values.size} samples are NaN; drop or fill them first")
    if not np.isfinite(values.values).all():
        raise ValueError("samples must be finite; some are infinite")
    return values


def check_draws(draws: int, level: float) -> None:
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"got draws={draws}, level={level}; needed are 1 or more, and a level in (0, 1)")


def between(means: xr.DataArray, level: float) -> dict[str, xr.DataArray]:
    """The bounds of the middle share of the resampled means."""
    tail = (1 - level) / 2
    low, high = (means.quantile(q, dim="draw").drop_vars("quantile") for q in (tail, 1 - tail))
    return {"low": low, "high": high}
