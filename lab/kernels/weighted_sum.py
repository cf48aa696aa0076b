"""P weighted sums of each segment, y[s, p] = sum over its real tokens t of weights[p, t] x[t], from one read of x.

Steps of its own for a CPU, where torch's would copy x to clear the padding, and take matrix products of inner size 1
for the gradient of one weighting, three times as slow as a broadcast product.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from lab.kernels.layout import Segments, Tokens, all_finite, at_once, expand, finite, is_padded, keep, total
from lab.kernels.parts import BYTES, FEWEST

SHORT = 64  # tokens; longer rows, or wider ones in proportion, are worth a matrix product each


def weighted_sum(x: Tokens, weights: Tensor, mask: Segments) -> Tensor:
    """x [B, T, D] or [N, D], weights [B, T, P] or [N, P], 0 at padding -> [S, P, D] of the weights' type."""
    if not at_once(x):
        return _whole(x, weights, mask)
    graph = torch.is_grad_enabled() and (x.requires_grad or weights.requires_grad)
    if not graph:
        return _forward(x, weights, mask)
    if x.nbytes <= FEWEST * BYTES and weights.shape[-1] == 1:  # a product in the cache is soon made
        y = total(x * weights, mask)
        return (y if all_finite(y) else total(finite(x, mask) * weights, mask))[:, None]
    return _WeightedSum.apply(x, weights, mask)


def _whole(x: Tensor, weights: Tensor, mask: Segments) -> Tensor:
    if is_padded(mask):
        return torch.bmm(weights.mT, keep(x, mask).to(weights.dtype))
    return total(weights[:, :, None] * x[:, None].to(weights.dtype), mask)


def _forward(x: Tensor, weights: Tensor, mask: Segments) -> Tensor:
    if not is_padded(mask):
        return torch.stack([bags(x.to(weights.dtype), mask, "sum", w) for w in weights.unbind(1)], 1)
    if x.dtype == weights.dtype or x.nbytes <= BYTES:
        y = _products(x.to(weights.dtype), weights)
    else:  # a few rows at a time, so that the copies stay in the cache
        rows = max(1, BYTES // x[0].nbytes)
        pairs = zip(x.split(rows), weights.split(rows), strict=True)
        y = torch.cat([_products(part.to(w.dtype), w) for part, w in pairs])
    # 0 times a NaN or Inf is NaN: a finite sum has met none in padding, and a copy of x without it is spared
    return y if all_finite(y) else _whole(x, weights, mask)


def _products(x: Tensor, weights: Tensor) -> Tensor:
    """Of many small matrices: for each, a matrix product begins anew (0.2 us), a sum of bags does not."""
    B, T, D = x.shape
    if weights.shape[-1] > 1 or T > SHORT or not 0 < T * D <= SHORT * SHORT:
        return torch.bmm(weights.mT, x)
    return bags(x.flatten(0, 1), torch.arange(0, B * T + 1, T), "sum", weights.flatten())[:, None]


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weights: Tensor, mask: Segments) -> Tensor:
        return _forward(x, weights, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG004
        x, weights, mask = inputs
        ctx.dtype = x.dtype
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weights, mask)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """In steps that torch can differentiate again."""
        x, weights, mask = ctx.saved_tensors
        dx = _to_tokens(dy, weights, mask).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return dx, None if x is None else _to_weights(dy, x.to(dy.dtype), mask), None


def bags(x: Tensor, offsets: Tensor, mode: str, weights: Tensor | None = None) -> Tensor:
    """One sum or mean of ragged tokens; torch's sum of embeddings is this, of rows given by their number."""
    every = torch.arange(len(x), dtype=offsets.dtype)
    return torch.nn.functional.embedding_bag(
        every, x, offsets, mode=mode, per_sample_weights=weights, include_last_offset=True
    )


def _to_tokens(dy: Tensor, weights: Tensor, mask: Segments) -> Tensor:
    if is_padded(mask):
        return weights * dy if dy.shape[1] == 1 else torch.bmm(weights, dy)
    each = zip(weights.unbind(1), dy.unbind(1), strict=True)
    return reduce(torch.add, (expand(g, mask, len(w)).mul_(w[:, None]) for w, g in each))


def _to_weights(dy: Tensor, x: Tensor, mask: Segments) -> Tensor:
    if not is_padded(mask):
        return torch.stack([(x * expand(g, mask, len(x))).sum(-1) for g in dy.unbind(1)], 1)
    if torch.is_grad_enabled():  # a gradient of this one would multiply what stands in padding by 0
        x = keep(x, mask)
    return keep(torch.bmm(x, dy.mT), mask)
