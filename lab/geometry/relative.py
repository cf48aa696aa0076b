"""Relative representations: a space described by cosines to anchors, and decoders that move between such spaces."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lab.geometry.classes import Classes
from lab.geometry.space import Space, space


def relative_to(x: Tensor | Space, anchors: Tensor) -> Tensor:
    """r(x) = [cos(x, a_1) .. cos(x, a_M)]. x [*L, N, D], anchors [*L, M, D] -> [*L, N, M] in float64.

    Unchanged by a rotation and a scale of the space (of x and anchors together), exactly; changed by a shift and a
    stretch. A zero row has cosine 0 with all. Every other number of lab.geometry can be taken of the result.

    Moschella et al., 2023, eq. 2 (number recalled). https://arxiv.org/abs/2209.15430
    ValueError for another width and NaN.
    """
    here, there = space(x), Space(anchors)
    if here.dim != there.dim:
        raise ValueError(f"anchors must be as wide as x, {here.dim}; got {there.dim}")
    return here.units @ there.units.mT


@dataclass(frozen=True)
class Stitched:
    """Held-out accuracies of one linear decoder per way of reading, all trained on the first space's training rows."""

    own: float  # on the first space, absolute
    own_relative: float  # on the first space, relative
    relative: float  # on the second space's relative coordinates, never seen in training: zero-shot stitching
    absolute: float  # on the second space as it is; NaN where the widths differ
    chance: float  # the commonest class of the training rows


def stitch(
    x: Tensor,
    y: Tensor,
    labels: object,
    *,
    anchors: int = 100,
    held_out: float = 0.3,
    ridge: float = 1e-2,
    seed: int = 0,
) -> Stitched:
    """Train a decoder on space x, read space y of the same examples with it: zero-shot latent communication.

    x [N, D], y [N, E], labels one for each row. Rows are split at random, held_out of them for the score; the anchors
    are drawn from the training rows and are the same examples in both spaces. The decoder is a linear classifier by
    ridge regression on one-hot labels, features centred by the training rows of x, penalty `ridge` times the mean
    squared length of a training row; no row of y enters it. relative far above chance where y is a rotation or a
    rescaling of x, or another training run; absolute stays near chance there.

    Moschella et al., 2023, section 5 (recalled). https://arxiv.org/abs/2209.15430
    ValueError for other numbers of rows, labels as in Classes, NaN, and shares or counts that leave nothing.
    """
    first, second = Space(x), Space(y)
    if first.x.ndim != 2 or second.x.ndim != 2 or first.n != second.n:
        raise ValueError(f"x and y must be [rows, dim] of the same rows; got {tuple(x.shape)} and {tuple(y.shape)}")
    grouped = Classes(first, labels)
    order = np.random.default_rng(seed).permutation(first.n)
    tested = round(held_out * first.n)
    if not 0 < tested < first.n or not 1 <= anchors <= first.n - tested or not ridge > 0:
        raise ValueError(
            f"of {first.n} rows, held_out={held_out} leaves {first.n - tested} to train, of which anchors={anchors} "
            f"must be at most all, and ridge={ridge} must be above 0"
        )
    truth = grouped.index
    test, train = (torch.from_numpy(part).to(truth.device) for part in (order[:tested], order[tested:]))
    onehot = torch.nn.functional.one_hot(truth[train], len(grouped.names)).double()
    one, two = (relative_to(side, side.x[train[:anchors]]) for side in (first, second))
    absolute = _decoder(first.x[train], onehot, ridge)
    decoder = _decoder(one[train], onehot, ridge)

    def right(read: Callable[[Tensor], Tensor], rows: Tensor) -> float:
        return float((read(rows[test]).argmax(1) == truth[test]).double().mean())

    return Stitched(
        own=right(absolute, first.x),
        own_relative=right(decoder, one),
        relative=right(decoder, two),
        absolute=right(absolute, second.x) if first.dim == second.dim else float("nan"),
        chance=float((truth[test] == onehot.sum(0).argmax()).double().mean()),
    )


def _decoder(x: Tensor, onehot: Tensor, ridge: float) -> Callable[[Tensor], Tensor]:
    """rows [N, D] -> scores [N, K]"""
    middle, bias = x.mean(0), onehot.mean(0)
    near = x - middle
    penalty = ridge * near.square().sum() / len(x)
    tall = len(x) >= x.shape[1]
    gram = near.T @ near if tall else near @ near.T
    root = torch.linalg.cholesky(
        gram + penalty.clamp(min=1e-12) * torch.eye(len(gram), dtype=gram.dtype, device=x.device)
    )
    target = onehot - bias
    weight = torch.cholesky_solve(near.T @ target, root) if tall else near.T @ torch.cholesky_solve(target, root)
    return lambda rows: (rows - middle) @ weight + bias
