"""The reductions over segments in plain torch: what runs on a CPU, and in float64 anywhere.

Each is composed of a few moves that know the layout (total, top, expand), so padded and ragged share every formula,
and torch differentiates them, twice if asked to. Nothing here loops over segments; `pool` lets parts.py do it where
the steps in between would not fit into a cache.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lab.kernels.layout import (
    Segments,
    all_finite,
    at_once,
    counts,
    expand,
    finite,
    is_full,
    is_padded,
    keep,
    segment_ids,
    total,
)
from lab.kernels.parts import by_parts
from lab.kernels.weighted_sum import bags, weighted_sum


def top(x: Tensor, mask: Segments, sign: int = 1) -> Tensor:
    """The largest (sign 1) or smallest (-1) value of each segment, without gradient; -inf or inf for an empty one."""
    return _top(keep(x.detach(), mask, -sign * torch.inf), mask, sign)


def _top(hidden: Tensor, mask: Segments, sign: int = 1) -> Tensor:
    """The same where padding is hidden already."""
    worst, how = -sign * torch.inf, "amax" if sign > 0 else "amin"
    if is_padded(mask) and hidden.shape[1]:
        return getattr(hidden, how)(1)
    if hidden.numel() and at_once(hidden):
        return torch.segment_reduce(hidden, how[1:], offsets=mask, initial=worst, unsafe=True)
    start = hidden.new_full((len(mask) - (not is_padded(mask)), *hidden.shape[mask.ndim :]), worst)
    return start.scatter_reduce(0, _ids_like(hidden, mask), hidden, how) if hidden.numel() else start


def _finite(best: Tensor) -> Tensor:
    """A maximum where that is finite, else 0: what an exponential or a deviation subtracts."""
    return best.masked_fill_(best.isinf(), 0)


def extremum(x: Tensor, mask: Segments, sign: int) -> Tensor:
    """max or min over each segment; the first of equal tokens gets the whole gradient, as in torch.max(dim)."""
    n = x.shape[1] if is_padded(mask) else len(x)
    if n == 0:
        return total(x, mask)  # zeros, in the graph
    if x.requires_grad and torch.is_grad_enabled():
        at = torch.arange(n, device=x.device)
        at = at.expand(len(x), n) if is_padded(mask) else at
        (first,) = by_parts(partial(_first, sign=sign), (x.detach(), at), mask)
        best = x.gather(1, first[:, None])[:, 0] if is_padded(mask) else x.gather(0, first)
    elif is_padded(mask):
        (best,) = by_parts(lambda x, mask: (top(x, mask, sign),), (x,), mask)
    else:  # one read, and nothing in between
        best = top(x, mask, sign)
    return best if is_full(mask) else torch.where(_empty(mask), 0, best)


def _first(x: Tensor, at: Tensor, mask: Segments, sign: int) -> tuple[Tensor]:
    """`at` of the first real token that attains the extremum, coordinate by coordinate; of any for an empty segment."""
    if is_padded(mask):
        hidden = keep(x, mask, -sign * torch.inf)
        first = (hidden.max(1) if sign > 0 else hidden.min(1)).indices
        # where all real tokens are infinite, padding equals them
        first = torch.where(mask.gather(1, first), first, mask.byte().argmax(1)[:, None])
        return (at.gather(1, first),)
    best = top(x, mask, sign)
    hit = (x == expand(best, mask, len(x))) | x.isnan()
    none = torch.full_like(best, len(x) - 1, dtype=at.dtype)
    return (none.scatter_reduce(0, _ids_like(x, mask), torch.where(hit, at[:, None], len(x) - 1), "amin"),)


def exponentials(scores: Tensor, mask: Segments) -> tuple[Tensor, Tensor]:
    """exp(s - m), zero at padding, and m, the maximum of each segment where that is finite."""
    hidden = keep(scores, mask, -torch.inf)
    m = _finite(_top(hidden.detach(), mask))
    return (hidden - expand(m, mask, scores.shape[is_padded(mask)])).exp_(), m


def divisor(z: Tensor) -> Tensor:
    """1 where z is 0: no segment of any weight has a sum of 0."""
    return z.masked_fill(z == 0, 1)


def softmax(scores: Tensor, mask: Segments) -> Tensor:
    """exp(s) over its sum in each segment; zero at padding, at scores of -inf, and where no score is finite."""
    scores = _wide(scores)
    if is_padded(mask) and at_once(scores) and scores.shape[1]:
        hiding = torch.where(mask, 0, -torch.inf)
        weights = (scores if is_full(mask) else scores + hiding.view(*mask.shape, *[1] * (scores.ndim - 2))).softmax(1)
        # NaN anywhere, or no finite score, is NaN at every token: both are left to what follows
        if all_finite(weights[:, 0]):
            return weights
    e, _ = exponentials(scores, mask)
    return e / expand(divisor(total(e, mask)), mask, scores.shape[is_padded(mask)])


def exponential_sum(x: Tensor, mask: Segments) -> tuple[Tensor, Tensor]:
    """z = sum_t exp(x_t - m), and m."""
    e, m = exponentials(_wide(x), mask)
    return total(e, mask), m


def exponential_sum_gradient(dy: Sequence[Tensor], y: Sequence[Tensor], x: Tensor, mask: Tensor) -> tuple[Tensor]:
    e = (keep(_wide(x), mask, -torch.inf) - y[1][:, None]).exp_()
    return (e.mul_(dy[0][:, None]),)


def logsumexp(z: Tensor, m: Tensor, mask: Segments) -> Tensor:
    """ln z + m: 0 for an empty segment, -inf for one of nothing but -inf."""
    nothing = torch.where(_empty(mask), 0, -torch.inf).to(z.dtype)
    return torch.where(z == 0, nothing, divisor(z).log() + m)


def softmax_mean(x: Tensor, scores: Tensor, mask: Segments) -> tuple[Tensor]:
    """The mean weighted by the softmax of scores as wide as x."""
    return (total(softmax(scores, mask) * finite(_wide(x), mask), mask),)


def softmax_mean_gradient(
    dy: Sequence[Tensor], y: Sequence[Tensor], x: Tensor, scores: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """dx = w dy and ds = w dy (x - y): with y known no sum over tokens is left."""
    dx = softmax(scores, mask).mul_(dy[0][:, None])
    return dx, (finite(_wide(x), mask) - y[0][:, None]).mul_(dx)


def std(x: Tensor, mask: Segments) -> tuple[Tensor]:
    """Population standard deviation of each segment; gradient 0 where it is 0."""
    x = _wide(x)
    n = x.shape[1] if is_padded(mask) else len(x)
    length = counts(mask).clamp(min=1)[:, None]
    # around one of the tokens: an offset all share drops out, and equal tokens give exactly 0, not a rounding error
    near = keep(x - expand(_finite(top(x, mask)), mask, n), mask)
    root, safe = _deviation(near, mask, n, length)
    if not safe:  # a square would leave the type: of shares of the largest deviation, at most 1
        scale = divisor(_finite(top(near.abs(), mask)))
        root = _deviation(near / expand(scale, mask, n), mask, n, length)[0] * scale
    return (root,)


def _deviation(near: Tensor, mask: Segments, n: int, length: Tensor) -> tuple[Tensor, bool]:
    """sqrt(1/n sum_t (x_t - mean)^2), and whether its squares are known to have neither over- nor underflowed.

    near: no number above 0, so that a sum of exactly 0 is one of equal tokens, whose deviation is 0 and no underflow.
    """
    sums = total(near, mask)
    centred = keep(near - expand(sums / length, mask, n), mask)
    variance = total(centred.square(), mask) / length
    root = torch.where(variance == 0, 0, divisor(variance).sqrt())
    if not at_once(variance):
        return root, False
    if not variance.numel():
        return root, True
    low, high = (end.item() for end in torch.where(sums == 0, 1, variance).detach().aminmax())
    return root, 1e-30 < low <= high < torch.inf  # NaN is not


def pool(x: Tensor, mask: Segments, mode: str, scores: Tensor | None = None) -> Tensor:
    """segment_pool in plain torch: float32 inside for half inputs, x's type again outside."""
    match mode:
        case "max" | "min":
            return extremum(x, mask, 1 if mode == "max" else -1)
        case "sum" | "mean":
            y = _sum(x, mask, mode)
        case "std":
            (y,) = by_parts(std, (x,), mask)
        case "lse":
            y = logsumexp(*by_parts(exponential_sum, (x,), mask, gradient=exponential_sum_gradient), mask)
        case "softmax":
            y = softmax_sum(x, scores, mask)
    return y.to(x.dtype)


