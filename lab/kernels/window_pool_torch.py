"""The window reductions of window_pool.py in torch, for a CPU: loops over a window's offsets, never over windows.

Each offset of all windows at once is a strided slice of the input, copied once, as strided arithmetic is several times
slower than dense; the caller cuts the batch so that the copies stay in the cache. Nothing is padded.
"""

import math

import torch


def _dice(v, m, tiny):
    """dice(v, m) and its slopes along v and m; scaled by the larger of the two, so nothing over- or underflows."""
    h = torch.maximum(v.abs(), m.abs())
    none = h < tiny
    h = h.masked_fill(none, 1)
    a, b = v.abs() / h, m.abs() / h
    q = (a * a + b * b).masked_fill_(none, 1)
    slope = 2 * (b * b - a * a) / (q * q * h)
    return (2 * a * b / q).masked_fill_(none, 1), v.sign() * b * slope, -m.sign() * a * slope


def dense(x, at):
    """A copy, never a view: float32 or wider, its elements side by side."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.empty_like(x[at], dtype=wide, memory_format=torch.contiguous_format).copy_(x[at])


def forward(x, logit, scale, w, mode, eps, y, kept):
    """Fills y, and kept as far as it has planes. Loops over the offsets of a window, never over windows."""
    sizes, wide = x.shape[2:], torch.promote_types(x.dtype, torch.float32)
    # offset, windows that have it, its values, its scores
    offsets = [(j, o, dense(x, i), None if logit is None else dense(logit, i)) for j, o, i in w.offsets(sizes)]
    zeros = x.new_zeros(y.shape, dtype=wide)
    n = w.counts(sizes, zeros)
    s = None if scale is None else scale.view(-1, 1, 1, 1)

    if mode in {"max", "mixed", "softmax", "lp"}:
        top = torch.full_like(zeros, -math.inf)
        place = torch.zeros_like(zeros) if len(kept) and mode in {"max", "mixed"} else None
        for j, o, v, g in offsets:
            v = v.clamp(min=eps) if mode == "lp" else v if g is None else g
            if place is not None:  # a NaN wins, as in torch's max_pool
                place[o].masked_fill_((v > top[o]) | v.isnan(), j)
            torch.maximum(top[o], v, out=top[o])
    if mode in {"mean", "mean_minus_x", "mixed", "dsc"}:
        mean = zeros.clone()
        for _, o, v, _ in offsets:
            mean[o].add_(v)
        mean /= n

    match mode:
        case "mean" | "mean_minus_x":
            y.copy_(mean if mode == "mean" else mean - x)
        case "max":
            y.copy_(top)
        case "mixed":
            y.copy_(s * top + (1 - s) * mean)
        case "softmax":
            top.masked_fill_(top == -math.inf, 0)  # a window whose logits are all -inf is empty: zero
            total, mass = torch.zeros_like(zeros), zeros
            for _, o, v, g in offsets:
                e = torch.sub(v if g is None else g, top[o]).exp_()
                mass[o].add_(e)
                total[o].addcmul_(e, v if g is None else v.masked_fill_(e == 0, 0))
            y.copy_(total / mass.masked_fill(mass == 0, 1))
            if len(kept):
                kept[0] = top + mass.log_().masked_fill_(mass == -math.inf, math.inf)
        case "dsc":
            tiny = torch.finfo(wide).tiny
            total, mass, slopes, pulled = (torch.zeros_like(zeros) for _ in range(4))
            for _, o, v, _ in offsets:
                d, _, b = _dice(v, mean[o], tiny)
                e = d.sub_(1).exp_()  # a coefficient is at most 1
                mass[o].add_(e)
                total[o].addcmul_(e, v)
                slopes[o].addcmul_(e, b)
                pulled[o].add_(e * b * v)
            total /= mass
            y.copy_(total)
            if len(kept):
                kept[0], kept[1], kept[2] = mean, 1 + mass.log(), (pulled - total * slopes) / (mass * n)
        case "lp":
            mass, spread = zeros, torch.zeros_like(zeros)
            for _, o, v, _ in offsets:
                u = v.clamp(min=eps).div_(top[o]).log_()
                e = (u * s).exp_()
                mass[o].add_(e)
                spread[o].addcmul_(e, u)
            log_y = (mass / n).log_() / s  # of y / top
            y.copy_(top * log_y.exp())
            if len(kept):
                kept[0] = top.log() + log_y
            if len(kept) > 1:
                kept[1] = top * log_y.exp() / s * (spread / mass - log_y)
    if len(kept) and mode in {"max", "mixed"}:
        kept[0] = place
    if len(kept) > 1 and mode == "mixed":
        kept[1] = top - mean


def backward(dy, x, logit, scale, y, kept, w, mode, eps, dx, dlogit):
    """Fills dx and dlogit (wide, zero)."""
    sizes, wide = x.shape[2:], dx.dtype
    dy = dy.to(wide)
    y = y.to(wide)
    n = w.counts(sizes, dx)
    s = None if scale is None else scale.view(-1, 1, 1, 1)
    for j, o, i in w.offsets(sizes):
        d, v = dy[o], dense(x, i)
        match mode:
            case "mean" | "mean_minus_x":
                dx[i] += d / n[o[1:]]
            case "max":
                dx[i] += d * (kept[0][o] == j)
            case "mixed":
                dx[i] += d * (s * (kept[0][o] == j) + (1 - s) / n[o[1:]])
            case "softmax":
                push = d * ((v if logit is None else dense(logit, i)) - kept[0][o]).exp_()
                if logit is None:
                    dx[i] += push * (1 + v - y[o])
                else:
                    dx[i] += push
                    dlogit[i] += push * (v - y[o]).masked_fill_(push == 0, 0)
            case "dsc":
                value, slope, _ = _dice(v, kept[0][o], torch.finfo(wide).tiny)
                share = (value - kept[1][o]).exp_()
                dx[i] += d * (share * (1 + (v - y[o]) * slope) + kept[2][o])
            case "lp":
                ratio = ((s - 1) * (v.clamp(min=eps).log() - kept[0][o])).exp_()
                dx[i] += (d * ratio / n[o[1:]]).masked_fill_(v < eps, 0)
    if mode == "mean_minus_x":
        dx -= dy
