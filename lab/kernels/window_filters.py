"""Windows seen through filters: z_r = sum_j W[r, j] x_j, then a gate, a tree of gates or a maximum over r.

gated  y = g max(x) + (1 - g) mean(x), g = sigmoid(z_0)
tree   leaves z_0 .. z_(n-1) mixed by gates g = sigmoid(z): two leaves and a gate, y = g z_0 + (1 - g) z_1, or four
       leaves and three gates (z_4 the root, z_5 over the leaves 0 and 1, z_6 over 2 and 3)
poset  y = max_r z_r; equal values: the first filter has the gradient
A position outside of the input adds nothing to any z. Unlike the reductions of window_pool.py these know where in the
window a value stands, and hold R sums at a time: a body of their own. The gradient of W is a sum over all windows,
left to torch: one matrix product per offset, in a fixed order.
"""

import math
from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from lab.kernels import windows
from lab.kernels.windows import Windows

MODES = ("gated", "tree", "poset")


def reference(
    x: Float[Tensor, "B C *L"], mode: str, w: Windows, weight: Float[Tensor, "R K"]
) -> Float[Tensor, "B C *O"]:
    """The definition, from the formulas; tests use float64."""
    values, inside = windows.unfold(windows.lift(x), w)  # [..., K], [O0, O1, O2, K]
    z = (values[..., None, :] * weight).sum(-1)  # [..., R]
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


def _planes(mode: str, R: int) -> int:
    """Kept for the backward: each filter's slope; gated: that, the gate, the maximum's place; poset: which filter."""
    return {"gated": 3, "tree": R, "poset": 1}[mode]


def _forward_torch(x, weight, w, mode, y, kept):
    sizes, wide = x.shape[2:], weight.dtype
    z = x.new_zeros((len(weight), *y.shape), dtype=wide)
    top, mean = torch.full_like(z[0], -math.inf), torch.zeros_like(z[0])
    place = torch.zeros_like(z[0])
    for j, o, i in w.offsets(sizes):
        v = x[i].to(wide)
        z[o].addcmul_(v, weight[:, j].view(-1, 1, 1, 1, 1, 1))
        if mode == "gated":
            place[o].masked_fill_((v > top[o]) | v.isnan(), j)
            torch.maximum(top[o], v, out=top[o])
            mean[o].add_(v)
    slopes = [top, top, top]
    if mode == "gated":
        mean /= w.counts(sizes, z)
        g = z[0].sigmoid()
        y.copy_(g * top + (1 - g) * mean)
        slopes = [g * (1 - g) * (top - mean), g, place]
    elif mode == "poset":
        best = z.amax(0)
        y.copy_(best)
        slopes = [(z == best).to(torch.uint8).argmax(0)]  # the first of equal ones
    elif len(weight) == 3:
        g = z[2].sigmoid()
        y.copy_(g * z[0] + (1 - g) * z[1])
        slopes = [g, 1 - g, g * (1 - g) * (z[0] - z[1])]
    else:
        root, a, b = z[4:].sigmoid()
        left, right = a * z[0] + (1 - a) * z[1], b * z[2] + (1 - b) * z[3]
        y.copy_(root * left + (1 - root) * right)
        slopes = [root * a, root * (1 - a), (1 - root) * b, (1 - root) * (1 - b)]
        slopes += [root * (1 - root) * (left - right), root * a * (1 - a) * (z[0] - z[1])]
        slopes += [(1 - root) * b * (1 - b) * (z[2] - z[3])]
    for plane, slope in zip(kept, slopes, strict=False):  # none to keep: nothing is written
        plane.copy_(slope)


def _backward_torch(dy, weight, kept, w, mode, dx):
    sizes, dy = dx.shape[2:], dy.to(dx.dtype)
    n = w.counts(sizes, dx)
    for j, o, i in w.offsets(sizes):
        if mode == "gated":
            slope, g, place = (plane[o] for plane in kept)
            dx[i] += dy[o] * (slope * weight[0, j] + g * (place == j) + (1 - g) / n[o[1:]])
        elif mode == "poset":
            dx[i] += dy[o] * weight[:, j][kept[0][o].long()]
        else:
            dx[i] += dy[o] * (kept[o] * weight[:, j].view(-1, 1, 1, 1, 1, 1)).sum(0)


