"""One vector of each segment of tokens, coordinate by coordinate: sum, mean, max, min, std, log-sum-exp, softmax.

    y[s] = fold over the real tokens t of segment s of x[t]; zeros, with zero gradient, for a segment without tokens

The kernels are in segment_pool_triton, the vectorised path of a CPU in segment_torch.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import no_type_check

import torch
import triton
from torch import Tensor

from lab.kernels import segment_pool_triton, segment_torch
from lab.kernels.layout import Segments, Tokens, counts, is_padded

# what the backward pass needs of each segment and coordinate, beside x where the gradient depends on it
SAVED = {"sum": 0, "mean": 0, "max": 1, "min": 1, "std": 2, "lse": 1, "softmax": 2}
MODES = tuple(SAVED)
READS_X = ("std", "lse", "softmax")
BLOCK_T, BLOCK_D = 32, 64  # 64 coordinates in bf16 are one 128-byte line; 16 values of each state tile per thread

INTERPRETED = triton.knobs.runtime.interpret  # of weight when a kernel is defined, so now; and no graph could ask later

DEFINITIONS = {
    "sum": lambda row, _: row.sum(0),
    "mean": lambda row, _: row.mean(0),
    "max": lambda row, _: row.max(0).values,
    "min": lambda row, _: row.min(0).values,
    "std": lambda row, _: row.std(0, correction=0),
    "lse": lambda row, _: row.logsumexp(0),
    "softmax": lambda row, s: (s.reshape(len(s), -1).softmax(0) * row).sum(0),
}


def reference(x: Tensor, mask: Tensor, mode: str, scores: Tensor | None = None) -> Tensor:
    """The definition, segment by segment; tests use float64.

    x (B, T, D), mask (B, T), scores (B, T) or (B, T, D) -> (B, D); or x (N, D), offsets (S + 1), scores (N) or (N, D)
    -> (S, D).
    """

    def rows(values: Tensor) -> list[Tensor]:
        if is_padded(mask):
            return [row[real] for row, real in zip(values, mask, strict=True)]
        return list(values.split(mask.diff().tolist()))

    pairs = zip(rows(x), rows(x if scores is None else scores), strict=True)
    pooled = [DEFINITIONS[mode](row, s) if len(row) else row.sum(0) for row, s in pairs]
    return torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[-1])


def parts(programs: int, tokens: int, multiprocessors: int) -> int:
    """In how many parts to cut each segment: 1 unless the device would stand idle.

    Four programs of 4 warps per multiprocessor keep enough loads in flight to fill the memory's pipe (a figure to be
    measured); a part of fewer than 512 tokens, 64 kB in bf16, would cost more to merge than it saves.
    """
    return max(1, min(triton.cdiv(4 * multiprocessors, max(programs, 1)), triton.cdiv(tokens, 512), 64))


def _multiprocessors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 0


def flatten(x: Tensor, mask: Tensor, scores: Tensor | None) -> tuple[int, tuple[int, ...]]:
    """Segments, and the strides (x by segment, token, coordinate; mask; scores) that make both layouts one."""
    padded, wide = is_padded(mask), scores is not None and scores.ndim == x.ndim
    of_x = x.stride() if padded else (0, *x.stride())
    of_mask = mask.stride() if padded else (0, *mask.stride())
    of_scores = (0, 0, 0)
    if scores is not None:
        of_scores = (*(() if padded else (0,)), *scores.stride(), *(() if wide else (0,)))
    return len(mask) - (not padded), (*of_x, *of_mask, *of_scores)


def on_device(x: Tensor) -> AbstractContextManager:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@torch.library.custom_op("lab::segment_pool", mutates_args=())
def _pool(x: Tensor, mask: Tensor, mode: str, scores: Tensor | None) -> tuple[Tensor, Tensor]:
    """The pooled vectors, and SAVED[mode] planes [S, D] for the backward pass."""
    segments, strides = flatten(x, mask, scores)
    tokens, D = x.shape[-2:]
    y, aux = _outputs(x, segments, mode)
    blocks = triton.cdiv(D, BLOCK_D)
    k = parts(segments * blocks, tokens, _multiprocessors(x))
    work = torch.empty((3, segments * k, D) if k > 1 else 0, dtype=torch.float32, device=x.device)
    if y.numel():
        constants = {"MODE": mode, "BLOCK_D": BLOCK_D}
        with on_device(x):
            segment_pool_triton.forward[(segments * k * blocks,)](
                x, mask, x if scores is None else scores, y, aux, work, tokens, D, segments, k, *strides,
                PADDED=is_padded(mask), WIDE=scores is not None and scores.ndim == x.ndim, SPLIT=k > 1,
                BLOCK_T=BLOCK_T, **constants,
            )  # fmt: skip
            if k > 1:
                lanes = triton.next_power_of_2(k)
                segment_pool_triton.combine[(segments * blocks,)](
                    work, y, aux, D, segments, k, LANES=lanes, **constants
                )
    return y, aux


@no_type_check  # sizes are symbols while a graph is traced, here and below
def _outputs(x: Tensor, segments: int, mode: str) -> tuple[Tensor, Tensor]:
    y = x.new_empty(segments, x.shape[-1])
    return y, x.new_empty(
        SAVED[mode], segments, x.shape[-1], dtype=torch.int32 if mode in {"max", "min"} else torch.float32
    )


@_pool.register_fake
@no_type_check
def _(x: Tensor, mask: Tensor, mode: str, scores: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return _outputs(x, mask.shape[0] - (not is_padded(mask)), mode)


@torch.library.custom_op("lab::segment_pool_backward", mutates_args=())
def _gradient(
    dy: Tensor, x: Tensor | None, mask: Tensor, mode: str, scores: Tensor | None, aux: Tensor, tokens: int
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the scores (empty without scores)."""
    dx, ds = _gradients(dy, mask, scores, tokens)
    segments, strides = flatten(dx if x is None else x, mask, scores)
    D, blocks = dy.shape[-1], triton.cdiv(dy.shape[-1], BLOCK_D)
    per_token = scores is not None and scores.ndim < dx.ndim
    shares = torch.empty(*scores.shape, blocks, device=dy.device) if per_token else ds
    if dx.numel():
        k = parts(
            segments * blocks, 4 * tokens, _multiprocessors(dx)
        )  # nothing to merge here, so parts may be a quarter as long
        with on_device(dy):
            segment_pool_triton.backward[(segments * k * blocks,)](
                dy, dy if x is None else x, mask, dy if scores is None else scores, aux, counts(mask), dx, shares,
                tokens, D, segments, k, *dy.stride(), *strides,
                MODE=mode, PADDED=is_padded(mask), WIDE=scores is not None and not per_token,
                BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D,
            )  # fmt: skip
    return dx, shares.sum(-1).to(scores.dtype) if per_token else ds


