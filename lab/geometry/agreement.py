"""Do two spaces agree on who is near whom? From lists of neighbours, and from the order of all distances."""

import numpy as np
import torch
from torch import Tensor

from lab.geometry.gram import upper_of
from lab.geometry.nearest import nearest
from lab.geometry.pairs import sides
from lab.geometry.space import Space


def mutual_knn(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Shared neighbours above chance: 1/(nk) sum_i |N_k^x(i) and N_k^y(i)| - k/(n-1). x [N, D], y [N, E] -> float.

    N_k(i) are the k other rows of largest cosine with row i; two random lists share k/(n-1) of their members. From
    -k/(n-1) to 1 - k/(n-1), which equal spaces reach; symmetric. Unchanged by scaling single rows and by rotation,
    changed by a shift and a stretch. The source clips features at their 95 % quantile first, which is not done here,
    does not subtract chance, and takes the largest over pairs of layers.

    Huh et al., 2024, section 3 and appendix A. https://arxiv.org/abs/2405.07987
    ValueError for other rows in y, NaN in it, k < 1 or fewer than k + 2 rows.
    """
    _room(x, k)
    sides(x, y, 2)
    return mutual_score(*(mutual_prepare(side, k) for side in (x, y)))


def mutual_prepare(x: Tensor, k: int = 10) -> Tensor:
    """Numbers of the k nearest rows by cosine [N, k]."""
    _room(x, k)
    return nearest(Space(x).units, k)[1]


def mutual_score(a: Tensor, b: Tensor) -> float:
    n, k = a.shape
    shared = (a[:, :, None] == b[:, None, :]).sum()
    return float(shared) / (n * k) - k / (n - 1)


def cknna(x: Tensor, y: Tensor, k: int = 10) -> float:
    """CKA over mutual neighbours only: Align(K, L) / sqrt(Align(K, K) Align(L, L)), K and L linear Grams of unit rows.

    Align(K, L) = sum of (H K H)_ij (H L H)_ij, H the centring, over the pairs i != j where j is among the k largest of
    row i in both K and L. In [-1, 1], 1 for equal spaces; symmetric. Unchanged and changed as mutual_knn.

    Huh et al., 2024, appendix A (form recalled; the published code masks first and centres after).
    https://arxiv.org/abs/2405.07987
    NaN where a space is one direction. ValueError as for mutual_knn.
    """
    _room(x, k)
    sides(x, y, 2)
    return cknna_score(*(cknna_prepare(side, k) for side in (x, y)))


def cknna_prepare(x: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
    """Numbers of the k nearest rows by cosine, and the centred Gram matrix of the unit rows there: both [N, k]."""
    index = mutual_prepare(x, k)
    units = Space(Space(x).units).centred.x
    parts = zip(units.split(1024), index.split(1024), strict=True)  # neighbours of a thousand rows at a time are held
    return index, torch.cat([torch.einsum("nd,nkd->nk", some, units[near]) for some, near in parts])


def cknna_score(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    (near_k, k), (near_l, l) = a, b  # noqa: E741
    own = k.square().sum() * l.square().sum()
    both = near_k[:, :, None] == near_l[:, None, :]
    return float((k[:, :, None] * l[:, None, :])[both].sum() / own.sqrt()) if own > 0 else float("nan")


def rsa(x: Tensor, y: Tensor) -> float:
    """Spearman's correlation of the distances |x_i - x_j| and |y_i - y_j| over all pairs i < j, ties at mean ranks.

    x [N, D], y [N, E] -> float in [-1, 1]: representational similarity analysis. Unchanged by rotation, shift and
    scale of either side, and by any rising function of the distances; changed by a stretch. NaN where all distances of
    a side are equal. N (N - 1) / 2 numbers are sorted.

    Kriegeskorte, Mur & Bandettini, 2008 (there also with correlation distances). https://doi.org/10.3389/neuro.06.004.2008
    ValueError for other rows in y, NaN in it, fewer than three rows.
    """
    return rsa_score(*(rsa_prepare(side) for side in sides(x, y, 3)))


def rsa_prepare(x: Tensor) -> Tensor:
    """Centred ranks of the distances, to length 1. float32 keys: distances equal to seven digits are a tie."""
    own = x.square().sum(1)
    square = torch.addmm(own[None], x, x.T, alpha=-2).add_(own[:, None]).clamp_(min=0)
    # copies are at distance 0, which the product gives to its rounding only
    square[square < own.max() * 1e-12] = 0
    ranks = _ranks(square[upper_of(len(x))].float().numpy(force=True))
    centred = torch.from_numpy(ranks - ranks.mean()).to(x.device)
    size = centred.norm()
    return centred / torch.where(size > 0, size, torch.nan)


def rsa_score(a: Tensor, b: Tensor) -> float:
    return float(a @ b)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 of values >= 0 in float32, equal ones at their mean rank."""
    # float32 above 0 sorts as its bits do: value and place in one integer are sorted at once, five times faster
    keys = np.sort((values.view(np.uint32).astype(np.uint64) << 32) | np.arange(len(values), dtype=np.uint64))
    order, sorted_ = (keys & 0xFFFFFFFF).astype(np.int64), keys >> 32
    starts = np.flatnonzero(np.r_[True, sorted_[1:] != sorted_[:-1]])
    ends = np.r_[starts[1:], len(values)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends - 1) / 2, ends - starts)
    return ranks


def _room(x: Tensor, k: int) -> None:
    if not 1 <= k <= len(x) - 2:
        raise ValueError(f"k must be from 1 to two less than the rows, {len(x)}; got {k}")
