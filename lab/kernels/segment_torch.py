"""The reductions over segments in plain torch: what runs on a CPU, and in float64 anywhere.

Each is composed of a few moves that know the layout (total, top, expand), so padded and ragged share every formula,
and torch differentiates them, twice if asked to. No loop over segments.
"""

import torch
from torch import Tensor

from lab.kernels.layout import Segments, counts, expand, is_padded, keep, segment_ids


def total(x: Tensor, mask: Segments) -> Tensor:
    """Sum over each segment of x [B, T, *K] or [N, *K]; what stands in padding must have been cleared."""
    if is_padded(mask):
        return x.sum(1)
    if len(mask) == 1:
        return x[:0]  # no segments, so no tokens; still in the graph
    return x.new_zeros(len(mask) - 1, *x.shape[1:]).index_add(0, segment_ids(mask, len(x)), x)


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
    best = top(x, mask, sign)
    if x.requires_grad and torch.is_grad_enabled():
        # no token equals a NaN: the value is kept, which token has its gradient does not matter
        best = torch.where(best.isnan(), best, _first_of(x, best, mask, n))
    return torch.where(_empty(mask), 0, best)


def _first_of(x: Tensor, best: Tensor, mask: Segments, n: int) -> Tensor:
    """x at the first token of each segment that equals `best`, coordinate by coordinate; this one has a gradient."""
    hit = x == expand(best, mask, n)
    at = torch.arange(n, device=x.device, dtype=torch.int32)[:, None]  # half the traffic of int64
    if is_padded(mask):
        first = torch.where(hit & mask[..., None], at, n - 1).amin(1, keepdim=True)
        return x.gather(1, first.long())[:, 0]
    start = torch.full_like(best, n - 1, dtype=at.dtype)
    first = start.scatter_reduce(0, _ids_like(x, mask), torch.where(hit, at, n - 1), "amin")
    return x.gather(0, first.long())


def softmax(scores: Tensor, mask: Segments) -> Tensor:
    """exp(s) over its sum in each segment; zero at padding, at scores of -inf, and where no score is finite."""
    n = scores.shape[1] if is_padded(mask) else len(scores)
    hidden = keep(scores, mask, -torch.inf)
    e = (hidden - expand(_shift(hidden, mask), mask, n)).exp()
    z = total(e, mask)
    return e / expand(torch.where(z == 0, 1, z), mask, n)


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
    return _pool(x.to(wide), mask, mode, None if scores is None else scores.to(wide)).to(x.dtype)


def _pool(x: Tensor, mask: Segments, mode: str, scores: Tensor | None) -> Tensor:
    match mode:
        case "sum":
            return total(keep(x, mask), mask)
        case "mean":
            return total(keep(x, mask), mask) / counts(mask).clamp(min=1)[:, None]
        case "max" | "min":
            return extremum(x, mask, 1 if mode == "max" else -1)
        case "std":
            return std(x, mask)
        case "lse":
            return logsumexp(x, mask)
    assert mode == "softmax"
    weights = softmax(scores, mask)
    if weights.ndim < x.ndim:
        if is_padded(mask):
            return torch.bmm(weights[:, None], keep(x, mask))[:, 0]
        weights = weights[:, None]
    return total(weights * keep(x, mask), mask)


def _shift(hidden: Tensor, mask: Segments) -> Tensor:
    """The maximum, where it is finite: what every exponential subtracts."""
    best = top(hidden, mask, hidden=True)
    return torch.where(best.isinf(), 0, best)


def _empty(mask: Segments) -> Tensor:
    return (counts(mask) == 0)[:, None]


def _ids_like(x: Tensor, offsets: Tensor) -> Tensor:
    return segment_ids(offsets, len(x)).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
