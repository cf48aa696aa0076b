"""The window reductions of window_pool.py in torch, for a CPU: sums and maxima over windows from window_boxes.py.

A weighted sum (softmax, lp) is a quotient of two sums if all windows share one shift: then each position has one
exponential, however many windows contain it, and the gradient is one sum over windows too. That holds while the
largest and the smallest weight of a part are within e^120 of each other, so that float32 neither over- nor underflows.
Where they are not, and for dsc, whose weights depend on the window, each offset of all windows is a slice.
"""

import math

import torch
from torch import Tensor, nn

from lab.kernels import power, windows
from lab.kernels.window_boxes import largest, scatter, spread, total, winner
from lab.kernels.windows import Windows

FEW = 2**16  # elements of x; of fewer, torch's pool is done before a custom op has begun (150 us)
RANGE = 60.0  # a weight lies in e^-60 .. e^60 = 1e26: float32 ends at 1e38, which leaves 1e12 for the gradient


def dense(x: Tensor, at: tuple) -> Tensor:
    """A copy, its elements side by side: strided arithmetic is several times slower."""
    return torch.empty_like(x[at]).copy_(x[at])


def is_torchs(x: Tensor, mode: str) -> bool:
    """Whether torch's own pool is the quicker one: the mean or maximum of few values, or of dense channels.

    Its mean over three axes never is, and refuses a window that is wider than the map without its padding.
    """
    fits = mode == "max" or (mode == "mean" and x.ndim < 5)
    return fits and (x.numel() < FEW or windows.is_channels_last(x))


def torchs(x: Tensor, mode: str, w: Windows, ceil_mode: bool) -> Tensor:
    """mean or max of x [B, C, *spatial] by torch's own pool: the same windows and ties, and padding is no value."""
    d = x.ndim - 2
    kernel, stride, padding = (part[-d:] for part in w[:3])
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # so that half gradients are summed in float32
    if mode == "mean":
        y = (nn.functional.avg_pool1d, nn.functional.avg_pool2d)[d - 1](
            wide, kernel, stride, padding, ceil_mode, count_include_pad=False
        )
    else:
        y = (nn.functional.max_pool1d, nn.functional.max_pool2d, nn.functional.max_pool3d)[d - 1](
            wide, kernel, stride, padding, 1, ceil_mode
        )
    return y.to(x.dtype)


def forward(x, logit, scale, w, n, mode, eps, y, kept, place):
    """Fills y, and kept and place as far as they have planes. n [O0, O1, O2]: how many positions a window has."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    match mode:
        case "mean":
            y.copy_(total(x, w).div_(n))
        case "mean_minus_x":
            y.copy_(total(x, w).div_(n).sub_(x))
        case "max" | "mixed":
            top, at = winner(x, w) if len(place) else (largest(x, w), None)
            if len(place):
                place[0] = at
            if mode == "max":
                y.copy_(top)
                return
            mean, s = total(x, w).div_(n), scale.view(-1, 1, 1, 1)
            if len(kept):
                kept[0] = top - mean
            y.copy_(mean.mul_(1 - s).addcmul_(top, s))
        case "softmax":
            _softmax(x, x if logit is None else logit.to(x.dtype), w, y, kept)
        case "lp":
            _power_mean(x.clamp(min=eps), scale.view(-1, 1, 1, 1), w, n, eps, y, kept)
        case "dsc":
            _dsc(x, w, n, y, kept)


def backward(dy, x, logit, scale, y, kept, place, w, n, mode, eps, dx, dlogit):
    """Fills dx and, of a logit, dlogit."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    dy = dy.to(x.dtype)
    match mode:
        case "mean":
            dx.copy_(spread(dy / n, w, x))
        case "mean_minus_x":
            dx.copy_(spread(dy / n, w, x).sub_(dy))
        case "max":
            into = dx if dx.dtype == x.dtype else windows.empty(x, x.shape, x.dtype)
            scatter(dy, place[0], into.zero_())
            if into is not dx:
                dx.copy_(into)
        case "mixed":
            s = scale.view(-1, 1, 1, 1)
            won = dy * s
            dx.copy_(scatter(won, place[0], spread((dy - won) / n, w, x)))
        case "softmax":
            grads = _softmax_backward(dy, x, logit, y.to(x.dtype), kept[0], w)
            dx.copy_(grads[0])
            if logit is not None:
                dlogit.copy_(grads[1])
        case "lp":
            dx.copy_(_power_mean_backward(dy / n, x, scale.view(-1, 1, 1, 1), kept[0], w, eps))
        case "dsc":
            dx.copy_(_dsc_backward(dy, x, y.to(x.dtype), kept, w))


