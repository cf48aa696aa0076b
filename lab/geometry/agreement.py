"""Do two spaces agree on who is near whom? From lists of neighbours, and from the order of all distances."""

import numpy as np
import torch
from torch import Tensor

from lab.geometry.distances import distances
from lab.geometry.pairs import Pair, Side, pair

K = 10  # neighbours, as in the source


def mutual_knn(x: Tensor, y: Tensor, k: int = K) -> float:
    """Shared neighbours above chance: 1/(nk) sum_i |N_k^x(i) and N_k^y(i)| - k/(n-1). x [N, D], y [N, E] -> float.

    N_k(i) are the k other rows of largest cosine with row i; two random lists share k/(n-1) of their members. From
    -k/(n-1) to 1 - k/(n-1), which equal spaces reach; symmetric. Unchanged by scaling single rows and by rotation,
    changed by a shift and a stretch. The source clips features at their 95 % quantile first, which is not done here,
    does not subtract chance, and takes the largest over pairs of layers.

    Huh et al., 2024, section 3 and appendix A. https://arxiv.org/abs/2405.07987
    ValueError for other rows in y, NaN in it, k < 1 or fewer than k + 2 rows.
    """
    _room(x, k)
    return mutual_score(pair(x, y, 2), k)


def mutual_score(both: Pair, k: int = K) -> float:
    n = len(both.a.part(near, k)[0])
    return float(both.part(shared, k).sum()) / (n * k) - k / (n - 1)


def near(side: Side, k: int) -> tuple[Tensor, Tensor]:
    """Distances and numbers of the k nearest unit rows, which are those of largest cosine: both [N, k]."""
    _room(side.space.x, k)
    return side.space.directions.nearest(k)


def shared(both: Pair, k: int) -> Tensor:
    """Which neighbours of a row are neighbours on the other side: [N, k, k]."""
    (_, one), (_, other) = both.sides(near, k)
    return one[:, :, None] == other[:, None, :]


def cknna(x: Tensor, y: Tensor, k: int = K) -> float:
    """CKA over mutual neighbours only: Align(K, L) / sqrt(Align(K, K) Align(L, L)), K and L linear Grams of unit rows.

    Align(K, L) = sum of (H K H)_ij (H L H)_ij, H the centring, over the pairs i != j where j is among the k largest of
    row i in both K and L. In [-1, 1], 1 for equal spaces; symmetric. Unchanged and changed as mutual_knn.

    Huh et al., 2024, appendix A (form recalled; the published code masks first and centres after).
    https://arxiv.org/abs/2405.07987
    NaN where a space is one direction. ValueError as for mutual_knn.
    """
    _room(x, k)
    return cknna_score(pair(x, y, 2), k)


def cknna_score(both: Pair, k: int = K) -> float:
    one, other = both.sides(likeness, k)
    own = one.square().sum() * other.square().sum()
    product = one[:, :, None] * other[:, None, :]
    return float(product[both.part(shared, k)].sum() / own.sqrt()) if own > 0 else float("nan")


def likeness(side: Side, k: int) -> Tensor:
    """The centred Gram matrix of the unit rows at each row's neighbours [N, k], from their distances there."""
    distance, index = side.part(near, k)
    own = side.space.directions.centred.x.square().sum(1)
    return (own[:, None] + own[index] - distance.square()) / 2


def rsa(x: Tensor, y: Tensor) -> float:
    """Spearman's correlation of the distances |x_i - x_j| and |y_i - y_j| over all pairs i < j, ties at mean ranks.

    x [N, D], y [N, E] -> float in [-1, 1]: representational similarity analysis. Unchanged by rotation, shift and
    scale of either side, and by any rising function of the distances; changed by a stretch. NaN where all distances of
    a side are equal. N (N - 1) / 2 numbers are sorted.

    Kriegeskorte, Mur & Bandettini, 2008 (there also with correlation distances). https://doi.org/10.3389/neuro.06.004.2008
    ValueError for other rows in y, NaN in it, fewer than three rows.
    """
    return rsa_score(pair(x, y, 3))


def rsa_score(both: Pair) -> float:
    a, b = both.sides(ranks)
    return float(a @ b)


def ranks(side: Side) -> Tensor:
    """Centred ranks of the distances, to length 1. float32 keys: distances equal to seven digits are a tie."""
    square = side.part(distances)
    values = square.float().numpy(force=True)
    # float32 from 0 sorts as its bits do: value and place in one integer are sorted at once, five times faster
    keys = (values.view(np.uint32).astype(np.uint64) << 32) | np.arange(len(values), dtype=np.uint64)
    keys.sort()
    rank = _mean_ranks((keys >> 32).astype(np.uint32))
    rank -= (len(rank) - 1) / 2
    size = np.linalg.norm(rank)
    found = np.empty(len(rank))
    found[keys.astype(np.uint32)] = rank / (size if size > 0 else np.nan)
    return torch.from_numpy(found).to(square.device)


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 of sorted values, equal ones at their mean rank."""
    found = np.arange(len(values), dtype=np.float64)
    tied = np.flatnonzero(values[1:] == values[:-1])  # each with the one after it
    first = np.flatnonzero(np.diff(tied, prepend=-2) > 1)  # of each run of ties
    starts, pairs = tied[first], np.diff(first, append=len(tied))
    inside = np.repeat(starts - np.cumsum(pairs + 1) + pairs + 1, pairs + 1) + np.arange(len(tied) + len(first))
    found[inside] = np.repeat(starts + pairs / 2, pairs + 1)
    return found


def _room(x: Tensor, k: int) -> None:
    if not 1 <= k <= len(x) - 2:
        raise ValueError(f"k must be from 1 to two less than the rows, {len(x)}; got {k}")
