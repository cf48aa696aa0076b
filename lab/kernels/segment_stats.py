"""Several statistics of each segment from one read of its tokens: what a capture asks of every layer.

    mean, max, first, last    [S, D] each
    norm_mean, norm_square    [S], 1/n sum_t |x_t| and 1/n sum_t |x_t|^2, with |.| the L2 norm over the D coordinates

Zeros for a segment without tokens. The gradient of max goes to the first of equal tokens, that of a norm at 0 is 0.
The two norm moments are float32 for half inputs: a square may overflow float16.
The kernel gives the share that its block of coordinates has in each token's square norm; the shares, one number for
64, are summed outside in a fixed order. No atomics: the same bits every time.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from lab.kernels import segment_pool, segment_torch
from lab.kernels.layout import Segments, Tokens, counts, expand, is_padded, keep, positions
from lab.kernels.segment_pool import BLOCK_D, BLOCK_T, flatten, on_device
from lab.kernels.segment_pool_triton import fold, merge, span, step


class SegmentStats(NamedTuple):
    """What one read of the tokens gives of each segment."""

    mean: Float[Tensor, "S D"]
    max: Float[Tensor, "S D"]
    first: Float[Tensor, "S D"]
    last: Float[Tensor, "S D"]
    norm_mean: Float[Tensor, " S"]  # 1/n sum_t |x_t|, the L2 norm of each token
    norm_square: Float[Tensor, " S"]  # 1/n sum_t |x_t|^2


def reference(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """The definition, segment by segment; tests use float64. x (B, T, D), mask (B, T) or x (N, D), offsets (S + 1)."""
    if is_padded(mask):
        rows = [row[real] for row, real in zip(x, mask, strict=True)]
    else:
        rows = list(x.split(mask.diff().tolist()))
    empty = x.new_zeros(x.shape[-1]), x.new_zeros(())
    parts = [_of_row(row) if len(row) else (*[empty[0]] * 4, *[empty[1]] * 2) for row in rows]
    if not rows:
        return (*[x.new_zeros(0, x.shape[-1])] * 4, *[x.new_zeros(0)] * 2)
    return tuple(torch.stack(values) for values in zip(*parts, strict=True))


def _of_row(row: Tensor) -> tuple[Tensor, ...]:
    norms = torch.linalg.vector_norm(row, dim=1)
    return row.mean(0), row.max(0).values, row[0], row[-1], norms.mean(), norms.square().mean()


@triton.jit
@no_type_check  # a checked kernel would look for its helpers in the checker's module
def _forward(
    x, mask, out, shares, winner, ends, tokens, D, segments, x_s, x_t, x_d, m_s, m_t,
    PADDED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One segment, one block of coordinates; lanes keep their own sums and maxima and meet at the end."""
    blocks = tl.cdiv(D, BLOCK_D)
    s, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    start, begin, end = span(mask, m_t, s, tokens, 0, 1, PADDED, BLOCK_T)
    row = s * tokens if PADDED else start  # of the tokens of all segments
    x += s * x_s + start * x_t

    total = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    count, none, best = tl.zeros([BLOCK_T, 1], tl.float32), total, total - float("inf")
    at = tl.full([BLOCK_T, BLOCK_D], 2147483647, tl.int32)
    head, tail = tl.full([BLOCK_T, 1], 2147483647, tl.int32), tl.full([BLOCK_T, 1], -1, tl.int32)
    for t0 in range(begin, end, BLOCK_T):
        t, real = step(mask, m_s, m_t, s, t0, end, PADDED, BLOCK_T)
        rows = tl.load(x + t * x_t + d[None, :] * x_d, mask=real & (d < D)[None, :], other=0.0).to(tl.float32)
        number = t.to(tl.int32)
        count, total, none = fold(count, total, none, rows, rows, real, number, "mean")
        at, best, none = fold(at, best, none, rows, rows, real, number, "max")
        head = tl.minimum(head, tl.where(real, number, 2147483647))
        tail = tl.maximum(tail, tl.where(real, number, -1))
        tl.store(shares + (row + t) * blocks + block, tl.sum(rows * rows, 1)[:, None], mask=t < end)
    count, total, _ = merge(count, total, none, "mean")
    at, best, _ = merge(at, best, none, "max")
    head, tail = tl.min(head, 0), tl.max(tail, 0)  # [1]

    ours = (tail >= 0) & (d < D)
    first = tl.load(x + head.to(tl.int64) * x_t + d * x_d, mask=ours, other=0.0)
    last = tl.load(x + tail.to(tl.int64) * x_t + d * x_d, mask=ours, other=0.0)
    place, plane = s * D + d, segments * D
    kind: tl.constexpr = out.dtype.element_ty  # in a tuple it would not compile
    tl.store(out + place, (total / tl.maximum(count, 1.0)).to(kind), mask=d < D)
    tl.store(out + plane + place, tl.where(tail >= 0, best, 0.0).to(kind), mask=d < D)
    tl.store(out + 2 * plane + place, first.to(kind), mask=d < D)
    tl.store(out + 3 * plane + place, last.to(kind), mask=d < D)
    tl.store(winner + place, at, mask=d < D)
    one = tl.arange(0, 1)
    tl.store(ends + s * 2 + one, head, mask=(one + block) == 0)
    tl.store(ends + s * 2 + 1 + one, tail, mask=(one + block) == 0)