def _shares_a_shift(g):
    """The middle of the logits, and whether all are close to it; not if one is infinite or NaN."""
    low, high = (v.item() for v in g.aminmax())
    return low + (high - low) / 2, high - low <= 2 * RANGE


def _softmax(x, g, w, y, kept):
    """Keeps the log of the mass, and y if asked to."""
    middle, shared = _shares_a_shift(g)
    if shared:
        shift, e = middle, (g - middle).exp_()
        mass = total(e, w)
        mean = total(e.mul_(x), w).div_(mass)
    else:
        shift = largest(g, w)
        shift.masked_fill_(shift == -math.inf, 0)  # a window whose logits are all -inf is empty: zero
        mass, mean = torch.zeros_like(shift), torch.zeros_like(shift)
        for _, o, i in w.offsets(x.shape[2:]):
            e = torch.sub(dense(g, i), shift[o]).exp_()
            mass[o] += e
            mean[o] += (e * x[i]).masked_fill_(e == 0, 0)
        mean /= mass.masked_fill(mass == 0, 1)
    y.copy_(mean)
    if len(kept):
        kept[0] = mass.log_().masked_fill_(mass == -math.inf, math.inf).add_(shift)
        kept[1:] = mean


def _softmax_backward(dy, x, logit, y, log_mass, w):
    """w_i (1 + x_i - y) dy of SoftPool; of a logit, w_i dy along x and w_i (x_i - y) dy along the logit."""
    g = x if logit is None else logit.to(x.dtype)
    middle, shared = _shares_a_shift(g)
    if shared:
        e = (g - middle).exp_()
        push = (middle - log_mass).exp_().mul_(dy)
        along = spread(push, w, x)
        dg = (x * along).sub_(spread(push.mul_(y), w, x)).mul_(e)
        along.mul_(e)
        return (along.add_(dg), None) if logit is None else (along, dg)
    dx, dg = torch.zeros_like(x), torch.zeros_like(x)
    for _, o, i in w.offsets(x.shape[2:]):
        push = (dense(g, i) - log_mass[o]).exp_().mul_(dy[o])
        dx[i] += push
        dg[i] += (push * (x[i] - y[o])).masked_fill_(push == 0, 0)
    return (dx.add_(dg), None) if logit is None else (dx, dg)


def _shares_a_power(x, s, eps):
    """The middle of eps and the largest x, on the scale of logarithms, and whether powers s and s - 1 of x / it fit."""
    high = x.amax().item()
    middle = math.sqrt(eps) * math.sqrt(high)
    steep = max(s.max().item(), (s - 1).abs().max().item())
    return middle, high < math.inf and math.log(high / middle) * steep <= RANGE


def _power_mean(x, s, w, n, eps, y, kept):
    """Keeps y, unrounded, and its slope along s. x >= eps, and free to be written over."""
    top, shared = _shares_a_power(x, s, eps)
    learned = len(kept) > 1
    if shared and s.min().item() >= power.GENTLE:
        e = x.div_(top)
        log_u = e.log() if learned else None
        mass = total(e.pow_(s), w)
        root = mass.div(n).pow_(1 / s)  # y / top
        lean = total(e.mul_(log_u), w).div_(mass).sub_(root.log()).div_(s) if learned else None
    else:
        top = largest(x, w)
        root, lean = _power_mean_each(x, top, s, w, n, learned)
    root *= top
    y.copy_(root)
    if learned:
        kept[1] = lean.mul_(root)
    if len(kept):
        kept[0] = root


