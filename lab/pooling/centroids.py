"""Class centroids of a batch of embeddings, with the anchor itself left out where it would give the answer away."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.pooling.arguments import check_counts


def class_centroids(
    x: Float[Tensor, "B D"], labels: Int[Tensor, " B"], num_classes: int | None = None
) -> Float[Tensor, "C D"]:
    """c_k = mean of the x_b with label k; zeros for a class without members. Labels are 0 .. num_classes - 1.

    Wieczorek, Rychalska & Dabrowski, ICONIP 2021, eq. 3 (number recalled). https://arxiv.org/abs/2104.13643
    ValueError: a label out of range. TypeError: labels that are no whole numbers, an x that is no float.
    """
    members, sums = _sums(x, labels, num_classes)
    return (sums / members.sum(0).clamp(min=1)[:, None]).to(x.dtype)


def leave_one_out_centroids(x: Float[Tensor, "B D"], labels: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """The centroid of each row's class without the row, (S - x_b) / (n - 1).

    Summed in float64: S - x_b takes away the larger part again. Wieczorek et al., as above.
    ValueError: a class of one member, which has no centroid without it.
    """
    members, sums = _sums(x, labels, None)
    n = members.sum(0)[labels]
    if len(x) and bool((n < 2).any()):
        alone = labels[n < 2].tolist()
        raise ValueError(f"a class needs two members to leave one out; got one of {alone[:8]}")
    return ((sums[labels] - x.double()) / (n - 1)[:, None]).to(x.dtype)


def _sums(x: Tensor, labels: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """One-hot membership [B, C] and the sums [C, D], by a product: no atomics, the same bits each time."""
    if not isinstance(x, Tensor) or not isinstance(labels, Tensor) or not x.is_floating_point():
        got = [v.dtype if isinstance(v, Tensor) else type(v).__name__ for v in (x, labels)]
        raise TypeError(f"x must be a tensor of a float type, labels one of whole numbers; got {got[0]} and {got[1]}")
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be whole numbers; got {labels.dtype}: pass labels.long()")
    if num_classes is not None:
        check_counts(0, num_classes=num_classes)
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise ValueError(f"x must be [batch, dim] and labels [batch]; got {tuple(x.shape)} and {tuple(labels.shape)}")
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    C = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= C:
        raise ValueError(f"labels must be in 0 .. {C - 1}; got {low} to {high}")
    members = nn.functional.one_hot(labels.long(), max(C, 1))[:, :C].double()
    return members, members.mT @ x.double()