def _sum(x: Tensor, mask: Segments, mode: str) -> Tensor:
    """The sum of each segment, or the mean."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if is_full(mask) and x.shape[-2]:  # in this order: of ragged tokens a graph may not know how many there are
        return x.sum(1, dtype=wide) if mode == "sum" else x.mean(1, dtype=wide)
    if not is_padded(mask) and at_once(x) and not (x.requires_grad and torch.is_grad_enabled()):
        return bags(x.to(wide), mask, mode)
    if is_padded(mask):
        weights = mask.to(wide)
        if mode == "mean":
            weights /= weights.sum(1, keepdim=True).clamp_(min=1)
    else:
        n = counts(mask).to(wide)
        weights = expand(1 / n.clamp(min=1) if mode == "mean" else torch.ones_like(n), mask, len(x))
    return weighted_sum(x, weights[..., None], mask).squeeze(1)


def softmax_sum(x: Tensor, scores: Tensor, mask: Segments) -> Tensor:
    """The mean weighted by the softmax of scores, one per token or one per coordinate."""
    if scores.ndim < x.ndim:
        return weighted_sum(x, softmax(scores, mask)[..., None], mask).squeeze(1)
    return by_parts(softmax_mean, (x, scores), mask, gradient=softmax_mean_gradient)[0]


def _wide(x: Tensor) -> Tensor:
    """float32, or the wider type that x has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _empty(mask: Segments) -> Tensor:
    return (counts(mask) == 0)[:, None]


def _ids_like(x: Tensor, offsets: Tensor) -> Tensor:
    return segment_ids(offsets, len(x)).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
