"""Attention that is a recurrence: a kernel of features, and the exponential by the terms of its Taylor series.

sum_j (q . k_j)^m v_j = (q tensor m) . sum_j (k_j tensor m) v_j: each order is a state that keys are added to, as the
first is in linear attention.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lab.attention.stream import Stream, pointwise, shares

Scores = Float[Tensor, "*rows J"]
Seen = Bool[Tensor, "*rows J"]
ORDER = 8


def features(call: Any) -> Any:
    """The call with elu + 1 of q and k, unscaled: its scores are phi(q) . phi(k).

    ValueError where the model adds a bias to its scores or caps them: a product of features has neither.
    """
    if call.bias is not None or call.softcap is not None:
        kind = "adds a bias to" if call.bias is not None else "caps"
        raise ValueError(
            f"{type(call.module).__name__} {kind} its scores, which linear attention has not: take a normalizer of "
            "scores, as recurrent, or a model without"
        )
    wide = torch.promote_types(call.query.dtype, torch.float32)
    query, key = (functional.elu(t.to(wide)) + 1 for t in (call.query, call.key))
    return replace(call, query=query, key=key, scaling=1.0)


def linear(x: Scores, mask: Seen) -> Scores:
    """s_j / sum_k s_k of similarities s = phi(q) . phi(k), none of which is negative; a negative one counts as none."""
    terms = torch.where(mask, x, 0).relu()
    top = terms.amax(-1, keepdim=True)
    scaled = terms / torch.where(top > 0, top, 1)
    total = scaled.sum(-1, keepdim=True)
    return scaled / torch.where(total > 0, total, 1)


LINEAR = shares(lambda x, n: x.relu())  # noqa: ARG005


def taylor(x: Tensor, order: int, log_scale: Tensor | float = 0.0) -> Tensor:
    """e^-log_scale sum_m x^m / m! for m to `order`, by Horner in x / c, c = e^(log_scale / order).

    With r = x / c the m-th term is r^m c^(m - order) / m!, and no factor is above 1 where c >= max(1, |x|).
    """
    inverse = torch.exp(-torch.as_tensor(log_scale, dtype=x.dtype, device=x.device) / order)
    r = x * inverse
    total = torch.zeros_like(x)
    for m in range(order, -1, -1):
        total = total * r + inverse ** (order - m) * (1 / math.factorial(m))
    return total


def checked(order: int, even: bool = False) -> int:
    if not isinstance(order, int) or not 1 <= order <= 32:
        raise ValueError(f"order is the last power of the series, 1 to 32; got {order}")
    if even and order % 2:
        raise ValueError(
            f"a series that ends in an odd power is negative somewhere and its sum may be 0: take an even order to "
            f"divide by the sum; got {order}"
        )
    return order


def _level(x: Tensor, order: int) -> Tensor:
    return order * x.abs().clamp(min=1).log()


def _row_level(x: Tensor, mask: Tensor, order: int) -> Tensor:
    return torch.where(mask, _level(x, order), 0).amax(-1, keepdim=True)


def recurrent(x: Scores, mask: Seen, order: int = ORDER) -> Scores:
    """e_M(x_j) / sum_k e_M(x_k), e_M(x) = sum_(m <= M) x^m / m!, M even: then e_M > 0."""
    terms = taylor(x, checked(order, even=True), _row_level(x, mask, order))
    terms = torch.where(mask, terms, 0)
    total = terms.sum(-1, keepdim=True)
    return terms / torch.where(total > 0, total, 1)


RECURRENT = Stream(
    over=lambda x, top, n, order=ORDER: taylor(x, order, top),  # noqa: ARG005
    under=lambda x, top, n, order=ORDER: taylor(x, order, top),  # noqa: ARG005
    level=lambda x, n, order=ORDER: _level(x, order),  # noqa: ARG005
)


def recurrent_norm(x: Scores, mask: Seen, order: int = ORDER) -> Scores:
    """e_M(x_j) / max_k(1, |x_k|)^M: any factor of a row is divided out by the norm of the output."""
    return taylor(x, checked(order), _row_level(x, mask, order))


RECURRENT_NORM = Stream(
    over=lambda x, top, n, order=ORDER: taylor(x, order, top),  # noqa: ARG005
    level=lambda x, n, order=ORDER: _level(x, order),  # noqa: ARG005
)


def recurrent_gate(x: Scores, mask: Seen, order: int = ORDER) -> Scores:  # noqa: ARG001
    return taylor(x, checked(order))


RECURRENT_GATE = pointwise(lambda x, n, order=ORDER: taylor(x, order))  # noqa: ARG005


def normed(out: Tensor, call: Any) -> Tensor:  # noqa: ARG001 (every stage is given the call)
    """out / sqrt(mean_d out_d^2), each head's own; a row of zeros stays zeros."""
    top = out.detach().abs().amax(-1, keepdim=True)
    scaled = out / torch.where(top > 0, top, 1)  # the square of a small output would underflow
    size = scaled.square().mean(-1, keepdim=True)
    return scaled / torch.where(size > 0, size, 1).sqrt()
