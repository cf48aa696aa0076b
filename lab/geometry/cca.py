"""Canonical correlations of two spaces: alike up to any invertible linear map, of all or of the main directions."""

import torch
from torch import Tensor

from lab.geometry.pairs import numerical_rank, sides


def svcca(x: Tensor, y: Tensor, variance: float = 0.99) -> float:
    """Mean canonical correlation of the directions that hold `variance` of each side: mean of the singular values of
    U_x'U_y, with U the left singular vectors kept. x [N, D], y [N, E] -> float in [0, 1].

    Unchanged by shift, scale, rotation of either side; by other invertible maps at variance = 1 only (which directions
    are kept changes). The mean is over min(kept of x, kept of y). Independent Gaussian rows do not give 0 but about
    sqrt(kept / N): it needs N many times what is kept, and compares equal N only.

    Raghu et al., 2017. https://arxiv.org/abs/1706.05806
    NaN where a side is a single point. ValueError for other rows in y, NaN in it, variance outside (0, 1], and where
    so many directions are kept (N - 1 in both) that any two spaces give 1.
    """
    return svcca_score(*(svcca_prepare(side, variance) for side in sides(x, y, 3)))


def pwcca(x: Tensor, y: Tensor) -> float:
    """Canonical correlations rho_i weighted by what their directions carry of x: sum_i a_i rho_i / sum_i a_i.

    a_i = sum_j |<h_i, x_j>|, h_i the i-th canonical variate of x (unit length, in the space of examples) and x_j the
    columns of the centred x. All directions above rounding are kept. In [0, 1], not symmetric: the weights are x's.
    Unchanged by shift, scale, and rotation or any invertible map of y; a rotation of x changes the weights. Biased up
    as svcca is.

    Morcos, Raghu & Bengio, 2018, eq. 2 (number recalled). https://arxiv.org/abs/1806.05759
    NaN where a side is a single point. ValueError as for svcca.
    """
    return pwcca_score(*(pwcca_prepare(side) for side in sides(x, y, 3)))


def svcca_prepare(x: Tensor, variance: float = 0.99) -> Tensor:
    """U [N, kept]: an orthonormal basis of the examples' coordinates along the main directions."""
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be above 0 and at most 1; got {variance}")
    basis, values = _basis(x)
    shares = values.cumsum(0) / values.sum().clamp(min=1e-300)
    # the first that reaches the share belongs to it
    return basis[:, : int((shares < variance - 1e-12).sum()) + 1]


def svcca_score(a: Tensor, b: Tensor) -> float:
    return float(_correlations(a, b).mean()) if a.shape[1] and b.shape[1] else float("nan")


def pwcca_prepare(x: Tensor) -> tuple[Tensor, Tensor]:
    """The basis, and x seen in it: both are the same for every other side."""
    basis = _basis(x)[0]
    return basis, basis.T @ x


def pwcca_score(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    (u, seen), (v, _) = a, b
    if not u.shape[1] or not v.shape[1]:
        return float("nan")
    _refuse_full(u, v)
    product = u.T @ v
    square, left = torch.linalg.eigh(product @ product.T)  # directions of x that y lacks come with correlation 0
    weight = (left.T @ seen).abs().sum(1)[-v.shape[1] :]  # as many as the smaller side has, the largest last
    rho = square.clamp(0, 1).sqrt()[-v.shape[1] :]
    return float((weight * rho).sum() / weight.sum())


def _basis(x: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and squared singular values of the centred x, largest first, those above rounding."""
    small = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    values, vectors = torch.linalg.eigh(small)
    values, vectors = values.flip(0), vectors.flip(1)
    kept = numerical_rank(values, max(x.shape))
    values, vectors = values[:kept], vectors[:, :kept]
    if x.shape[0] >= x.shape[1]:
        # small directions come out of X V / s with rounding of the large ones: made orthonormal once more
        vectors = torch.linalg.qr(x @ vectors / values.sqrt()).Q if kept else x[:, :0]
    return vectors, values


def _correlations(u: Tensor, v: Tensor) -> Tensor:
    _refuse_full(u, v)
    product = u.T @ v
    small = product @ product.T if product.shape[0] <= product.shape[1] else product.T @ product
    return torch.linalg.eigvalsh(small).clamp(0, 1).sqrt()


def _refuse_full(u: Tensor, v: Tensor) -> None:
    n = len(u)
    if max(u.shape[1], v.shape[1]) >= n - 1:
        raise ValueError(
            f"a side keeps {max(u.shape[1], v.shape[1])} directions of {n} rows, so that any two spaces correlate "
            "fully; give more rows than dimensions, many times more"
        )
