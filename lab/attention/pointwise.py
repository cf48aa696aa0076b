"""Each weight by its own score: sigmoid, ReLU, StableMax's ratio. A row sums to what it may, or is made 1 at the end.

n_i is the number of keys that row i may see, counted in its mask.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lab.attention.exponential import count, softmax
from lab.attention.stream import exponential, pointwise, shares

Scores = Float[Tensor, "*rows J"]
Seen = Bool[Tensor, "*rows J"]


def _sigmoid(x: Tensor, n: Tensor, bias: Tensor | float | None = None) -> Tensor:
    return (x + (-n.log() if bias is None else bias)).sigmoid()


def sigmoid(x: Scores, mask: Seen, bias: Tensor | float | None = None) -> Scores:
    """sigma(x_j + bias), -log n_i unless given: rows of equal scores near 0 then sum to about 1."""
    return _sigmoid(x, count(mask, x), bias)


SIGMOID = pointwise(_sigmoid)


def sigmoid_normalized(x: Scores, mask: Seen) -> Scores:
    """sigma(x_j) / sum_k sigma(x_k) as softmax(log sigma(x)): no 0 / 0 where every sigma underflows."""
    return softmax(functional.logsigmoid(x), mask)


SIGMOID_NORMALIZED = exponential(lambda x, n: functional.logsigmoid(x))  # noqa: ARG005


def relu(x: Scores, mask: Seen) -> Scores:
    return x.relu() / count(mask, x)


RELU = pointwise(lambda x, n: x.relu() / n)


def _above_zero(x: Tensor, n: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """x + 1 from 0 on, 1 / (1 - x) below; each branch is evaluated on its own side only, or x = 1 has a NaN gradient"""
    return torch.where(x >= 0, x.clamp(min=0) + 1, 1 / (1 - x.clamp(max=0)))


def stablemax(x: Scores, mask: Seen) -> Scores:
    terms = torch.where(mask, _above_zero(x), 0)
    total = terms.sum(-1, keepdim=True)
    return terms / torch.where(total > 0, total, 1)


STABLEMAX = shares(_above_zero)


def balanced_slopes(heads: int) -> list[float]:
    """-2^-k for the first half of the heads, which look near, +2^-k for the other, which look far; k from 1."""
    near = (heads + 1) // 2
    return [-(2.0**-k) for k in range(1, near + 1)] + [2.0**-k for k in range(1, heads - near + 1)]


def _distance(x: Tensor, positions: tuple[Tensor, Tensor] | None) -> Tensor:
    """m - n of query m and key n; unless told otherwise the last query is the last key."""
    if positions is None:
        keys = torch.arange(x.shape[-1], device=x.device)
        queries = keys[-1:] if x.ndim == 1 else torch.arange(-x.shape[-2], 0, device=x.device) + x.shape[-1]
    else:
        queries, keys = positions
    far = queries[:, None] - keys
    return far[0] if x.ndim == 1 else far


def _swat(
    x: Tensor,
    n: Tensor | None = None,  # noqa: ARG001
    slopes: Tensor | None = None,
    window: int | None = None,
    positions: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    if window is not None and window < 1:
        raise ValueError(f"window is how many keys a query sees, itself among them; got {window}")
    far = _distance(x, positions)
    if slopes is None:
        each = balanced_slopes(x.shape[-3] if x.ndim > 2 else 1)
        slopes = torch.tensor(each, dtype=x.dtype, device=x.device)
        slopes = slopes[:, None, None] if x.ndim > 2 else slopes[0]
    weights = (x + slopes * far).sigmoid()
    return weights if window is None else torch.where(far.abs() < window, weights, 0)


def swat(
    x: Scores,
    mask: Seen,  # noqa: ARG001
    slopes: Tensor | None = None,
    window: int | None = None,
    positions: tuple[Tensor, Tensor] | None = None,
) -> Scores:
    """sigma(x_mn + s_h (m - n)), zero from a distance of `window` on; slopes s [H, 1, 1], balanced unless given.

    positions: of the queries [Tq] and the keys [Tk]; the last query is the last key unless given.
    """
    return _swat(x, None, slopes, window, positions)


SWAT = pointwise(_swat)
