"""Linear maps in closed form from sums, at several penalties: ridge regression and the regularised discriminant."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lab.probes.sums import Sums

PENALTIES = tuple(float(a) for a in np.logspace(-1, 5, 10))  # beside the sum of squares of a standardised column, n
ONE = 100.0  # where there is no fold left to choose in
MANY = 7  # one eigendecomposition takes the time of so many Cholesky factors
CONSTANT = 1e-12  # a column with less of the whole's variance than this, in the training rows, is left out


def ridge(sums: Sums, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weights [A, D, C] and intercepts [A, C] of y = x W + b that minimise |y - x W - b|^2 + a |S W|^2 for each a.

    S holds the standard deviations of the columns: they are standardised within these rows, and the intercept is not
    penalised. Hoerl & Kennard, 1970.
    """
    mean, inverse, scatter = standardised(sums)
    right = inverse[:, None] * (sums.xy - sums.x[:, None] * sums.y / sums.n)
    weights = inverse[:, None] * _solved(scatter, right, penalties)
    return weights, sums.y / sums.n - mean @ weights


def discriminant(sums: Sums, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weights [A, D, K] and intercepts [A, K] of the log posterior, up to a constant, of K Gaussians of one covariance.

    delta_k(x) = x' C^-1 m_k - m_k' C^-1 m_k / 2 + ln(n_k / n), C = (W + a I) / n with W the scatter of standardised
    rows within their classes. sums.y must hold class counts: the targets are one-hot. A class without a row is never
    named. Unlike ridge regression on one-hot targets it sees the middle one of three classes in a row.

    Fisher, 1936; Friedman, 1989, Regularized discriminant analysis (recalled): his gamma, with a in its place.
    """
    mean, inverse, scatter = standardised(sums)
    seen = sums.y > 0
    # the means of the classes [K, D], standardised, around the mean of all
    means = torch.where(seen[:, None], sums.xy.mT / sums.y.clamp(min=1)[:, None] - mean, 0) * inverse
    within = scatter - (means.mT * sums.y) @ means
    weights = sums.n * _solved(within, means.mT, penalties)
    prior = torch.log(sums.y / sums.n)
    half = 0.5 * (means.mT * weights).sum(1)
    weights = inverse[:, None] * weights
    return weights, prior - half - mean @ weights


def checked_penalties(penalty: float | Sequence[float] | None, folds: int) -> tuple[float, ...]:
    """Penalties from weak to strong, the usual ten for None, or one of 100 where two folds leave none to choose in.

    ValueError for an empty list, for any not positive, and for several without a fold to choose in.
    """
    if penalty is None:
        return (ONE,) if folds == 2 else PENALTIES
    found = tuple(sorted(float(a) for a in (penalty if hasattr(penalty, "__iter__") else [penalty])))
    if not found or not all(0 < a < float("inf") for a in found):
        raise ValueError(f"penalties must be positive and finite, one or more; got {found}")
    if len(found) > 1 and folds == 2:
        raise ValueError(
            f"choosing among {len(found)} penalties inside the training folds needs 3 folds or more; got {folds}: "
            "give one penalty, or more folds"
        )
    return found


def standardised(sums: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], inverse standard deviation [D], 0 for constant columns, and the standardised scatter [D, D]."""
    mean = sums.x / sums.n
    scatter = sums.xx - sums.x[:, None] * mean
    variance = scatter.diagonal() / sums.n
    # rows come with variance 1 over all of them, so what is left of it here is a share
    inverse = torch.where(variance > CONSTANT * (1 + mean.square()), variance.clamp(min=1e-300).rsqrt(), 0)
    return mean, inverse, inverse[:, None] * scatter * inverse


def _solved(matrix: Tensor, right: Tensor, penalties: Sequence[float]) -> Tensor:
    """(matrix + a I)^-1 right for each a, [A, D, C]; without LU, which may hang on a CPU for a batch."""
    if len(penalties) >= MANY:
        values, vectors = torch.linalg.eigh(matrix)
        along = vectors.mT @ right
        shrunk = torch.cat([along / (values.clamp(min=0) + a)[:, None] for a in penalties], dim=1)
        return (vectors @ shrunk).view(len(matrix), len(penalties), -1).transpose(0, 1)
    found = []
    for a in penalties:
        lifted = matrix.clone()
        lifted.diagonal().add_(a)
        found.append(torch.cholesky_solve(right, torch.linalg.cholesky(lifted)))
    return torch.stack(found)
