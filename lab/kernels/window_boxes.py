"""Sums and maxima over windows on a CPU, in torch: axis by axis, so k + k steps for a window of k x k, not k * k.

Each step is one dense addition or maximum of whole slices, which torch vectorises; its own pools walk a map whose rows
are dense window by window, and take 2 to 19 times as long. Where channels are dense they vectorise too, and are used.
Nothing is padded. x is float32 or wider, [B, C, L0, L1, L2].
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.kernels import windows
from lab.kernels.windows import Windows


def total(x: Float[Tensor, "B C L0 L1 L2"], w: Windows) -> Float[Tensor, "B C O0 O1 O2"]:
    """Every window's sum."""
    if _is_torchs(x, w):
        return _settled(x, torch.nn.functional.avg_pool2d(x[:, :, 0], *_arguments(x, w), divisor_override=1))
    return _reduced(x, w, torch.add)


def largest(x: Float[Tensor, "B C L0 L1 L2"], w: Windows) -> Float[Tensor, "B C O0 O1 O2"]:
    """Every window's maximum; NaN if any value is."""
    if _is_torchs(x, w):
        return _settled(x, torch.nn.functional.max_pool2d(x[:, :, 0], *_arguments(x, w, dilation=1)))
    return _reduced(x, w, torch.maximum)


def winner(
    x: Float[Tensor, "B C L0 L1 L2"], w: Windows
) -> tuple[Float[Tensor, "B C O0 O1 O2"], Int[Tensor, "B C O0 O1 O2"]]:
    """largest, and where in its plane [L0 * L1 * L2] the first of equal maxima stands.

    A place is kept as a float, which holds it exactly, and moved by arithmetic: selecting by a bool mask takes 30 times
    as long. A later step of an axis has larger places than an earlier one, so that the larger of two is the newer.
    """
    if _is_torchs(x, w):
        arguments = _arguments(x, w, dilation=1)
        top, at = torch.nn.functional.max_pool2d(x[:, :, 0], *arguments, return_indices=True)
        return _settled(x, top), _settled(x, at)
    given, plane = x, math.prod(x.shape[2:])
    exact = x.dtype if plane < 2 ** (24 if x.dtype == torch.float32 else 53) else torch.float64
    at = torch.arange(plane, device=x.device, dtype=exact).view(1, 1, *x.shape[2:])
    for axis in (4, 3, 2):  # the first of equals in the order of the memory: columns, then rows
        if _is_trivial(w, axis, x.shape[axis]):
            continue
        shape = _resized(x, axis, w.out[axis - 2])
        top, place = windows.empty(x, shape, x.dtype).fill_(-math.inf), windows.empty(x, shape, exact)
        _first(at, w, axis, place)
        for o, i in _steps(w, axis, x.shape[axis]):
            v = x[i].contiguous() if axis == 4 and w.stride[2] > 1 else x[i]  # read twice
            newer = torch.gt(v, top[o], out=torch.empty_like(v, dtype=exact)).mul_(at[i])
            torch.maximum(place[o], newer, out=place[o])
            torch.maximum(top[o], v, out=top[o])
        x, at = top, place
    return windows.empty(x, x.shape, x.dtype).copy_(x) if x is given else x, at.expand(x.shape).long()


def spread(d: Float[Tensor, "B C O0 O1 O2"], w: Windows, like: Float[Tensor, "B C L0 L1 L2"]) -> Tensor:
    """total's gradient, new and of like's shape: every position's sum over the windows that contain it."""
    if _is_torchs(like, w):
        backward = torch.ops.aten.avg_pool2d_backward
        return backward(d[:, :, 0], like[:, :, 0], *_arguments(like, w), True, 1)[:, :, None]
    axes = [axis for axis in (4, 3, 2) if not _is_trivial(w, axis, like.shape[axis])]
    if not axes:
        return windows.empty(like, like.shape, like.dtype).copy_(d)
    for axis in axes:
        length = like.shape[axis]
        wide = windows.empty(like, _resized(d, axis, length), d.dtype).zero_()
        apart = w.kernel[axis - 2] <= w.stride[axis - 2]
        for o, i in _steps(w, axis, length):
            wide[i].copy_(d[o]) if apart else wide[i].add_(d[o])
        d = wide
    return d


