"""How many seeds would show this? Experiments made up, with a known effect, and how often the test sees it."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lab.stats.exact import TESTS
from lab.stats.samples import checked


def power(
    differences: xr.DataArray,
    along: str = "seed",
    *,
    sizes: Sequence[int] = (3, 5, 6, 8, 10, 15, 20, 30),
    alpha: float = 0.05,
    want: float = 0.8,
    test: str = "sign_flip",
    trials: int = 500,
    seed: int = 0,
) -> xr.Dataset:
    """power[size]: how often `test` gives p <= alpha when n = size differences are drawn from N(mean, sd) of a pilot.

    differences: the pilot's paired differences along one axis, whose mean and standard deviation (n - 1) are taken for
    the truth; a pilot of few says little of either, so read the sizes as an order of magnitude. Also error[size], the
    standard error sqrt(q (1 - q) / trials) of the simulation, and in the attributes needed, the smallest of the sizes
    with a power of `want` or more (0 where none of them has it), dz and the test.

    Raises ValueError for more than one axis, fewer than two differences, NaN, an unknown test, sizes below 2, and
    alpha or want outside (0, 1).
    """
    values = checked(differences, [along])
    if values.ndim != 1:
        raise ValueError(f"a pilot has one axis, {along!r}; got {values.dims}: select a cell, or average")
    if test not in TESTS:
        raise ValueError(f"no test {test!r}; there are {list(TESTS)}")
    sizes = [int(size) for size in sizes]
    if not sizes or min(sizes) < 2 or trials < 1 or not 0 < alpha < 1 or not 0 < want < 1:
        raise ValueError(
            f"sizes need 2 or more, trials 1 or more, alpha and want lie in (0, 1); got sizes={sizes}, "
            f"trials={trials}, alpha={alpha}, want={want}"
        )
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    generator = np.random.default_rng(seed)
    found = []
    for n in sizes:
        made_up = xr.DataArray(generator.normal(mean, spread, size=(n, trials)), dims=("pair", "trial"))
        found.append(float((TESTS[test](made_up, "pair", seed=seed)["p"] <= alpha).mean()))
    q = np.array(found)
    enough = [n for n, share in zip(sizes, found, strict=True) if share >= want]
    return xr.Dataset(
        {"power": ("size", q), "error": ("size", np.sqrt(q * (1 - q) / trials))},
        coords={"size": sizes},
        attrs={
            "needed": min(enough, default=0), "want": want, "alpha": alpha, "test": test, "trials": trials,
            "dz": mean / spread if spread > 0 else float(np.sign(mean) * np.inf) if mean else 0.0,
        },
    )  # fmt: skip
