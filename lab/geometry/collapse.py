"""Neural collapse: how far the classes of a space have shrunk to points at the corners of a simplex.

x [*L, N, D] with N labels of K classes; mu_c are class means, M_c = mu_c - mean_c mu_c with each class counted once
(balanced classes: the paper's global mean), the residuals r_i = x_i - mu_(class of i). In all, 0 is full collapse.
All but nc2_frame are unchanged by a shift, all by a rotation, a common scale and the order of rows, NC3 and NC4 where
the classifier moves with the rows. ValueErrors are those of Classes: labels of another length, missing, one class only.

Papyan, Han & Donoho, 2020. https://arxiv.org/abs/2008.08186
"""

import torch
from torch import Tensor

from lab.geometry.classes import Classes, classes, weights
from lab.geometry.space import Space


def nc1(x: Tensor | Space | Classes, labels: object = None) -> Tensor:
    """Variability collapse: tr(S_W pinv(S_B)) / K, S_W = mean_i r_i r_i', S_B = mean_c M_c M_c'. [*L].

    S_B has rank K - 1 at most, so its pseudo-inverse comes from the K centred means and never is D x D. Unchanged by
    any invertible linear map where S_B's rank allows it not to matter (K - 1 = D), by rotations always. NaN where all
    class means are one point.
    """
    grouped = classes(x, labels)
    _, size, axes = torch.linalg.svd(grouped.spread, full_matrices=False)
    k = len(grouped.names)
    kept = size > size[..., :1] * max(grouped.spread.shape[-2:]) * torch.finfo(size.dtype).eps
    within = (grouped.residuals @ axes.mT).square().mean(-2)  # of each of S_B's axes
    between = torch.where(kept, size.square() / k, 1)
    return torch.where(kept.any(-1), (within / between * kept).sum(-1) / k, torch.nan)


def nc2_norms(x: Tensor | Space | Classes, labels: object = None) -> Tensor:
    """Equal lengths of the centred class means: std_c |M_c| / mean_c |M_c|, population's. [*L]; NaN for one point."""
    length = classes(x, labels).spread.norm(dim=-1)
    mean = length.mean(-1)
    return torch.where(mean > 0, length.std(-1, correction=0) / torch.where(mean > 0, mean, 1), torch.nan)


def nc2_angles(x: Tensor | Space | Classes, labels: object = None) -> Tensor:
    """Widest equal angles: mean over pairs c != c' of |cos(M_c, M_c') + 1 / (K - 1)|. [*L]; 0 on a simplex.

    Always 0 for two classes. NaN where the mean of a class is the centre of all.
    """
    spread = classes(x, labels).spread
    length = spread.norm(dim=-1, keepdim=True)
    units = spread / torch.where(length > 0, length, 1)
    k = spread.shape[-2]
    off = (units @ units.mT + 1 / (k - 1)).abs()
    apart = ~torch.eye(k, dtype=torch.bool, device=off.device)
    return torch.where((length[..., 0] > 0).all(-1), (off * apart).sum((-2, -1)) / (k * (k - 1)), torch.nan)


def nc2_frame(x: Tensor | Space | Classes, labels: object = None) -> Tensor:
    """Right angles: mean over pairs c != c' of |cos(mu_c, mu_c')|, of means that are not centred. [*L].

    0 on an orthogonal frame, whatever its lengths: the collapse of squared error without biases (Dang et al., 2023,
    https://arxiv.org/abs/2301.00437, recalled). Unlike the others changed by a shift. A mean of zero has cosine 0.
    """
    means = classes(x, labels).means
    length = means.norm(dim=-1, keepdim=True)
    units = means / torch.where(length > 0, length, 1)
    k = means.shape[-2]
    apart = ~torch.eye(k, dtype=torch.bool, device=means.device)
    return ((units @ units.mT).abs() * apart).sum((-2, -1)) / (k * (k - 1))


def nc3(x: Tensor | Space | Classes, labels: object = None, *, weight: Tensor) -> Tensor:
    """Self-duality: |W / |W|_F - M / |M|_F|_F^2, W [K, D] the classifier's rows in the sorted order of classes. [*L].

    In [0, 4]. Both are taken as they are: a constant added to all rows of W changes no decision and is seen here.
    NaN where all class means are one point or W is zero.
    """
    grouped = classes(x, labels)
    w, _ = weights(grouped, weight)
    sizes = w.flatten(-2).norm(dim=-1), grouped.spread.flatten(-2).norm(dim=-1)
    there = (sizes[0] > 0) & (sizes[1] > 0)
    a, b = (torch.where(there, size, 1)[..., None, None] for size in sizes)
    return torch.where(there, (w / a - grouped.spread / b).square().sum((-2, -1)), torch.nan)


def nc4(x: Tensor | Space | Classes, labels: object = None, *, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Share of rows for which argmax_c (W x + b)_c is not the class of the nearest mean. [*L], in [0, 1]."""
    grouped = classes(x, labels)
    w, b = weights(grouped, weight, bias)
    return ((grouped.space.x @ w.mT + b).argmax(-1) != grouped.nearest).double().mean(-1)


def cdnv(x: Tensor | Space | Classes, labels: object = None) -> Tensor:
    """Class-distance normalised variance: mean over pairs of (v_c + v_c') / (2 |mu_c - mu_c'|^2). [*L].

    v_c = mean over the class of |r_i|^2. Needs no inverse, so it is safe where NC1 has few rows. Infinite where the
    means of two classes with variance coincide, NaN where those of two without do.

    Galanti, Gyorgy & Hutter, 2022, definition 1 (number recalled). https://arxiv.org/abs/2112.15121
    """
    grouped = classes(x, labels)
    square = grouped.residuals.square().sum(-1)
    sums = square.new_zeros(*square.shape[:-1], len(grouped.names)).index_add_(-1, grouped.index, square)
    variance = sums / grouped.counts
    i, j = torch.triu_indices(len(grouped.names), len(grouped.names), 1, device=square.device)
    apart = (grouped.means[..., i, :] - grouped.means[..., j, :]).square().sum(-1)
    return ((variance[..., i] + variance[..., j]) / (2 * apart)).mean(-1)


def nearest_centre(x: Tensor | Space | Classes, labels: object = None) -> Tensor:
    """Share of rows whose own class has the nearest mean. [*L], in [0, 1]; 1 is collapse, 1 / K about chance.

    Of the rows that made the means: with few rows a class in many dimensions it is high for any labels.
    """
    grouped = classes(x, labels)
    return (grouped.nearest == grouped.index).double().mean(-1)
