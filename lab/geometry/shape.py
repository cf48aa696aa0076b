"""Procrustes: how far apart two spaces stay after the best rotation has laid one on the other."""

import torch
from torch import Tensor

from lab.geometry.pairs import Pair, Side, coordinates, numerical_rank, pair, product


def procrustes(x: Tensor, y: Tensor) -> float:
    """min over rotations R of |X - Y R|_F = sqrt(2 - 2 |X'Y|_*), X and Y centred and divided by |.|_F. In [0, sqrt 2].

    |.|_* is the sum of singular values. x [N, D], y [N, E], where the narrower is padded with zeros. A metric: 0 for
    spaces equal up to rotation (reflection too), shift and scale; symmetric; obeys the triangle inequality. Changed by
    a stretch. Independent Gaussian rows are at sqrt 2 only for N many times D.

    Schoenemann, 1966; Williams et al., 2021, eq. for gamma = 1 (recalled). https://arxiv.org/abs/2110.14739
    NaN where a side is a single point. ValueError for other rows in y, NaN in it, fewer than two rows.
    """
    return procrustes_score(pair(x, y, 2))


def angular(x: Tensor, y: Tensor) -> float:
    """arccos |X'Y|_*, the angle between two shapes on the sphere of unit ones, in radians: [0, pi / 2].

    X, Y and what changes it as for procrustes, of which it is a function: d = 2 sin(angle / 2). A metric too.

    Williams et al., 2021. https://arxiv.org/abs/2110.14739
    """
    return angular_score(pair(x, y, 2))


def procrustes_score(both: Pair) -> float:
    return float((2 - 2 * both.part(nuclear)).clamp(min=0).sqrt())


def angular_score(both: Pair) -> float:
    return float(both.part(nuclear).clamp(max=1).arccos())


def length(side: Side) -> Tensor:
    """|X|_F of the centred rows; NaN for a point, which has no shape."""
    size = side.part(coordinates).norm()
    return torch.where(size > 0, size, torch.nan)


def nuclear(both: Pair) -> Tensor:
    """|X'Y|_* / (|X|_F |Y|_F), by eigenvalues of X'Y's smaller Gram matrix: many times faster than an SVD."""
    cross = both.part(product)
    cross = cross if cross.shape[0] <= cross.shape[1] else cross.T
    values = torch.linalg.eigvalsh(cross @ cross.T).flip(0)
    a, b = both.sides(length)
    return values[: numerical_rank(values, max(cross.shape))].sqrt().sum() / (a * b)
