"""Centred kernel alignment, debiased: how alike two spaces of the same examples are, read from their Gram matrices."""

import torch
from torch import Tensor

from lab.geometry.pairs import sides


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
    return linear_score(*(linear_prepare(side) for side in sides(x, y, 4)))


def rbf_cka(x: Tensor, y: Tensor, fraction: float = 0.4) -> float:
    """linear_cka's ratio with Gaussian kernels K_ij = exp(-|x_i - x_j|^2 / (2 s^2)), s = fraction * median.

    median: of the distances between rows. Sees what is near what rather than the axes of most variance; the source
    uses fractions .4 and .8. n x n matrices are made. Unchanged by rotation, shift and scale of either side (the median
    goes along); changed by a stretch. NaN where a space is a single point, or half of its distances are 0.

    Kornblith et al., 2019. https://arxiv.org/abs/1905.00414
    ValueError as for linear_cka, and for a fraction that is not above 0.
    """
    return rbf_score(*(rbf_prepare(side, fraction) for side in sides(x, y, 4)))


def linear_prepare(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the centred x: its rows, their squares, the row sums of K without its diagonal, and HSIC_1(K, K)."""
    square = x.square().sum(1)
    rows = x @ x.sum(0) - square
    return x, square, rows, _hsic(x, square, rows, x, square, rows)


def linear_score(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    if min(a[3], b[3]) <= 0:
        return float("nan")
    return float(_hsic(*a[:3], *b[:3]) / (a[3] * b[3]).sqrt())


def _hsic(x: Tensor, xx: Tensor, k: Tensor, y: Tensor, yy: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    n = len(x)
    trace = (x.T @ y).square().sum() - xx @ yy
    return (trace + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l)) / (n * (n - 3))


def rbf_prepare(x: Tensor, fraction: float = 0.4) -> Tensor:
    """The U-centred Gram matrix above its diagonal, to length 1: products of two of these are the ratio."""
    if not fraction > 0:
        raise ValueError(f"fraction must be above 0; got {fraction}")
    n, upper = len(x), upper_of(len(x))
    own = x.square().sum(1)
    square = torch.addmm(own[None], x, x.T, alpha=-2).add_(own[:, None])
    middle = _median(square[upper]).clamp(min=0)
    gram = square.mul_(-1 / (2 * fraction**2 * torch.where(middle > 0, middle, torch.nan))).clamp_(max=0).exp_()
    gram.fill_diagonal_(0)
    rows = gram.sum(1)
    # Song et al.'s HSIC_1 is the plain product of two matrices so centred, over n (n - 3)
    gram += rows.sum() / ((n - 1) * (n - 2)) - (rows[:, None] + rows) / (n - 2)
    flat = gram[upper]
    size = flat.norm()
    return flat / torch.where(size > 0, size, torch.nan)


def rbf_score(a: Tensor, b: Tensor) -> float:
    return float(a @ b)


def upper_of(n: int) -> Tensor:
    """Which entries of an n x n matrix stand above its diagonal."""
    return torch.ones(n, n, dtype=torch.bool).triu_(1)


def _median(values: Tensor) -> Tensor:
    return values.kthvalue((len(values) + 1) // 2).values
