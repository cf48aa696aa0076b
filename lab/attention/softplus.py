"""Length-scaled softplus attention: cosines, a logarithm of the length in place of a temperature, no exponential."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lab.attention.exponential import count, softmax
from lab.attention.stream import exponential, pointwise

Scores = Float[Tensor, "*rows J"]
Seen = Bool[Tensor, "*rows J"]


def cosines(call: Any) -> Any:
    """The call with q and k of length 1 and log D in place of the scale: its scores are log D cos(q, k)."""
    wide = torch.promote_types(call.query.dtype, torch.float32)
    query, key = (functional.normalize(t.to(wide), dim=-1) for t in (call.query, call.key))
    return replace(call, query=query, key=key, scaling=math.log(call.query.shape[-1]))


def log_softplus(x: Tensor, n: Tensor) -> Tensor:
    """log softplus(log n x); below -15 it is x - e^x / 2 to the last digit, where softplus itself would underflow."""
    z = n.log() * x
    low = z < -15
    near = -functional.logsigmoid(
        -torch.where(low, 0, z)
    )  # functional.softplus is linear from 20 on, 2e-9 off in float64
    far = torch.where(low, z, 0)
    return torch.where(low, far - far.exp() / 2, near.log())


def lssa(x: Scores, mask: Seen) -> Scores:
    """softplus over its sum as the softmax of its logarithm: a row sums to 1 however low its scores are."""
    return softmax(log_softplus(x, count(mask, x)), mask)


LSSA = exponential(log_softplus)


def _softplus(x: Tensor, n: Tensor) -> Tensor:
    return -functional.logsigmoid(-n.log() * x)  # functional.softplus is linear from 20 on, 2e-9 off in float64


def lssa_unnormalized(x: Scores, mask: Seen) -> Scores:
    """softplus(log n x), divided by nothing: its row weighs some n log 2 at scores of 0, and grows with the row."""
    return _softplus(x, count(mask, x))


LSSA_UNNORMALIZED = pointwise(_softplus)


def lssar(x: Scores, mask: Seen, power: float = 3.0, start: int = 3) -> Scores:
    """relu(n A_j - 1)^power over its sum, A of LSSA; A_j^power over its sum in rows of at most `start` keys.

    n A_j - 1 is n / sum_k a_k times a_j - mean(a), and the sum divides that factor out: differences from the mean are
    taken instead, which are exactly 0 for equal keys, and divided by the greatest before the power, which cannot
    overflow then. A row of equal keys has nothing above its mean: zeros.
    """
    if not power >= 1:
        raise ValueError(f"power must be 1 or more; got {power}")
    n = count(mask, x)
    level = log_softplus(x, n)
    level = torch.where(mask, level - level.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True), 0)
    below = level.expm1()  # a_j / max(a) - 1
    above_mean = torch.where(mask, below - torch.where(mask, below, 0).sum(-1, keepdim=True) / n, 0).relu()
    kept = torch.where(mask, torch.where(n > start, above_mean, level.exp()), 0)
    most = kept.amax(-1, keepdim=True)
    raised = (kept / torch.where(most > 0, most, 1)) ** power
    total = raised.sum(-1, keepdim=True)
    return raised / torch.where(total > 0, total, 1)
