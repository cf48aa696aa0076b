"""Canonical correlations of two spaces: alike up to any invertible linear map, of all or of the main directions."""

import torch
from torch import Tensor

from lab.geometry.pairs import Pair, Side, centred, coordinates, gram, numerical_rank, pair

VARIANCE = 0.99  # of a side, in the directions that svcca keeps


def svcca(x: Tensor, y: Tensor, variance: float = VARIANCE) -> float:
    """Mean canonical correlation of the directions that hold `variance` of each side: mean of the singular values of
    U_x'U_y, with U the left singular vectors kept. x [N, D], y [N, E] -> float in [0, 1].

    Unchanged by shift, scale, rotation of either side; by other invertible maps at variance = 1 only (which directions
    are kept changes). The mean is over min(kept of x, kept of y). Independent Gaussian rows do not give 0 but about
    sqrt(kept / N): it needs N many times what is kept, and compares equal N only.

    Raghu et al., 2017. https://arxiv.org/abs/1706.05806
    NaN where a side is a single point. ValueError for other rows in y, NaN in it, variance outside (0, 1], and where
    so many directions are kept (N - 1 in both) that any two spaces give 1.
    """
    return svcca_score(pair(x, y, 3), variance)


def pwcca(x: Tensor, y: Tensor) -> float:
    """Canonical correlations rho_i weighted by what their directions carry of x: sum_i a_i rho_i / sum_i a_i.

    a_i = sum_j |<h_i, x_j>|, h_i the i-th canonical variate of x (unit length, in the space of examples) and x_j the
    columns of the centred x. All directions above rounding are kept. In [0, 1], not symmetric: the weights are x's.
    Unchanged by shift, scale, and rotation or any invertible map of y; a rotation of x changes the weights. Biased up
    as svcca is.

    Morcos, Raghu & Bengio, 2018, eq. 2 (number recalled). https://arxiv.org/abs/1806.05759
    NaN where a side is a single point. ValueError as for svcca.
    """
    return pwcca_score(pair(x, y, 3))


def svcca_score(both: Pair, variance: float = VARIANCE) -> float:
    if not 0 < variance <= 1:
        raise ValueError(f"variance must be above 0 and at most 1; got {variance}")
    (u, s), (_, t) = both.sides(basis)
    shown = both.part(overlap)[: _main(s, variance), : _main(t, variance)]
    if not shown.numel():
        return float("nan")
    _refuse_full(shown.shape, len(u))
    small = shown @ shown.T if shown.shape[0] <= shown.shape[1] else shown.T @ shown
    return float(torch.linalg.eigvalsh(small).clamp(0, 1).sqrt().mean())


def pwcca_score(both: Pair) -> float:
    left, rho, _ = both.part(canonical)
    return _weighed(left.T, rho, both.a)


def pwcca_back(both: Pair) -> float:
    """Of (b, a), from the same decomposition."""
    _, rho, right = both.part(canonical)
    return _weighed(right, rho, both.b)


def basis(side: Side) -> tuple[Tensor, Tensor]:
    """Left singular vectors U [N, kept] and squared singular values of the centred rows, largest first, those above
    rounding."""
    x = side.part(coordinates)
    values, vectors = torch.linalg.eigh(side.part(gram))
    values, vectors = values.flip(0), vectors.flip(1)
    kept = numerical_rank(values, len(x))
    values, vectors = values[:kept], vectors[:, :kept]
    u = x @ vectors / values.sqrt()
    # small directions come out of X V / s with rounding of the large ones: made orthonormal once more
    return torch.linalg.solve_triangular(torch.linalg.cholesky(u.T @ u), u.T, upper=False).T, values


def seen(side: Side) -> Tensor:
    """The centred rows in the basis [kept, D]."""
    return side.part(basis)[0].T @ side.part(centred)


def overlap(both: Pair) -> Tensor:
    """U'V."""
    u, v = both.sides(basis)
    return u[0].T @ v[0]


def canonical(both: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Canonical variates in either basis, left [a, r] and right [r, b], and their correlations rho [r]."""
    shown = both.part(overlap)
    if shown.numel():
        _refuse_full(shown.shape, len(both.a.part(basis)[0]))
    left, rho, right = torch.linalg.svd(shown, full_matrices=False)
    return left, rho.clamp(max=1), right


def _weighed(variates: Tensor, rho: Tensor, side: Side) -> float:
    weight = (variates @ side.part(seen)).abs().sum(1)
    return float((weight * rho).sum() / weight.sum()) if len(rho) else float("nan")


def _main(values: Tensor, variance: float) -> int:
    """How many directions hold so much: the first that reaches the share belongs to it."""
    shares = values.cumsum(0) / values.sum().clamp(min=1e-300)
    return int((shares < variance - 1e-12).sum()) + 1


def _refuse_full(kept: torch.Size, n: int) -> None:
    if max(kept) >= n - 1:
        raise ValueError(
            f"a side keeps {max(kept)} directions of {n} rows, so that any two spaces correlate "
            "fully; give more rows than dimensions, many times more"
        )