def _weight_gradient(dy, x, weight, kept, w, mode):
    """dW[r, j] = sum over windows of dy (dy/dz_r) x_j."""
    grad = torch.zeros_like(weight)
    slopes = kept[:1] if mode == "gated" else kept
    push = slopes * dy.to(weight.dtype)  # [R, B, C, O0, O1, O2]
    for j, o, i in w.offsets(x.shape[2:]):
        grad[:, j] = (push[o] * x[i].to(weight.dtype)).flatten(1).sum(1)
    return grad


@triton.jit
@no_type_check
def _sigmoid(z):
    e = tl.exp(-tl.abs(z))
    return tl.where(z >= 0, 1.0, e) / (1.0 + e)


@triton.jit
@no_type_check  # a checked kernel would look for its helpers in the checker's module
def _row(z, r: tl.constexpr, ids):
    return tl.sum(tl.where(ids == r, z, 0.0), 0)


@triton.jit
@no_type_check
def _forward(
    x, weight, y, kept, x_at, y_at, kept_at, plane, rows, C, size, out, R: tl.constexpr, R_PAD: tl.constexpr,
    MODE: tl.constexpr, KEEP: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    b, c, o0, o1, o2, real = windows.tile(rows, C, out, LAST, ROWS, COLS)
    N: tl.constexpr = K[0] * K[1] * K[2]
    zero = tl.zeros([ROWS, COLS], tl.float32)
    top, place, total = zero - float("inf"), zero, zero  # [ROWS, COLS]
    ids = tl.arange(0, R_PAD)[:, None, None]
    z = tl.zeros([R_PAD, ROWS, COLS], tl.float32)
    for j in tl.range(0, N, loop_unroll_factor=N if N <= 16 else 1):
        i0, i1, i2, inside = windows.offset(j, o0, o1, o2, size, K, S, P)
        inside &= real
        v = tl.load(windows.address(x, x_at, b, c, i0, i1, i2), mask=inside, other=0.0).to(tl.float32)
        z += tl.load(weight + ids * N + j, mask=ids < R, other=0.0) * v[None]
        if MODE == "gated":
            total += v
            wins = inside & ((v > top) | (v != v))  # a NaN wins, as in torch's max_pool
            top, place = tl.where(wins, v, top), tl.where(wins, j, place)
    at = windows.address(kept, kept_at, b, c, o0, o1, o2)
    if MODE == "gated":
        g = _sigmoid(_row(z, 0, ids))
        mean = total / windows.count(o0, o1, o2, size, K, S, P)
        top = tl.where(real, top, 0.0)
        value = g * top + (1.0 - g) * mean
        if KEEP:
            tl.store(at, g * (1.0 - g) * (top - mean), mask=real)
            tl.store(at + plane, g, mask=real)
            tl.store(at + 2 * plane, place, mask=real)
    elif MODE == "poset":
        value, which = tl.max(tl.where(ids < R, z, -float("inf")), 0, return_indices=True)
        everything = _row(z, R - 1, ids)  # the last filter is the whole window: NaN if any value is
        value = tl.where(everything != everything, everything, value)
        if KEEP:
            tl.store(at, which.to(tl.float32), mask=real)
    elif R == 3:
        z0, z1, g = _row(z, 0, ids), _row(z, 1, ids), _sigmoid(_row(z, 2, ids))
        value = g * z0 + (1.0 - g) * z1
        if KEEP:
            tl.store(at, g, mask=real)
            tl.store(at + plane, 1.0 - g, mask=real)
            tl.store(at + 2 * plane, g * (1.0 - g) * (z0 - z1), mask=real)
    else:
        z0, z1, z2, z3 = _row(z, 0, ids), _row(z, 1, ids), _row(z, 2, ids), _row(z, 3, ids)
        root, one, two = _sigmoid(_row(z, 4, ids)), _sigmoid(_row(z, 5, ids)), _sigmoid(_row(z, 6, ids))
        left, right = one * z0 + (1.0 - one) * z1, two * z2 + (1.0 - two) * z3
        value = root * left + (1.0 - root) * right
        if KEEP:
            tl.store(at, root * one, mask=real)
            tl.store(at + plane, root * (1.0 - one), mask=real)
            tl.store(at + 2 * plane, (1.0 - root) * two, mask=real)
            tl.store(at + 3 * plane, (1.0 - root) * (1.0 - two), mask=real)
            tl.store(at + 4 * plane, root * (1.0 - root) * (left - right), mask=real)
            tl.store(at + 5 * plane, root * one * (1.0 - one) * (z0 - z1), mask=real)
            tl.store(at + 6 * plane, (1.0 - root) * two * (1.0 - two) * (z2 - z3), mask=real)
    tl.store(windows.address(y, y_at, b, c, o0, o1, o2), value.to(y.dtype.element_ty), mask=real)


@triton.jit
@no_type_check
def _backward(
    dy, weight, kept, dx, dy_at, kept_at, dx_at, plane, rows, C, size, out, R: tl.constexpr, MODE: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    b, c, i0, i1, i2, real = windows.tile(rows, C, size, LAST, ROWS, COLS)
    T0: tl.constexpr = (K[0] + S[0] - 1) // S[0]
    T: tl.constexpr = T0 * ((K[1] + S[1] - 1) // S[1]) * ((K[2] + S[2] - 1) // S[2])
    N: tl.constexpr = K[0] * K[1] * K[2]
    grad = tl.zeros([ROWS, COLS], tl.float32)
    for t in tl.range(0, T, loop_unroll_factor=T if T <= 16 else 1):
        o0, o1, o2, j, exists = windows.container(t, i0, i1, i2, out, K, S, P)
        exists &= real
        d = tl.load(windows.address(dy, dy_at, b, c, o0, o1, o2), mask=exists, other=0.0).to(tl.float32)
        at = windows.address(kept, kept_at, b, c, o0, o1, o2)
        if MODE == "gated":
            slope = tl.load(at, mask=exists, other=0.0)
            g = tl.load(at + plane, mask=exists, other=0.0)
            won = tl.load(at + 2 * plane, mask=exists, other=-1.0) == j
            n = tl.where(exists, windows.count(o0, o1, o2, size, K, S, P), 1.0)
            filtered = slope * tl.load(weight + j, mask=exists, other=0.0)
            grad += d * (filtered + tl.where(won, g, 0.0) + (1.0 - g) / n)
        elif MODE == "poset":
            which = tl.load(at, mask=exists, other=0.0).to(tl.int32)
            grad += d * tl.load(weight + which * N + j, mask=exists, other=0.0)
        else:
            for r in tl.static_range(R):
                slope = tl.load(at + r * plane, mask=exists, other=0.0)
                grad += d * slope * tl.load(weight + r * N + j, mask=exists, other=0.0)
    tl.store(windows.address(dx, dx_at, b, c, i0, i1, i2), grad.to(dx.dtype.element_ty), mask=real)


@torch.library.custom_op("lab::window_filter", mutates_args=())
def _filter(
    x: Tensor, weight: Tensor, geometry: Sequence[int], mode: str, keep: bool, fused: bool
) -> tuple[Tensor, Tensor]:
    w = Windows.unflat(geometry)
    y, kept = _outputs(x, weight, w, mode, keep)
    if not y.numel():
        return y, kept
    if not fused:
        _forward_torch(x, weight, w, mode, y, kept)
        return y, kept
    last = windows.is_channels_last(x)
    rows, ROWS, COLS, grid = windows.tiling(y.shape, last)
    _forward[grid](
        x, weight.contiguous(), y, kept, x.stride(), y.stride(), kept.stride()[1:], kept.stride(0), rows, x.shape[1],
        tuple(x.shape[2:]), w.out, R=len(weight), R_PAD=triton.next_power_of_2(len(weight)), MODE=mode, KEEP=keep,
        K=w.kernel, S=w.stride, P=w.padding, LAST=last, ROWS=ROWS, COLS=COLS,
    )  # fmt: skip
    return y, kept


def _outputs(x, weight, w, mode, keep):
    shape = (x.shape[0], x.shape[1], *w.out)
    planes = _planes(mode, len(weight)) if keep else 0
    return windows.empty(x, shape, x.dtype), windows.empty(x, (planes, *shape), weight.dtype)


@_filter.register_fake
def _(x, weight, geometry, mode, keep, fused):  # noqa: ARG001 - the op's own signature
    return _outputs(x, weight, Windows.unflat(geometry), mode, keep)


@torch.library.custom_op("lab::window_filter_backward", mutates_args=())
def _filter_backward(
    dy: Tensor, x: Tensor, weight: Tensor, kept: Tensor, geometry: Sequence[int], mode: str, fused: bool,
    learned: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    w = Windows.unflat(geometry)
    dx = windows.empty(x, x.shape, x.dtype)
    if not dy.numel():
        return dx.zero_(), torch.zeros_like(weight)
    dweight = _weight_gradient(dy, x, weight, kept, w, mode) if learned else torch.zeros_like(weight)
    if not fused:
        wide = torch.zeros_like(dx, dtype=weight.dtype)
        _backward_torch(dy, weight, kept, w, mode, wide)
        return dx.copy_(wide), dweight
    last = windows.is_channels_last(x)
    rows, ROWS, COLS, grid = windows.tiling(x.shape, last)
    _backward[grid](
        dy, weight.contiguous(), kept, dx, dy.stride(), kept.stride()[1:], dx.stride(), kept.stride(0), rows,
        x.shape[1], tuple(x.shape[2:]), w.out, R=len(weight), MODE=mode,
        K=w.kernel, S=w.stride, P=w.padding, LAST=last, ROWS=ROWS, COLS=COLS,
    )  # fmt: skip
    return dx, dweight


@_filter_backward.register_fake
def _(dy, x, weight, kept, geometry, mode, fused, learned):  # noqa: ARG001 - the op's own signature
    return windows.empty(x, x.shape, x.dtype), torch.empty_like(weight)


def _save(ctx, inputs, output):
    x, weight, ctx.geometry, ctx.mode, _, ctx.fused = inputs
    ctx.save_for_backward(x, weight, output[1])


def _differentiate(ctx, dy, _):
    x, weight, kept = ctx.saved_tensors
    learned = ctx.needs_input_grad[1]
    dx, dweight = _filter_backward(dy, x, weight, kept, ctx.geometry, ctx.mode, ctx.fused, learned)
    return dx, dweight if learned else None, None, None, None, None


_filter.register_autograd(_differentiate, setup_context=_save)


def apply(x: Tensor, mode: str, w: Windows, weight: Tensor | None, fused: bool) -> Tensor:
    """window_pool's other half: weight [R, *kernel] or [R, K], in the order of the window's positions."""
    rows = {"gated": {1}, "tree": {3, 7}, "poset": set(range(1, 65))}[mode]
    if weight is None or weight.numel() % w.size or weight.numel() // w.size not in rows:
        got = "none" if weight is None else tuple(weight.shape)
        count = "1 to 64" if mode == "poset" else " or ".join(map(str, sorted(rows)))
        raise ValueError(f"{mode} needs a weight [R, *kernel_size] with R = {count} and {w.size} positions; got {got}")
    filters = weight.reshape(-1, w.size).to(torch.promote_types(x.dtype, torch.float32))
    if mode == "poset" and weight.requires_grad:
        raise ValueError("poset's filters are fixed: pass a weight that requires no gradient")
    keep = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    y, _ = _filter(windows.lift(x), filters, w.flat(), mode, keep, fused)
    return windows.lower(y, x.ndim)