def scatter(d: Float[Tensor, "B C O0 O1 O2"], at: Int[Tensor, "B C O0 O1 O2"], into: Tensor) -> Tensor:
    """largest's gradient, added to into (from spread or zeros): d at its window's winner. In a fixed order."""
    if windows.is_channels_last(into):
        flat = [t.movedim(1, -1).flatten(1, 3) for t in (into, at, d)]
        flat[0].scatter_add_(1, *flat[1:])
    else:
        into.view(*into.shape[:2], -1).scatter_add_(2, at.flatten(2), d.flatten(2))
    return into


def _is_torchs(x, w):
    return x.shape[2] == 1 and _is_trivial(w, 2, 1) and windows.is_channels_last(x)


def _settled(x, y):
    """y [B, C, O1, O2] of torch's pool as [B, C, 1, O1, O2], channels where x has them, which torch may not keep."""
    here = windows.empty(x, (*y.shape[:2], 1, *y.shape[2:]), y.dtype)
    y = y[:, :, None]
    return y if y.stride() == here.stride() else here.copy_(y)


def _arguments(x, w, **dilation):
    """kernel_size, stride, padding, dilation where asked for, and ceil_mode, of two axes; what w was planned from."""
    floor = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[3:], *(a[1:] for a in w[:3]), strict=True)]
    return [list(a[1:]) for a in w[:3]] + list(dilation.values()) + [tuple(floor) != w.out[1:]]


def _is_trivial(w, axis, length):
    return w.kernel[axis - 2] == 1 and w.out[axis - 2] == length


def _steps(w: Windows, axis: int, length: int) -> Iterator[tuple[tuple, tuple]]:
    """For each offset on one axis: the windows that have it, and the positions it stands at, as slices."""
    geometry = [part[axis - 2] for part in w]
    before = (slice(None),) * axis
    for k in range(geometry[0]):
        if reach := windows.reach(k, *geometry[1:], length):
            yield (*before, reach[0]), (*before, reach[1])


def _first(at, w, axis, into):
    """Each window's first position in the input, on one axis: the winner where nothing is greater than -inf."""
    _, stride, padding, out = (part[axis - 2] for part in w)
    clipped = min(out, -(-padding // stride))
    into.narrow(axis, 0, clipped).copy_(at.narrow(axis, 0, 1))
    if out > clipped:
        start = clipped * stride - padding
        rest = at.narrow(axis, start, (out - 1 - clipped) * stride + 1)
        into.narrow(axis, clipped, out - clipped).copy_(rest[(slice(None),) * axis + (slice(None, None, stride),)])


def _resized(x, axis, length):
    return (*x.shape[:axis], length, *x.shape[axis + 1 :])


def _reduced(x, w, join):
    """A new tensor, also where there is nothing to join."""
    axes = [axis for axis in (2, 3, 4) if not _is_trivial(w, axis, x.shape[axis])]
    if not axes:
        return windows.empty(x, x.shape, x.dtype).copy_(x)
    for axis in axes:  # rows first: they are dense, and fewer of them are left for the columns
        y = windows.empty(x, _resized(x, axis, w.out[axis - 2]), x.dtype)
        # offsets that all windows have come first: where there are two, nothing needs to be filled in before them
        steps = sorted(_steps(w, axis, x.shape[axis]), key=lambda step: -x[step[1]].shape[axis])
        full = [i for _, i in steps[:2] if x[i].shape == y.shape]
        if len(full) == 2:
            join(x[full[0]], x[full[1]], out=y)
        elif full:
            y.copy_(x[full[0]])
        else:
            y.fill_(0 if join is torch.add else -math.inf)
        for o, i in steps[len(full) :]:
            join(y[o], x[i], out=y[o])
        x = y
    return x