def _power_mean_each(x, top, s, w, n, learned):
    """y / top, and the slope of its logarithm along s, each window by its own maximum and exact for small s."""
    x, high = x.sqrt_(), top.sqrt()  # the ratio of roots never underflows

    def logs(o, i):
        return dense(x, i).div_(high[o]).log_().mul_(2)

    mass, less = torch.zeros_like(top), torch.zeros_like(top)
    for _, o, i in w.offsets(x.shape[2:]):
        z = logs(o, i).mul_(s)
        less[o] += z.expm1()
        mass[o] += z.exp_()
    less /= n
    log_y = torch.where(less > -0.5, less.log1p(), mass.div_(n).log_()).div_(s)
    if not learned:
        return log_y.exp_(), None
    lean = torch.zeros_like(top)
    for _, o, i in w.offsets(x.shape[2:]):
        lean[o] += power.lean(logs(o, i).sub_(log_y[o]), s)
    return log_y.exp_(), lean.div_(n)


def _power_mean_backward(push, x, s, y, w, eps):
    """(x_i / y)^(s-1) push, zero below eps."""
    v = x.clamp(min=eps)
    middle, shared = _shares_a_power(v, s, eps)
    if shared:
        dx = spread((y / middle).pow_(1 - s).mul_(push), w, x).mul_(v.div_(middle).pow_(s - 1))
    else:
        dx, log_y = torch.zeros_like(x), y.log()
        for _, o, i in w.offsets(x.shape[2:]):
            dx[i] += (dense(v, i).log_().sub_(log_y[o]) * (s - 1)).exp_().mul_(push[o])
    # x >= eps is x > the number before it, which torch vectorises; filling by a mask is 30 times as long
    before = torch.nextafter(x.new_tensor(eps), x.new_zeros(())).item()
    return torch.ops.aten.threshold_backward(dx, x, before)


def _dice(v, m):
    """dice(v, m) and what its slopes are made of; scaled by the larger of the two, so nothing over- or underflows."""
    a, b = v.abs(), m.abs()
    h = torch.maximum(a, b)
    none = torch.lt(h, torch.finfo(v.dtype).tiny, out=torch.empty_like(h))  # 1 where both are zero, else 0
    h.add_(none)
    a.div_(h)
    b.div_(h)
    q = (a * a).addcmul_(b, b).add_(none)
    return (a * b).mul_(2).div_(q).add_(none), a, b, h.mul_(q).mul_(q)


def _slope(a, b, q2h):
    """Along v: sign(v) b times this; along m: -sign(m) a times this."""
    return (b * b).addcmul_(a, a, value=-1).mul_(2).div_(q2h)


def _dsc(x, w, n, y, kept):
    """Keeps the mean, log of the mass plus 1, the slope that each position has through the mean, and y if asked to."""
    mean = total(x, w).div_(n)
    weighted, mass, slopes, pulled = (torch.zeros_like(mean) for _ in range(4))
    for _, o, i in w.offsets(x.shape[2:]):
        v = dense(x, i)
        d, a, b, q2h = _dice(v, mean[o])
        e = d.sub_(1).exp_()  # a coefficient is at most 1
        mass[o] += e
        weighted[o].addcmul_(e, v)
        if len(kept):
            slope = _slope(a, b, q2h).mul_(a).mul_(e)
            slopes[o] += slope
            pulled[o].addcmul_(slope, v)
    weighted /= mass
    y.copy_(weighted)
    if len(kept):
        through = (weighted * slopes).sub_(pulled).mul_(mean.sign()).div_(mass).div_(n)
        kept[0], kept[1], kept[2], kept[3:] = mean, mass.log_().add_(1), through, weighted


def _dsc_backward(dy, x, y, kept, w):
    dx = spread(dy * kept[2], w, x)
    for _, o, i in w.offsets(x.shape[2:]):
        v = dense(x, i)
        d, a, b, q2h = _dice(v, kept[0][o])
        share = d.sub_(kept[1][o]).exp_().mul_(dy[o])
        slope = _slope(a, b, q2h).mul_(b).mul_(v.sign())
        dx[i] += (v - y[o]).mul_(slope).add_(1).mul_(share)
    return dx
