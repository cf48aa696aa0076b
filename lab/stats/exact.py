"""Tests of paired differences that hold at any number of pairs, each with the smallest p it could have given."""

from functools import lru_cache

import numpy as np
import xarray as xr

from lab.stats.effects import signed_ranks
from lab.stats.samples import checked

PAIRS = 16  # 2^15 patterns of signs are looked through; beyond, some are drawn
RANKED = 128  # the signed-rank sum has few values, so its distribution is counted up to here


def sign_flip(differences: xr.DataArray, along: str = "seed", *, draws: int = 9999, seed: int = 0) -> xr.Dataset:
    """Two-sided permutation test that paired differences are symmetric around 0: p, attainable, statistic (the mean).

    p is the share of all 2^n patterns of signs whose |mean| is at least the one seen; attainable = min(1, 2^(1 - m)),
    m the differences that are not 0, is the smallest p any result of these sizes could have given: with five seeds
    .0625. Above 16 pairs `draws` patterns are drawn, p = (1 + hits) / (1 + draws), and the attributes say so.

    The pairs must be independent of each other: seeds, or data sets, not folds of one.

    Fisher, 1935; drawn p-values as in Phipson & Smyth, 2010 (both recalled). Raises ValueError for fewer than two
    pairs, NaN, and draws below 1.
    """
    values, flat = _columns(differences, along)
    n = len(flat)
    signs, sampled = _signs(n, draws, seed)
    p = _share(np.abs(flat.sum(0)), np.abs(flat).sum(0), signs, flat, sampled)
    m = (flat != 0).sum(0)
    return _result(values, along, p, m, flat.mean(0), draws if sampled else 0)


def wilcoxon(differences: xr.DataArray, along: str = "seed", *, draws: int = 9999, seed: int = 0) -> xr.Dataset:
    """Two-sided signed-rank test that paired differences are symmetric around 0: p, attainable, statistic (W+ - W-).

    Differences of 0 are left out and equal |differences| share their mean rank; p is exact given those ranks, ties
    included, counted over all patterns of signs. attainable as in `sign_flip`. Above 128 pairs patterns are drawn,
    and the attributes say so. It asks less of the numbers than `sign_flip` does, and sees less of them.

    Wilcoxon, 1945; ties as in Pratt & Gibbons, 1981 (recalled). Raises ValueError as `sign_flip` does.
    """
    values, flat = _columns(differences, along)
    if draws < 1:
        raise ValueError(f"draws must be 1 or more; got {draws}")
    ranks = signed_ranks(flat)
    sampled = len(flat) > RANKED
    if sampled:
        signs, _ = _signs(len(flat), draws, seed)
        p = _share(np.abs(ranks.sum(0)), np.abs(ranks).sum(0), signs, ranks, sampled)
    else:
        p = np.array([_rank_p(column) for column in ranks.T])
    return _result(values, along, p, (flat != 0).sum(0), ranks.sum(0), draws if sampled else 0)


TESTS = {"sign_flip": sign_flip, "wilcoxon": wilcoxon}


def _columns(differences: xr.DataArray, along: str) -> tuple[xr.DataArray, np.ndarray]:
    values = checked(differences, [along])
    return values, values.transpose(along, ...).values.reshape(values.sizes[along], -1)


def _result(
    values: xr.DataArray, along: str, p: np.ndarray, m: np.ndarray, statistic: np.ndarray, draws: int
) -> xr.Dataset:
    """m: how many differences of each cell are not 0."""
    attainable = np.minimum(1.0, 2.0 ** (1 - m))
    if draws:
        attainable = np.maximum(attainable, 1 / (1 + draws))
    cells = values.mean(along)
    numbers = {"p": p, "attainable": attainable, "statistic": statistic}
    method = f"sampled, {draws} patterns of signs" if draws else "exact, all patterns of signs"
    return xr.Dataset(
        {name: cells.copy(data=found.reshape(cells.shape)) for name, found in numbers.items()},
        attrs={"method": method, "n": values.sizes[along]},
    )


def _signs(n: int, draws: int, seed: int) -> tuple[np.ndarray, bool]:
    """Patterns of signs [patterns, n] and whether they were drawn; of all, those that keep the first sign stand for
    both, since a pattern and its opposite have the same |sum|."""
    if draws < 1:
        raise ValueError(f"draws must be 1 or more; got {draws}")
    if n > PAIRS:
        return np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n)), True
    bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n)
    return 1.0 - 2.0 * (bits & 1), False


def _share(seen: np.ndarray, size: np.ndarray, signs: np.ndarray, flat: np.ndarray, sampled: bool) -> np.ndarray:
    """The share of patterns whose |sum| reaches what was seen [cells]; the seen one counts among drawn ones."""
    hits = np.zeros(len(seen))
    for some in np.array_split(signs, max(1, signs.shape[0] * len(seen) // 2**24)):
        hits += (np.abs(some @ flat) >= seen - 1e-12 * size).sum(0)  # sums of the same numbers differ by rounding
    return (1 + hits) / (1 + len(signs)) if sampled else hits / len(signs)


def _rank_p(signed: np.ndarray) -> float:
    ranks = np.sort(2 * np.abs(signed[signed != 0])).astype(int)  # mean ranks are halves
    if not len(ranks):
        return 1.0
    # W+ in doubled ranks: the larger of it and its mirror image, and all that is further out
    plus = int(2 * signed[signed > 0].sum())
    return float(min(1.0, 2 * _null(tuple(ranks.tolist()))[max(plus, ranks.sum() - plus) :].sum()))


@lru_cache(maxsize=64)
def _null(ranks: tuple[int, ...]) -> np.ndarray:
    """P(W+ = w) for w = 0 ... sum of the ranks, each of which is in the sum or not with chance one half."""
    found = np.zeros(sum(ranks) + 1)
    found[0] = 1.0
    for rank in ranks:
        with_it = np.zeros_like(found)
        with_it[rank:] = found[: len(found) - rank]
        found = (found + with_it) / 2
    return found
