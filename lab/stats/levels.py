"""Intervals over seeds, data sets and examples at once: what is drawn inside what, and what beside it."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from lab.stats.samples import between, check_draws, checked


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
    each other, once for all. Nesting what is shared makes intervals too short; crossing costs little (its variance is
    a little large).

    The draws are the same along all other axes, so designs stay paired: levels(a - b) is the interval of the
    difference. An axis of one entry adds no spread, and an interval cannot speak for more than was drawn from.

    Nested: Davison & Hinkley, 1997, section 3.8; crossed: Owen, 2007, the pigeonhole bootstrap (both recalled).
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
    flat = values.transpose(*axes, *rest).values.reshape([values.sizes[axis] for axis in axes] + [-1])
    pieces = flat.size * draws // 2**24  # what is drawn at once stays small, whatever the number of draws
    parts = np.array_split(np.arange(draws), min(draws, pieces + 1))
    means = np.concatenate([_means(flat, chains, values.sizes, len(part), generator) for part in parts])
    means = means.reshape([draws] + [values.sizes[axis] for axis in rest])
    estimate = values.mean(axes)
    spread = xr.DataArray(means, dims=("draw", *rest), coords=estimate.coords)
    result = xr.Dataset({"estimate": estimate, **between(spread, level)})
    words = ["nested " + " > ".join(chain) for chain in chains]
    return result.assign_attrs(level=level, draws=draws, order=" x ".join(words))


def _means(
    flat: np.ndarray, chains: Sequence[Sequence[str]], sizes: Mapping, draws: int, generator: np.random.Generator
) -> np.ndarray:
    """Some draws of all chains, the mean of what was drawn in each [draws, cells]."""
    drawn = flat[None]
    for chain in chains:
        shares = _shares([sizes[axis] for axis in chain], draws, generator)
        inside = shares[0].size
        drawn = drawn.reshape(len(drawn), inside, -1)
        drawn = np.matmul(shares.reshape(draws, 1, inside), drawn)[:, 0]
    return drawn


def _shares(sizes: Sequence[int], draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each entry of a chain is drawn, as shares [draws, *sizes] that sum to 1 in each draw.

    An entry drawn k times has its inside drawn k times anew, and k multinomials of n are one of k n.
    """
    counts = np.ones(draws, dtype=int)
    for n in sizes:
        counts = generator.multinomial(counts * n, np.full(n, 1 / n))
    return counts / np.prod(sizes)