@no_type_check
def _gradients(dy: Tensor, mask: Tensor, scores: Tensor | None, tokens: int) -> tuple[Tensor, Tensor]:
    lead = (dy.shape[0], tokens) if is_padded(mask) else (tokens,)
    dx = dy.new_empty(*lead, dy.shape[-1])
    return dx, dy.new_empty(0) if scores is None else scores.new_empty(scores.shape)


@_gradient.register_fake
@no_type_check
def _(
    dy: Tensor,
    x: Tensor | None,  # noqa: ARG001
    mask: Tensor,
    mode: str,  # noqa: ARG001
    scores: Tensor | None,
    aux: Tensor,  # noqa: ARG001
    tokens: int,
) -> tuple[Tensor, Tensor]:
    return _gradients(dy, mask, scores, tokens)


def _save(ctx, inputs: tuple, output: tuple) -> None:
    x, mask, mode, scores = inputs
    ctx.mode, ctx.tokens = mode, x.shape[-2]
    # sum, mean, max and min need not hold on to the states
    ctx.save_for_backward(x if mode in READS_X else None, mask, scores, output[1])


def _differentiate(ctx, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, mask, scores, aux = ctx.saved_tensors
    dx, ds = _gradient(dy, x, mask, ctx.mode, scores, aux, ctx.tokens)
    return dx, None, None, None if scores is None else ds


_pool.register_autograd(_differentiate, setup_context=_save)


def apply(x: Tensor, mask: Tensor, mode: str, scores: Tensor | None = None) -> Tensor:
    """The kernel with its gradient; the signature of `reference`."""
    return _pool(x, mask, mode, scores)[0]


def by_kernel(x: Tensor) -> bool:
    """On a GPU or in Triton's interpreter; float64 is for definitions, and goes to plain torch."""
    return x.dtype != torch.float64 and (x.is_cuda or INTERPRETED)


def segment_pool(x: Tokens, mask: Segments, mode: str, scores: Tensor | None = None) -> Tensor:
    """reference, by the kernel on a GPU or in Triton's interpreter, by plain torch on a CPU and in float64."""
    if by_kernel(x):
        return apply(x, mask, mode, scores)
    return segment_torch.pool(x, mask, mode, scores)
