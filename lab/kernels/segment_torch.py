"""The reductions over segments in plain torch: what runs on a CPU, and in float64 anywhere.

Each is composed of a few moves that know the layout (total, top, expand), so padded and ragged share every formula,
and torch differentiates them, twice if asked to. Nothing here loops over segments; `pool` lets parts.py do it where
the steps in between would not fit into a cache.
"""

from functools import partial

import torch
from torch import Tensor

from lab.kernels.layout import Segments, counts, expand, is_padded, keep, segment_ids, total
from lab.kernels.parts import by_parts
from lab.kernels.weighted_sum import weighted_sum


def top(x: Tensor, mask: Segments, sign: int = 1, hidden: bool = False) -> Tensor:
    """The largest (sign 1) or smallest (-1) value of each segment, without gradient; -inf or inf for an empty one."""
    x, worst, how = x.detach(), -sign * torch.inf, "amax" if sign > 0 else "amin"
    if is_padded(mask):
        start = x.new_full((len(x), *x.shape[2:]), worst)
        return getattr(x if hidden else keep(x, mask, worst), how)(1) if x.shape[1] else start
    start = x.new_full((len(mask) - 1, *x.shape[1:]), worst)
    return start.scatter_reduce(0, _ids_like(x, mask), x, how) if x.numel() else start


def extremum(x: Tensor, mask: Segments, sign: int) -> Tensor:
    """max or min over each segment; the first of equal tokens gets the whole gradient, as in torch.max(dim)."""
    n = x.shape[1] if is_padded(mask) else len(x)
    if n == 0:
        return total(x, mask)  # zeros, in the graph
    if x.requires_grad and torch.is_grad_enabled():
        at = torch.arange(n, device=x.device)
        at = at.expand(len(x), n) if is_padded(mask) else at
        first = by_parts(partial(_first, sign=sign), (x.detach(), at), mask)
        best = x.gather(1, first[:, None])[:, 0] if is_padded(mask) else x.gather(0, first)
    else:
        best = by_parts(partial(top, sign=sign), (x,), mask)
    return torch.where(_empty(mask), 0, best)


def _first(x: Tensor, at: Tensor, mask: Segments, sign: int) -> Tensor:
    """`at` of the first real token that attains the extremum, coordinate by coordinate; of any for an empty segment."""
    if is_padded(mask):
        hidden = keep(x, mask, -sign * torch.inf)
        first = (hidden.max(1) if sign > 0 else hidden.min(1)).indices
        # where all real tokens are infinite, padding equals them
        first = torch.where(mask.gather(1, first), first, mask.byte().argmax(1)[:, None])
        return at.gather(1, first)
    best = top(x, mask, sign)
    hit = (x == expand(best, mask, len(x))) | x.isnan()
    none = torch.full_like(best, len(x) - 1, dtype=at.dtype)
    return none.scatter_reduce(0, _ids_like(x, mask), torch.where(hit, at[:, None], len(x) - 1), "amin")


def softmax(scores: Tensor, mask: Segments) -> Tensor:
    """exp(s) over its sum in each segment; zero at padding, at scores of -inf, and where no score is finite."""
    e, z = _exponentials(scores, mask)
    return e / expand(z, mask, scores.shape[is_padded(mask)])


def softmax_sum(x: Tensor, scores: Tensor, mask: Segments) -> Tensor:
    """The sum of softmax(scores) x over each segment, divided once for each segment and not for each token."""
    e, z = _exponentials(scores, mask)
    return total(e * keep(x, mask), mask) / z


def _exponentials(scores: Tensor, mask: Segments) -> tuple[Tensor, Tensor]:
    """exp(s - max), zero at padding, and its sum in each segment, with 1 in place of 0."""
    n = scores.shape[is_padded(mask)]
    hidden = keep(scores, mask, -torch.inf)
    e = (hidden - expand(_shift(hidden, mask), mask, n)).exp()
    z = total(e, mask)
    return e, torch.where(z == 0, 1, z)


def logsumexp(x: Tensor, mask: Segments) -> Tensor:
    """log sum exp over each segment and coordinate: 0 for an empty segment, -inf for one of nothing but -inf."""
    n = x.shape[1] if is_padded(mask) else len(x)
    hidden = keep(x, mask, -torch.inf)
    shift = _shift(hidden, mask)
    z = total((hidden - expand(shift, mask, n)).exp(), mask)
    nothing = torch.where(_empty(mask), 0, -torch.inf).to(x.dtype)
    return torch.where(z == 0, nothing, torch.where(z == 0, 1, z).log() + shift)


def std(x: Tensor, mask: Segments) -> Tensor:
    """Population standard deviation of each segment; gradient 0 where it is 0."""
    n = x.shape[1] if is_padded(mask) else len(x)
    length = counts(mask).clamp(min=1)[:, None]
    # around one of the tokens: an offset all share drops out, and equal tokens give exactly 0, not a rounding error
    near = keep(x - expand(_shift(keep(x, mask, -torch.inf), mask), mask, n), mask)
    centred = keep(near - expand(total(near, mask) / length, mask, n), mask)
    variance = total(centred.square(), mask) / length
    return torch.where(variance == 0, 0, torch.where(variance == 0, 1, variance).sqrt())


def pool(x: Tensor, mask: Segments, mode: str, scores: Tensor | None = None) -> Tensor:
    """segment_pool in plain torch: float32 inside for half inputs, x's type again outside."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if mode in {"sum", "mean"}:
        share = 1 / counts(mask).clamp(min=1).to(wide) if mode == "mean" else counts(mask).to(wide).fill_(1)
        weights = expand(share, mask, x.shape[-2])
    elif mode == "softmax" and scores.ndim < x.ndim:
        weights = softmax(scores.to(wide), mask)
    else:
        return by_parts(partial(_pool, mode=mode), (x,) if scores is None else (x, scores), mask)
    return weighted_sum(x, weights[:, None], mask)[:, 0].to(x.dtype)


def _pool(x: Tensor, *rest: Tensor, mode: str) -> Tensor:
    *scores, mask = rest
    wide = torch.promote_types(x.dtype, torch.float32)
    return FORMULAS[mode](x.to(wide), *(s.to(wide) for s in scores), mask).to(x.dtype)


FORMULAS = {
    "max": partial(extremum, sign=1),
    "min": partial(extremum, sign=-1),
    "std": std,
    "lse": logsumexp,
    "softmax": softmax_sum,
}


def _shift(hidden: Tensor, mask: Segments) -> Tensor:
    """The maximum, where it is finite: what every exponential subtracts."""
    best = top(hidden, mask, hidden=True)
    return torch.where(best.isinf(), 0, best)


def _empty(mask: Segments) -> Tensor:
    return (counts(mask) == 0)[:, None]


def _ids_like(x: Tensor, offsets: Tensor) -> Tensor:
    return segment_ids(offsets, len(x)).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