@triton.jit
@no_type_check
def _backward(
    dy, dsquare, x, mask, winner, ends, lengths, dx, tokens, D, y_p, y_s, y_d, x_s, x_t, x_d, m_s, m_t,
    PADDED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of each token of one segment: dy [4, S, D], dsquare one number per token and contiguous."""
    blocks = tl.cdiv(D, BLOCK_D)
    s = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, begin, end = span(mask, m_t, s, tokens, 0, 1, PADDED, BLOCK_T)
    row = s * tokens if PADDED else start
    x += s * x_s + start * x_t

    dy += s * y_s + d * y_d
    of_mean = tl.load(dy, mask=d < D, other=0.0).to(tl.float32) / tl.maximum(tl.load(lengths + s).to(tl.float32), 1.0)
    of_max = tl.load(dy + y_p, mask=d < D, other=0.0).to(tl.float32)
    of_first = tl.load(dy + 2 * y_p, mask=d < D, other=0.0).to(tl.float32)
    of_last = tl.load(dy + 3 * y_p, mask=d < D, other=0.0).to(tl.float32)
    at = tl.load(winner + s * D + d, mask=d < D, other=-1)
    head, tail = tl.load(ends + s * 2), tl.load(ends + s * 2 + 1)
    for t0 in range(begin, end, BLOCK_T):
        t, real = step(mask, m_s, m_t, s, t0, end, PADDED, BLOCK_T)
        inside = (t < end) & (d < D)[None, :]
        rows = tl.load(x + t * x_t + d[None, :] * x_d, mask=real & (d < D)[None, :], other=0.0).to(tl.float32)
        grad = of_mean[None, :] + 2.0 * rows * tl.load(dsquare + row + t, mask=real, other=0.0)
        grad += tl.where(t == at[None, :], of_max[None, :], 0.0)
        grad += tl.where(t == head, of_first[None, :], 0.0) + tl.where(t == tail, of_last[None, :], 0.0)
        tl.store(dx + (row + t) * D + d[None, :], tl.where(real, grad, 0.0).to(dx.dtype.element_ty), mask=inside)


@torch.library.custom_op("lab::segment_stats", mutates_args=())
def _stats(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mean, max, first and last as [4, S, D]; each token's square norm; which token is the maximum; first and last."""
    out, _, winner, ends = _outputs(x, mask)
    segments, strides = flatten(x, mask, None)
    tokens, D = x.shape[-2:]
    blocks = triton.cdiv(D, BLOCK_D)
    shares = torch.zeros(*x.shape[:-1], blocks, device=x.device)
    if out.numel():
        with on_device(x):
            _forward[(segments * blocks,)](
                x, mask, out, shares, winner, ends, tokens, D, segments, *strides[:5],
                PADDED=is_padded(mask), BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D,
            )  # fmt: skip
    return out, shares.sum(-1), winner, ends


@no_type_check  # sizes are symbols while a graph is traced
def _outputs(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    segments, D = mask.shape[0] - (not is_padded(mask)), x.shape[-1]
    return (
        x.new_empty(4, segments, D),
        x.new_empty(x.shape[:-1], dtype=torch.float32),
        x.new_empty(segments, D, dtype=torch.int32),
        x.new_empty(segments, 2, dtype=torch.int32),
    )


_stats.register_fake(_outputs)


@torch.library.custom_op("lab::segment_stats_backward", mutates_args=())
def _gradient(dy: Tensor, dsquare: Tensor, x: Tensor, mask: Tensor, winner: Tensor, ends: Tensor) -> Tensor:
    dx = x.new_empty(x.shape)
    segments, strides = flatten(x, mask, None)
    tokens, D = x.shape[-2:]
    if dx.numel() and segments:
        with on_device(x):
            _backward[(segments * triton.cdiv(D, BLOCK_D),)](
                dy, dsquare.contiguous(), x, mask, winner, ends, counts(mask), dx, tokens, D,
                *dy.stride(), *strides[:5], PADDED=is_padded(mask), BLOCK_T=BLOCK_T, BLOCK_D=BLOCK_D,
            )  # fmt: skip
    return dx


@_gradient.register_fake
@no_type_check
def _(dy, dsquare, x, mask, winner, ends):  # noqa: ARG001
    return x.new_empty(x.shape)


def _save(ctx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs, *output[2:])


def _differentiate(ctx, dy: Tensor, dsquare: Tensor, *_: Tensor | None) -> tuple[Tensor, None]:
    return _gradient(dy, dsquare, *ctx.saved_tensors), None


_stats.register_autograd(_differentiate, setup_context=_save)


def apply(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """The kernel with its gradient; the signature of `reference`."""
    out, square, *_ = _stats(x, mask)
    pair = torch.stack([_root(square), square], -1)  # two numbers per token
    return (*out.unbind(0), *segment_pool.apply(keep(pair, mask), mask, "mean").unbind(-1))


def by_torch(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """The same in plain torch: float32 inside for half inputs."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    at = positions(mask) if is_padded(mask) else positions(mask, len(x))
    n = x.shape[-2]
    lengths = expand(counts(mask), mask, n)
    picks = [segment_torch.total(keep(wide, mask) * (at == end)[..., None], mask) for end in (1, lengths)]
    square = keep(wide, mask).square().sum(-1)
    pair = torch.stack([_root(square), square], -1)
    mean, top = (segment_torch.pool(wide, mask, mode) for mode in ("mean", "max"))
    return (*(v.to(x.dtype) for v in (mean, top, *picks)), *segment_torch.pool(pair, mask, "mean").unbind(-1))


def _root(square: Tensor) -> Tensor:
    """sqrt whose gradient at 0 is 0."""
    return torch.where(square == 0, 0, torch.where(square == 0, 1, square).sqrt())


def segment_stats(x: Tokens, mask: Segments) -> SegmentStats:
    """reference, by the kernel on a GPU or in Triton's interpreter, by plain torch on a CPU and in float64."""
    if segment_pool.by_kernel(x):
        return SegmentStats(*apply(x, mask))
    return SegmentStats(*by_torch(x, mask))
