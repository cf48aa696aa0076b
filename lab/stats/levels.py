"""Intervals over seeds, data sets and examples at once: what is drawn inside what, and what beside it."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lab.stats.samples import between, check_draws, checked, stretch


def levels(
    samples: xr.DataArray,
    order: Sequence[str | Sequence[str]],
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """The mean over several axes with its interval when all of them are drawn again: variables estimate, low, high.

    order: ("seed", "dataset", "example") draws seeds; inside each drawn seed, data sets; inside each of these,
    examples. That is right where each seed has data sets and examples of its own. Where the same ones serve every
    seed, what is odd about one of them is odd in all: [("seed",), ("dataset", "example")] draws the two chains beside
    each other, once for all, each of its own means over the other, and adds what they deviate by. Nesting what is
    shared makes intervals too short; crossing costs little (what differs by seed and data set together counts twice).

    The deviations of each level are multiplied by sqrt(n / (n - 1)) t / z, as in `bootstrap`, with Student's t of the
    degrees of freedom that this level has: n - 1, times the entries of the levels above. The interval of a sum of
    chains is then never too short for normal samples, whichever of them varies most (Banerjee, 1961), and too long
    where several count alike. So two seeds that differ give a wide interval: 12.7 standard errors to either side.

    The draws are the same along all other axes, so designs stay paired: levels(a - b) is the interval of the
    difference. An axis of one entry adds no spread, and an interval cannot speak for more than was drawn from.

    Nested: Davison & Hinkley, 1997, section 3.8; crossed: Owen, 2007, the pigeonhole bootstrap, here without the
    product of both draws; Banerjee, 1961, Sankhya 23 (all recalled).
    Raises ValueError as `bootstrap` does, and where no axis has two entries.
    """
    chains = [tuple(part) for part in order if not isinstance(part, str)]
    names = [part for part in order if isinstance(part, str)]
    if names and chains:
        raise ValueError(f"name axes, or chains of axes, not both; got {order!r}")
    chains = [tuple(names)] if names else chains
    axes = [axis for chain in chains for axis in chain]
    if not axes:
        raise ValueError(f"needed is an axis or more; got order {order!r}")
    values = checked(samples, axes, fewest=1)
    if all(values.sizes[axis] < 2 for axis in axes):
        raise ValueError(f"two entries or more are needed along one of {axes}; got {dict(values.sizes)}")
    check_draws(draws, level)
    generator = np.random.default_rng(seed)
    rest = [axis for axis in values.dims if axis not in axes]
    estimate = values.mean(axes)
    spread = 0.0
    for chain in chains:
        own = values.mean([axis for axis in axes if axis not in chain]).transpose(*chain, *rest)
        sizes = [values.sizes[axis] for axis in chain]
        flat = own.values.reshape(np.prod(sizes), -1)
        pieces = flat.shape[0] * draws // 2**24  # what is drawn at once stays small, whatever the number of draws
        parts = np.array_split(np.arange(draws), min(draws, pieces + 1))
        spread = spread + np.concatenate([_shares(sizes, len(part), level, generator) @ flat for part in parts])
    spread = spread.reshape([draws] + [values.sizes[axis] for axis in rest])
    deviations = xr.DataArray(spread, dims=("draw", *rest), coords=estimate.coords)
    result = xr.Dataset({"estimate": estimate, **between(deviations, estimate, level)})
    words = ["nested " + " > ".join(chain) for chain in chains]
    return result.assign_attrs(level=level, draws=draws, order=" x ".join(words))


def _shares(sizes: Sequence[int], draws: int, level: float, generator: np.random.Generator) -> np.ndarray:
    """By how much more or less each entry of a chain counts, [draws, entries], so that times the entries it is how far
    a resampled mean deviates, the deviations of each level stretched by what its size asks for.

    An entry drawn k times has its inside drawn k times anew, and k multinomials of n are one of k n.
    """
    counts, moved = np.ones(draws, dtype=int), np.zeros(draws)
    for depth, n in enumerate(sizes):
        above = int(np.prod(sizes[:depth]))
        drawn = generator.multinomial(counts * n, np.full(n, 1 / n))
        apart = (drawn - counts[..., None]) / (above * n)  # 0 where all inside count alike
        moved = moved[..., None] / n + stretch(n, level, above * (n - 1)) * apart
        counts = drawn
    return moved.reshape(draws, -1)
