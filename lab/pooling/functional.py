"""The reductions that poolings stand on: plain functions of token states and of what says which tokens are real.

Every one takes (x, mask) in either layout, and gives the same numbers in both:
    padded    x [B, T, D], mask bool [B, T], True = real token, wherever the padding stands
    ragged    x [N, D], mask = int offsets [S + 1]: segment s is x[offsets[s] : offsets[s + 1]]
An empty segment gives zeros and zero gradient; what stands in padding (NaN included) is never read; half inputs
accumulate in float32 and return their own dtype; inputs are not changed. ValueError or TypeError for bad input.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lab.kernels import layout, segment_torch
from lab.kernels import segment_pool as kernel
from lab.kernels import segment_stats as stats_kernel
from lab.kernels import weighted_sum as product
from lab.kernels.layout import Segments, Tokens, check, counts, is_padded, positions, to_padded, to_ragged
from lab.kernels.segment_pool import by_kernel
from lab.kernels.segment_stats import SegmentStats

__all__ = [
    "SegmentStats",
    "by_kernel",
    "check",
    "counts",
    "is_padded",
    "positions",
    "segment_expand",
    "segment_pool",
    "segment_softmax",
    "segment_stats",
    "to_padded",
    "to_ragged",
    "weighed",
    "weighted_sum",
]


def segment_pool(
    x: Tokens, mask: Segments, mode: str, scores: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "S D"]:
    """One vector of each segment, coordinate by coordinate.

    mode    "sum", "mean", "max", "min"
            "std"       sqrt(1/n sum_t (x_t - mean)^2), the population's; gradient 0 where it is 0. On a GPU inf where
                        it is above 1.8e19, whose square float32 does not hold
            "lse"       log sum_t exp(x_t); -inf if every x_t is
            "softmax"   sum_t w_t x_t with w = softmax of the scores over the segment's tokens
    scores  only for "softmax": one per token ([B, T] or [N]) or one per coordinate (the shape of x). A score of -inf
            is a weight of 0; a segment with no other score gives zeros. One of inf gives NaN, as in torch.softmax.
    Of equal extrema the first token gets the whole gradient (torch.amax would share it out).
    """
    check(x, mask)
    if mode not in kernel.MODES:
        raise ValueError(f"mode must be one of {', '.join(kernel.MODES)}; got {mode!r}")
    if (mode == "softmax") != (scores is not None):
        raise ValueError(
            f'scores go with mode "softmax" and with no other; got mode {mode!r}, scores {scores is not None}'
        )
    if scores is not None and not (isinstance(scores, Tensor) and scores.is_floating_point()):
        got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"scores must be a tensor of a float type; got {got}")
    if scores is not None and scores.shape not in (x.shape, x.shape[:-1]):
        raise ValueError(
            f"scores must be {tuple(x.shape[:-1])}, one per token, or {tuple(x.shape)}, one per coordinate; "
            f"got {tuple(scores.shape)}"
        )
    return kernel.segment_pool(x, mask, mode, scores)


def segment_softmax(scores: Float[Tensor, "..."], mask: Segments) -> Float[Tensor, "..."]:
    """exp(s_t) / sum_u exp(s_u) over each segment: [B, T], [B, T, K], [N] or [N, K], the same shape back.

    Zero at padding and in empty segments. -inf is a weight of 0, also where nothing else stands in the segment.
    """
    _check_tokens(scores, mask, "scores")
    return segment_torch.softmax(scores, mask).to(scores.dtype)


def segment_expand(y: Shaped[Tensor, " S *K"], mask: Segments, tokens: int | None = None) -> Shaped[Tensor, "..."]:
    """The value of each segment at each of its tokens, zero at padding: [B, *K] -> [B, T, *K], [S, *K] -> [N, *K].

    The adjoint of the sum: <expand(y), x> = <y, sum(x)>. tokens: the N of a ragged result; reading it from the
    offsets, where it is not given, waits for the device.
    """
    segments = _segments(mask, tokens)
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a tensor, one row for each of the {segments} segments; got {type(y).__name__}")
    if y.ndim < 1 or len(y) != segments:
        raise ValueError(f"y must have one row for each of the {segments} segments; got {tuple(y.shape)}")
    if is_padded(mask):
        tokens = mask.shape[1]
    elif tokens is None:
        tokens = int(mask[-1])
    return layout.keep(layout.expand(y, mask, tokens), mask)


def weighted_sum(x: Tokens, weights: Float[Tensor, "..."], mask: Segments) -> Float[Tensor, "S P D"]:
    """y[s, p] = sum over the segment's tokens t of weights[p, t] x[t]: P weightings of one read of x.

    weights: [B, P, T] beside padded x, [N, P] beside ragged x.
    """
    check(x, mask)
    wanted = "[B, P, T] beside padded x" if is_padded(mask) else "[N, P] beside ragged x"
    tokens = (len(x), x.shape[1]) if is_padded(mask) else (len(x),)
    if not isinstance(weights, Tensor) or weights.ndim != x.ndim or (*weights.shape[:1], *weights.shape[2:]) != tokens:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"weights must be {wanted}; got {got} and x {tuple(x.shape)}")
    if is_padded(mask):
        weights = layout.keep(weights.mT, mask)
    return weighed(x, weights, mask)


def weighed(x: Tokens, weights: Float[Tensor, "..."], mask: Segments) -> Float[Tensor, "S P D"]:
    """weighted_sum for weights that are 0 at padding already, a column for each weighting in both layouts.

    weights: [B, T, P] beside padded x, [N, P] beside ragged x.
    """
    weights = weights.to(torch.promote_types(x.dtype, torch.float32))
    if is_padded(mask) or x.device.type == "cpu":
        return product.weighted_sum(x, weights, mask).to(x.dtype)
    products = weights[:, :, None] * x.to(weights.dtype)[:, None]
    pooled = kernel.segment_pool(products.flatten(1), mask, "sum")  # and not index_add, which is atomic on a GPU
    return pooled.unflatten(1, products.shape[1:]).to(x.dtype)


def segment_stats(x: Tokens, mask: Segments) -> SegmentStats:
    """mean, max, first and last token [S, D] and the moments of the tokens' L2 norms [S], from one read of x.

    norm_mean = 1/n sum_t |x_t| and norm_square = 1/n sum_t |x_t|^2 are float32 for half inputs: their squares may
    overflow float16.
    """
    check(x, mask)
    return stats_kernel.segment_stats(x, mask)


def _segments(mask: Segments, tokens: int | None) -> int:
    """How many there are; TypeError or ValueError for what says of no tokens which segment they are in."""
    if not isinstance(mask, Tensor) or mask.dtype not in {torch.bool, torch.int32, torch.int64}:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be bool [B, T], or int64 offsets [S + 1]; got {got}")
    if is_padded(mask):
        if mask.ndim != 2:
            raise ValueError(f"mask must be [B, T]; got {tuple(mask.shape)}")
        return len(mask)
    if mask.ndim != 1 or len(mask) < 1:
        raise ValueError(f"offsets must be [segments + 1], at least [0]; got {tuple(mask.shape)}")
    if torch.compiler.is_compiling():
        return len(mask) - 1
    if tokens is None:
        check(mask.new_empty(max(int(mask[-1]), 0), 0, dtype=torch.float32), mask)
    elif layout.at_once(mask) and int(mask[-1]) != tokens:  # a GPU would wait for the answer
        raise ValueError(f"tokens must be {int(mask[-1])}, where the offsets end; got {tokens}")
    return len(mask) - 1


def _check_tokens(values: Shaped[Tensor, "..."], mask: Segments, name: str) -> None:
    """check for values [B, T], [B, T, K], [N] or [N, K]."""
    if not isinstance(values, Tensor) or not isinstance(mask, Tensor):
        raise TypeError(f"{name} and mask must be tensors; got {type(values).__name__} and {type(mask).__name__}")
    if values.ndim < 1 + is_padded(mask):
        raise ValueError(
            f"{name} must be [B, T] or [B, T, K] beside a mask, [N] or [N, K] beside offsets; got {tuple(values.shape)}"
        )
    check(values[..., None] if values.ndim == 1 + is_padded(mask) else values, mask)
