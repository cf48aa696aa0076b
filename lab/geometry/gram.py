"""Centred kernel alignment, debiased: how alike two spaces of the same examples are, read from their Gram matrices."""

import torch
from torch import Tensor

from lab.geometry.distances import distances, median, row_sums
from lab.geometry.pairs import Pair, Side, coordinates, gram, pair, product

FRACTION = 0.4  # of the median distance


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Debiased linear centred kernel alignment: HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)), K = X X', L = Y Y'.

    With the diagonals of K and L set to zero,
        HSIC_1 = [tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 / (n-2) 1'K L 1] / (n (n-3)),
    here from X'Y, so that no n x n matrix is made. x [N, D], y [N, E]. 1 for spaces equal up to rotation, shift and
    scale; about 0 for independent ones at any n, where the biased form still gives .60 for n = 256 Gaussian rows of
    width 384. Slightly below 0 is possible. Changed by a stretch of single axes. One coordinate that dwarfs all others
    makes any two spaces that share it alike.

    HSIC_1: Song et al., 2012, Feature selection via dependence maximization, eq. 5 (number recalled). CKA: Kornblith
    et al., 2019. https://arxiv.org/abs/1905.00414
    Raises ValueError for fewer than four rows, or another number of rows in y. NaN where a space is a single point.
    """
    return linear_score(pair(x, y, 4))


def rbf_cka(x: Tensor, y: Tensor, fraction: float = FRACTION) -> float:
    """linear_cka's ratio with Gaussian kernels K_ij = exp(-|x_i - x_j|^2 / (2 s^2)), s = fraction * median.

    median: of the distances between rows. Sees what is near what rather than the axes of most variance; the source
    uses fractions .4 and .8. N (N - 1) / 2 numbers are held of each side. Unchanged by rotation, shift and scale of
    either side (the median goes along); changed by a stretch. NaN where a space is a single point, or half of its
    distances are 0.

    Kornblith et al., 2019. https://arxiv.org/abs/1905.00414
    ValueError as for linear_cka, and for a fraction that is not above 0.
    """
    return rbf_score(pair(x, y, 4), fraction)


def linear_score(both: Pair) -> float:
    (xx, rows, own_x), (yy, cols, own_y) = both.sides(linear_sums)
    if min(own_x, own_y) <= 0:
        return float("nan")
    return float(_hsic(both.part(product).square().sum() - xx @ yy, rows, cols) / (own_x * own_y).sqrt())


def linear_sums(side: Side) -> tuple[Tensor, Tensor, Tensor]:
    """Of the centred rows: their squares, the row sums of K without its diagonal, and HSIC_1(K, K)."""
    x = side.part(coordinates)
    square = x.square().sum(1)
    sums = x @ x.sum(0) - square
    return square, sums, _hsic(side.part(gram).square().sum() - square @ square, sums, sums)


def rbf_score(both: Pair, fraction: float = FRACTION) -> float:
    (k, rows, own_k), (l, cols, own_l) = both.sides(kernel, fraction)  # noqa: E741
    return float(_hsic(2 * (k @ l), rows, cols) / (own_k * own_l).sqrt())


def kernel(side: Side, fraction: float) -> tuple[Tensor, Tensor, Tensor]:
    """K above its diagonal less its mean, which HSIC_1 cannot see, the row sums of that, and HSIC_1(K, K), or NaN."""
    if not fraction > 0:
        raise ValueError(f"fraction must be above 0; got {fraction}")
    square = side.part(distances)
    middle = median(square)
    half = square.mul(-1 / (2 * fraction**2 * torch.where(middle > 0, middle, torch.nan))).exp_()
    half -= half.mean()
    sums = row_sums(half, side.space.n)
    own = _hsic(2 * half.square().sum(), sums, sums)
    return half, sums, torch.where(own > 0, own, torch.nan)


def _hsic(trace: Tensor, k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """HSIC_1 from tr(K L) and the row sums of K and L, neither with a diagonal."""
    n = len(k)
    return (trace + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l)) / (n * (n - 3))
