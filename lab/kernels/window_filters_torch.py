"""The filters of window_filters.py in torch, for a CPU: all windows as a matrix, so that filters are one product.

The matrix has a row for each offset in a window and a column for each window, in the order of the memory.
"""

import torch
from torch import Tensor

from lab.kernels import windows
from lab.kernels.window_boxes import scatter, spread, total, winner
from lab.kernels.windows import Windows


def forward(x, weight, w, n, mode, y, kept, place):
    """Fills y, and kept and place as far as they have planes. n [O0, O1, O2]: how many positions a window has."""
    x = x.to(weight.dtype)
    seen = _patches(x, w)
    slopes = [_flat(plane) for plane in kept]
    if mode == "gated":
        gate = (weight @ seen)[0].sigmoid_()
        (top, at), mean = winner(x, w), _flat(total(x, w).div_(n))
        above = _flat(top).sub_(mean)
        _flat(y).copy_(torch.addcmul(mean, gate, above))
        if slopes:
            place[0] = at
            slopes[0].copy_((gate * (1 - gate)).mul_(above))
            slopes[1].copy_(gate)
    elif mode == "poset":
        _poset(seen, weight.tolist(), _flat(y), slopes)
    elif len(weight) == 3:
        z, gate = (weight @ seen).split([2, 1])
        g = gate[0].sigmoid_()
        _flat(y).copy_(torch.lerp(z[1], z[0], g))
        if slopes:
            slopes[0].copy_(g)
            torch.sub(1, g, out=slopes[1])
            torch.mul(g * slopes[1], z[0] - z[1], out=slopes[2])
    else:
        z, gates = (weight @ seen).split([4, 3])
        root, a, b = gates.sigmoid_()
        left, right = torch.lerp(z[1], z[0], a), torch.lerp(z[3], z[2], b)
        _flat(y).copy_(torch.lerp(right, left, root))
        if slopes:
            rest = 1 - root
            torch.mul(root, a, out=slopes[0])
            torch.sub(root, slopes[0], out=slopes[1])
            torch.mul(rest, b, out=slopes[2])
            torch.sub(rest, slopes[2], out=slopes[3])
            torch.mul(root * rest, left - right, out=slopes[4])
            torch.mul(slopes[0] * (1 - a), z[0] - z[1], out=slopes[5])
            torch.mul(slopes[2] * (1 - b), z[2] - z[3], out=slopes[6])


def backward(dy, x, weight, kept, place, w, n, mode, dx, dweight):
    """Fills dx, and adds to dweight [R, K] if there is one."""
    x, dy = x.to(weight.dtype), dy.to(weight.dtype)
    push, slopes = windows.empty(x, dy.shape, dy.dtype).copy_(dy), [_flat(plane) for plane in kept]
    if mode == "poset":
        which = slopes[0].long()
        seen = torch.stack([column.index_select(0, which) for column in weight.T]).mul_(_flat(push))
        dx.copy_(_unpatched(seen, w, x))
        return
    learned = slopes[:1] if mode == "gated" else slopes
    along = torch.stack(learned).mul_(_flat(push))  # dy (dy/dz_r)
    grad = _unpatched(weight.T @ along, w, x)
    if mode == "gated":
        won = push * kept[1]
        grad += spread((push - won).div_(n), w, x)
        scatter(won, place[0], grad)
    dx.copy_(grad)
    if dweight is not None:
        dweight += along @ _patches(x, w).T


def _poset(seen, filters, y, which):
    """The maximum over sums of parts; a filter begins with the largest one before it that is a part of it."""
    sums: list[Tensor] = []
    for r, row in enumerate(filters):
        parts = [q for q in range(r) if all(a in (0, b) for a, b in zip(filters[q], row, strict=True))]
        start = max(parts, key=lambda q: sum(a != 0 for a in filters[q]), default=None)
        begun = [0.0] * len(row) if start is None else filters[start]
        z = torch.zeros_like(seen[0]) if start is None else sums[start]
        for j, (a, b) in enumerate(zip(begun, row, strict=True)):
            if a != b:
                z = torch.add(z, seen[j], alpha=b)
        sums.append(z)
    top = sums[0]
    newest = torch.zeros_like(top) if which else None
    for r, z in enumerate(sums[1:], 1):
        if which:  # by arithmetic, as in window_boxes.winner: a later filter has a larger number
            newest = torch.maximum(newest, torch.gt(z, top, out=torch.empty_like(z)).mul_(r))
        top = torch.maximum(top, z)
    y.copy_(top)
    if which:
        which[0].copy_(newest)


def _flat(t: Tensor) -> Tensor:
    """A view of [B, C, O0, O1, O2] in the order of the memory."""
    return (t.movedim(1, -1) if windows.is_channels_last(t) else t).view(-1)


def _patches(x: Tensor, w: Windows) -> Tensor:
    """[K, B * C * O0 * O1 * O2]: offset j of every window, zero where it lies outside of the input."""
    seen = windows.empty(x, (w.size, *x.shape[:2], *w.out), x.dtype)
    filled = 0
    for j, o, i in w.offsets(x.shape[2:]):
        if seen[j][o].shape != seen[j].shape:
            seen[j].zero_()
        seen[j][o].copy_(x[i])
        seen[filled:j].zero_()  # offsets that no window has
        filled = j + 1
    seen[filled:].zero_()
    return (seen.movedim(2, -1) if windows.is_channels_last(seen[0]) else seen).view(w.size, -1)


def _unpatched(seen: Tensor, w: Windows, like: Tensor) -> Tensor:
    """The gradient of _patches: every position's sum over its places in windows."""
    B, C = like.shape[:2]
    if windows.is_channels_last(like):
        planes = seen.view(w.size, B, *w.out, C).movedim(-1, 2)
    else:
        planes = seen.view(w.size, B, C, *w.out)
    grad = windows.empty(like, like.shape, seen.dtype).zero_()
    for j, o, i in w.offsets(like.shape[2:]):
        grad[i] += planes[j][o]
    return grad
