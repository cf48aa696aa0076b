"""Softmax and what is made of it: one more logit, another temperature, a factor on top, an exponential cut at 1.

Every exponential here subtracts a maximum. n_i is the number of keys that row i may see, counted in its mask.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.attention.stream import Stream, Sums, exponential

Scores = Float[Tensor, "*rows J"]
Seen = Bool[Tensor, "*rows J"]

ENTROPY_POLYNOMIAL = (-0.037, 0.481, -2.3, 4.917, -1.791)  # of the entropy in nats, the highest power first
PTS = math.exp(-math.exp(1.5))  # weight of log n at the start of SSA's released training
EPSILON = 1e-6  # softpick's, as in its released kernel


def count(mask: Seen, like: Tensor) -> Tensor:
    """n_i of each row as a number [..., 1]; 1 for a row without keys, whose weights are zero whatever they are."""
    return mask.sum(-1, keepdim=True).clamp(min=1).to(like.dtype)


def softmax(x: Scores, mask: Seen, sink: Tensor | float | None = None) -> Scores:
    """e^x_j / sum_k e^x_k, or over the sum and e^sink: one more key without a value, as gpt-oss has it."""
    x = x.masked_fill(~mask, torch.finfo(x.dtype).min)  # not -inf: a row without keys would be NaN
    if sink is None:
        return x.softmax(-1)
    sink = torch.as_tensor(sink, dtype=x.dtype, device=x.device).broadcast_to(*x.shape[:-1], 1)
    return torch.cat([x, sink], -1).softmax(-1)[..., :-1]


def _plain(x: Tensor, n: Tensor, sink: Tensor | float | None = None) -> Tensor:  # noqa: ARG001 (every logit may read them)
    return x


def _with_sink(sink: Tensor | float | None = None) -> tuple[float | Tensor, float]:
    return (torch.finfo(torch.float32).min, 0.0) if sink is None else (sink, 1.0)


SOFTMAX = exponential(_plain, rest=_with_sink)


def softmax1(x: Scores, mask: Seen, extra: float = 1.0) -> Scores:
    """e^x_j / (extra + sum_k e^x_k): softmax beside so many keys of logit 0 that have no value; extra = 0 is softmax.

    In this form the shift by the maximum reaches the 1 as well, and the maximum is never below 0.
    """
    if not extra >= 0:
        raise ValueError(f"extra is a number of keys of logit 0, 0 or more; got {extra}")
    return softmax(x, mask, None if extra == 0 else math.log(extra))


SOFTMAX1 = exponential(lambda x, n, extra=1.0: x, rest=lambda extra=1.0: (0.0, extra))  # noqa: ARG005


def sink_logit(x: Scores, mask: Seen, sink: Tensor | float = 0.0) -> Scores:
    return softmax(x, mask, sink)


SINK_LOGIT = exponential(lambda x, n, sink=0.0: x, rest=lambda sink=0.0: (sink, 1.0))  # noqa: ARG005


def sink_logit_learned(call: Any) -> dict[str, Tensor]:
    return {"sink": torch.zeros(call.query.shape[1], 1, 1)}


def ssmax_logit(x: Tensor, n: Tensor, s: Tensor | float = 0.43) -> Tensor:
    return s * n.log() * x


def ssmax(x: Scores, mask: Seen, s: Tensor | float = 0.43) -> Scores:
    return softmax(ssmax_logit(x, count(mask, x), s), mask)


SSMAX = exponential(ssmax_logit)


def ssmax_learned(call: Any) -> dict[str, Tensor]:
    return {"s": torch.full((call.query.shape[1], 1, 1), 0.43)}


def ssa_logit(x: Tensor, n: Tensor, spike: Tensor | float = 0.0, length: Tensor | float = PTS) -> Tensor:
    return (1 + spike + length * n.log()) * x


def ssa(x: Scores, mask: Seen, spike: Tensor | float = 0.0, length: Tensor | float = PTS) -> Scores:
    return softmax(ssa_logit(x, count(mask, x), spike, length), mask)


SSA = exponential(ssa_logit)


def adaptive_temperature(x: Scores, mask: Seen) -> Scores:
    """softmax(beta x) with beta >= 1 by the entropy of softmax(x); the polynomial by Horner, highest power first."""
    p = softmax(x, mask)
    y = x - x.masked_fill(~mask, torch.finfo(x.dtype).min).amax(-1, keepdim=True).detach()
    y = torch.where(mask, y, 0)
    total = torch.where(mask, y.exp(), 0).sum(-1, keepdim=True)
    entropy = torch.where(total > 0, total, 1).log() - (torch.where(mask, p, 0) * y).sum(-1, keepdim=True)
    beta = torch.zeros_like(entropy)
    for coefficient in ENTROPY_POLYNOMIAL:
        beta = beta * entropy + coefficient
    return softmax(torch.where(entropy > 0.5, beta.clamp(min=1), 1) * y, mask)


def self_adjust(x: Scores, mask: Seen) -> Scores:
    return x * softmax(x, mask)


SELF_ADJUST = Stream(
    over=lambda x, top, n: x * (x - top).clamp(max=0).exp(),  # noqa: ARG005
    under=lambda x, top, n: (x - top).clamp(max=0).exp(),  # noqa: ARG005
    level=lambda x, n: x,  # noqa: ARG005
)


def self_adjust_normalized(x: Scores, mask: Seen) -> Scores:
    """The factor is 0 at min(x, 0) and 1 at max(x, 0); rows of zeros, where both are the same, give zeros."""
    low = torch.where(mask, x, torch.inf).amin(-1, keepdim=True).clamp(max=0)
    high = torch.where(mask, x, -torch.inf).amax(-1, keepdim=True).clamp(min=0)
    width = high - low
    return (x - low) / torch.where(width > 0, width, 1) * softmax(x, mask)


class _Adjusted(NamedTuple):
    plain: Sums  # softmax's own
    times: Sums  # likewise with the score as a factor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class SelfAdjustNormalized:
    """In blocks: (sum_j x_j p_j v_j - low sum_j p_j v_j) / (high - low), low and high known behind the last block."""

    def take(self, sums: _Adjusted | None, scores: Tensor, mask: Tensor, values: Tensor, n: Tensor) -> _Adjusted:
        plain = SOFTMAX.take(sums and sums.plain, scores, mask, values, n)
        times = SELF_ADJUST.take(sums and sums.times, scores, mask, values, n)
        x = torch.where(mask, scores, 0).to(plain.over.dtype)
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        if sums is not None:
            low, high = torch.minimum(low, sums.low), torch.maximum(high, sums.high)
        return _Adjusted(plain, times, low, high)

    def finish(self, sums: _Adjusted) -> Tensor:
        width = sums.high - sums.low
        raised = SELF_ADJUST.finish(sums.times) - sums.low * SOFTMAX.finish(sums.plain)
        return raised / torch.where(width > 0, width, 1)


SELF_ADJUST_NORMALIZED = SelfAdjustNormalized()


def expm1_scaled(x: Tensor, top: Tensor) -> Tensor:
    """(e^x - 1) e^-top for top >= max(x, 0), to full precision near x = 0 and without overflow."""
    near = x < 1
    far = (torch.where(near, top, x) - top).clamp(max=0).exp() - (-top).exp()
    return torch.where(near, torch.expm1(torch.where(near, x, 0)) * (-top).exp(), far)


def softpick(x: Scores, mask: Seen, eps: float = EPSILON) -> Scores:
    """relu(e^x_j - 1) / (sum_k |e^x_k - 1| + eps): top = max(x, 0), not max(x), whose e^-top overflows below -88."""
    if not eps > 0:
        raise ValueError(f"eps keeps a row of zeros from 0 / 0 and must be positive; got {eps}")
    top = torch.where(mask, x, 0).amax(-1, keepdim=True).clamp(min=0).detach()
    terms = torch.where(mask, expm1_scaled(x, top), 0)
    return terms.relu() / (terms.abs().sum(-1, keepdim=True) + eps * (-top).exp())


SOFTPICK = Stream(
    over=lambda x, top, n, eps=EPSILON: expm1_scaled(x, top).relu(),  # noqa: ARG005
    under=lambda x, top, n, eps=EPSILON: expm1_scaled(x, top).abs(),  # noqa: ARG005
    level=lambda x, n, eps=EPSILON: x,  # noqa: ARG005
    rest=lambda eps=EPSILON: (0.0, eps),
)
