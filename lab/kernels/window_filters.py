"""Windows seen through filters: z_r = sum_j W[r, j] x_j, then a gate, a tree of gates or a maximum over r.

gated  y = g max(x) + (1 - g) mean(x), g = sigmoid(z_0)
tree   leaves z_0 .. z_(n-1) mixed by gates g = sigmoid(z): two leaves and a gate, y = g z_0 + (1 - g) z_1, or four
       leaves and three gates (z_4 the root, z_5 over the leaves 0 and 1, z_6 over 2 and 3)
poset  y = max_r z_r, z_r the sum of what filter r has a weight for; equal values: the first filter has the gradient
A position outside of the input adds nothing to any z. Unlike the reductions of window_pool.py these know where in the
window a value stands, and hold R sums at a time: bodies of their own, in window_filters_torch.py for a CPU and in
window_filters_triton.py. The gradient of W is a sum over all windows: of each tile in a kernel, of the tiles in torch.
"""

import math
from collections.abc import Sequence

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from lab.kernels import window_filters_torch, window_filters_triton, windows
from lab.kernels.windows import Windows

MODES = ("gated", "tree", "poset")


def reference(
    x: Float[Tensor, "B C *L"], mode: str, w: Windows, weight: Float[Tensor, "R K"]
) -> Float[Tensor, "B C *O"]:
    """The definition, from the formulas; tests use float64."""
    values, inside = windows.unfold(windows.lift(x), w)  # [..., K], [O0, O1, O2, K]
    parts = values[..., None, :] * weight  # [..., R, K]
    if mode == "poset":
        parts = parts.masked_fill(weight == 0, 0)  # a filter does not see what it leaves out, be it infinite
    z = parts.sum(-1)  # [..., R]
    g = z.sigmoid()
    match mode:
        case "gated":
            first = values.masked_fill(~inside, -math.inf).argmax(-1, keepdim=True)
            top, mean = values.gather(-1, first)[..., 0], values.sum(-1) / inside.sum(-1)
            y = g[..., 0] * top + (1 - g[..., 0]) * mean
        case "poset":
            y = z.gather(-1, z.argmax(-1, keepdim=True))[..., 0]
        case "tree" if len(weight) == 3:
            y = g[..., 2] * z[..., 0] + (1 - g[..., 2]) * z[..., 1]
        case "tree":
            left = g[..., 5] * z[..., 0] + (1 - g[..., 5]) * z[..., 1]
            right = g[..., 6] * z[..., 2] + (1 - g[..., 6]) * z[..., 3]
            y = g[..., 4] * left + (1 - g[..., 4]) * right
    return windows.lower(y, x.ndim)


def _outputs(x, weight, w, mode, keep, fused):
    """y; planes for the backward: every filter's slope, of gated the gate too and where the maximum is, of poset which.

    Where the maximum is: among a window's offsets for the kernel, a plane of its own in the input for torch's path.
    """
    shape = (x.shape[0], x.shape[1], *w.out)
    placed = keep and mode == "gated" and not fused
    planes = {"gated": 2 if placed else 3, "tree": len(weight), "poset": 1}[mode] if keep else 0
    kept = windows.empty(x, (planes, *shape), weight.dtype)
    return windows.empty(x, shape, x.dtype), kept, windows.empty(x, (int(placed), *shape), torch.int64)


@torch.library.custom_op("lab::window_filter", mutates_args=())
def _filter(
    x: Tensor, weight: Tensor, geometry: Sequence[int], mode: str, keep: bool, fused: bool
) -> tuple[Tensor, Tensor, Tensor]:
    w = Windows.unflat(geometry)
    y, kept, place = _outputs(x, weight, w, mode, keep, fused)
    if not y.numel():
        return y, kept, place
    if not fused:
        n = w.counts(x.shape[2:], weight)
        for part in windows.parts(y):
            window_filters_torch.forward(x[part], weight, w, n, mode, y[part], kept[:, part], place[:, part])
        return y, kept, place
    last = windows.is_channels_last(x)
    rows, ROWS, COLS, grid = windows.tiling(y.shape, last)
    window_filters_triton.forward[grid](
        x, weight.contiguous(), y, kept, x.stride(), y.stride(), kept.stride()[1:], kept.stride(0), rows, x.shape[1],
        tuple(x.shape[2:]), w.out, R=len(weight), R_PAD=triton.next_power_of_2(len(weight)), MODE=mode, KEEP=keep,
        K=w.kernel, S=w.stride, P=w.padding, LAST=last, ROWS=ROWS, COLS=COLS,
    )  # fmt: skip
    return y, kept, place


