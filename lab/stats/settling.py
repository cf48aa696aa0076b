"""How many seeds would settle it? Experiments made up around a pilot, and how often their interval takes a side."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lab.stats.samples import checked


def settling(
    differences: xr.DataArray,
    along: str = "seed",
    *,
    margin: float,
    beside: float = 0.0,
    sizes: Sequence[int] = (3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100),
    level: float = 0.95,
    want: float = 0.8,
    trials: int = 4000,
    seed: int = 0,
) -> int:
    """The smallest of the sizes at which an interval lies above 0 or below margin in `want` or more of the trials.

    0 where it does so at none of them. `power` asks how often a test would see the difference, which says nothing of a
    claim that there is none: no number of seeds shows a difference of 0, and some sixty can bring its interval below a
    margin. Here a trial of n draws its mean and its spread from N(mean, sd) of the pilot and has the interval
    mean +- sqrt((t sd / sqrt(n))^2 + beside^2), t of n - 1 degrees of freedom. beside is half the width that comes from
    elsewhere, such as from the data sets, and does not shrink with n. A pilot of few says little of mean and sd: read
    the number as an order of magnitude.

    Raises ValueError for more than one axis, fewer than two differences, NaN, a margin that is not positive, a negative
    beside, sizes below 2, and a level or want outside (0, 1).
    """
    from scipy.special import stdtrit

    values = checked(differences, [along])
    if values.ndim != 1:
        raise ValueError(f"a pilot has one axis, {along!r}; got {values.dims}: select a cell, or average")
    if not margin > 0 or not beside >= 0 or min(sizes, default=0) < 2 or not 0 < level < 1 or not 0 < want < 1:
        raise ValueError(
            "needed are a positive margin, a beside of 0 or more, sizes of 2 or more, level and want in (0, 1); got "
            f"margin={margin}, beside={beside}, sizes={list(sizes)}, level={level}, want={want}"
        )
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    generator = np.random.default_rng(seed)
    for n in sorted(int(size) for size in sizes):
        means = generator.normal(mean, spread / n**0.5, trials)
        error = spread * np.sqrt(generator.chisquare(n - 1, trials) / (n - 1) / n)
        half = np.hypot(stdtrit(n - 1, (1 + level) / 2) * error, beside)
        if np.mean((means - half > 0) | (means + half < margin)) >= want:
            return n
    return 0
