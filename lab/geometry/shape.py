"""Procrustes: how far apart two spaces stay after the best rotation has laid one on the other."""

import torch
from torch import Tensor

from lab.geometry.pairs import numerical_rank, sides


def procrustes(x: Tensor, y: Tensor) -> float:
    """min over rotations R of |X - Y R|_F = sqrt(2 - 2 |X'Y|_*), X and Y centred and divided by |.|_F. In [0, sqrt 2].

    |.|_* is the sum of singular values. x [N, D], y [N, E], where the narrower is padded with zeros. A metric: 0 for
    spaces equal up to rotation (reflection too), shift and scale; symmetric; obeys the triangle inequality. Changed by
    a stretch. Independent Gaussian rows are at sqrt 2 only for N many times D.

    Schoenemann, 1966; Williams et al., 2021, eq. for gamma = 1 (recalled). https://arxiv.org/abs/2110.14739
    NaN where a side is a single point. ValueError for other rows in y, NaN in it, fewer than two rows.
    """
    return procrustes_score(*(procrustes_prepare(side) for side in sides(x, y, 2)))


def angular(x: Tensor, y: Tensor) -> float:
    """arccos |X'Y|_*, the angle between two shapes on the sphere of unit ones, in radians: [0, pi / 2].

    X, Y and what changes it as for procrustes, of which it is a function: d = 2 sin(angle / 2). A metric too.

    Williams et al., 2021. https://arxiv.org/abs/2110.14739
    """
    return angular_score(*(procrustes_prepare(side) for side in sides(x, y, 2)))


def procrustes_prepare(x: Tensor) -> Tensor:
    size = x.norm()
    return x / torch.where(size > 0, size, torch.nan)


def procrustes_score(a: Tensor, b: Tensor) -> float:
    return float((2 - 2 * _nuclear(a, b)).clamp(min=0).sqrt())


def angular_score(a: Tensor, b: Tensor) -> float:
    return float(_nuclear(a, b).clamp(max=1).arccos())


def _nuclear(x: Tensor, y: Tensor) -> Tensor:
    """Sum of the singular values of X'Y, by eigenvalues of its smaller Gram matrix: many times faster than an SVD."""
    if not (x.isfinite().all() and y.isfinite().all()):
        return x.new_tensor(torch.nan)
    if max(x.shape[1], y.shape[1]) > len(x):  # wide: X = R Q' with Q orthonormal, and |X'Y|_* = |R'S|_*
        x, y = (torch.linalg.qr(side.T, mode="r").R.T if side.shape[1] > len(x) else side for side in (x, y))
    product = x.T @ y if x.shape[1] <= y.shape[1] else y.T @ x
    values = torch.linalg.eigvalsh(product @ product.T).flip(0)
    return values[: numerical_rank(values, max(product.shape))].sqrt().sum()