@_filter.register_fake
def _(x, weight, geometry, mode, keep, fused):
    return _outputs(x, weight, Windows.unflat(geometry), mode, keep, fused)


@torch.library.custom_op("lab::window_filter_backward", mutates_args=())
def _filter_backward(
    dy: Tensor, x: Tensor, weight: Tensor, kept: Tensor, place: Tensor, geometry: Sequence[int], mode: str,
    fused: bool, learned: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    w = Windows.unflat(geometry)
    dx, dweight = windows.empty(x, x.shape, x.dtype), weight.new_zeros(weight.shape)
    if not dy.numel():
        return dx.zero_(), dweight
    if not fused:
        n = w.counts(x.shape[2:], weight)
        for part in windows.parts(dy):
            window_filters_torch.backward(
                dy[part], x[part], weight, kept[:, part], place[:, part], w, n, mode, dx[part],
                dweight if learned else None,
            )  # fmt: skip
        return dx, dweight
    last = windows.is_channels_last(x)
    rows, ROWS, COLS, grid = windows.tiling(x.shape, last)
    shared = {"K": w.kernel, "S": w.stride, "P": w.padding, "LAST": last}
    window_filters_triton.backward[grid](
        dy, weight.contiguous(), kept, dx, dy.stride(), kept.stride()[1:], dx.stride(), kept.stride(0), rows,
        x.shape[1], tuple(x.shape[2:]), w.out, R=len(weight), MODE=mode, ROWS=ROWS, COLS=COLS, **shared,
    )  # fmt: skip
    if learned:
        rows, ROWS, COLS, grid = windows.tiling(dy.shape, last)
        partial = weight.new_empty((grid[0] * grid[1], *weight.shape))
        window_filters_triton.weight_gradient[grid](
            dy, x, kept, partial, dy.stride(), x.stride(), kept.stride()[1:], kept.stride(0), rows, x.shape[1],
            tuple(x.shape[2:]), w.out, R=len(weight), R_PAD=triton.next_power_of_2(len(weight)), ROWS=ROWS, COLS=COLS,
            **shared,
        )  # fmt: skip
        dweight = partial.sum(0)
    return dx, dweight


@_filter_backward.register_fake
def _(dy, x, weight, kept, place, geometry, mode, fused, learned):  # noqa: ARG001 - the op's own signature
    return windows.empty(x, x.shape, x.dtype), weight.new_empty(weight.shape)


def _save(ctx, inputs, output):
    x, weight, ctx.geometry, ctx.mode, _, ctx.fused = inputs
    ctx.save_for_backward(x, weight, *output[1:])
    ctx.set_materialize_grads(False)  # no zeros in the size of what is kept


def _differentiate(ctx, dy, *_):
    if dy is None:  # as nothing is made up for it
        return (None,) * 6
    x, weight, kept, place = ctx.saved_tensors
    learned = ctx.needs_input_grad[1]
    dx, dweight = _filter_backward(dy, x, weight, kept, place, ctx.geometry, ctx.mode, ctx.fused, learned)
    return dx, dweight if learned else None, None, None, None, None


_filter.register_autograd(_differentiate, setup_context=_save)


def apply(x: Tensor, mode: str, w: Windows, weight: Tensor | None, fused: bool) -> Tensor:
    """window_pool's other half: weight [R, *kernel] or [R, K], in the order of the window's positions."""
    rows = {"gated": {1}, "tree": {3, 7}, "poset": set(range(1, 65))}[mode]
    if weight is not None and not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor; got {type(weight).__name__}")
    if weight is None or weight.numel() % w.size or weight.numel() // w.size not in rows:
        got = "none" if weight is None else tuple(weight.shape)
        count = "1 to 64" if mode == "poset" else " or ".join(map(str, sorted(rows)))
        raise ValueError(f"{mode} needs a weight [R, *kernel_size] with R = {count} and {w.size} positions; got {got}")
    filters = weight.reshape(-1, w.size).to(torch.promote_types(x.dtype, torch.float32))
    if mode == "poset" and weight.requires_grad:
        raise ValueError("poset's filters are fixed: pass a weight that requires no gradient")
    keep = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    y, *_ = _filter(windows.lift(x), filters, w.flat(), mode, keep, fused)
    return windows.lower(y, x.ndim)
