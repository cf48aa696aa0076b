"""The window reductions of window_pool.py in Triton: one thread per window forward, one per position backward."""

from typing import no_type_check

import triton
import triton.language as tl

from lab.kernels import windows


@triton.jit
@no_type_check  # a checked kernel would look for its helpers in the checker's module
def _dice_slopes(v, m):
    h = tl.maximum(tl.abs(v), tl.abs(m))
    some = h >= 1.1754944e-38  # the smallest normal number
    h = tl.where(some, h, 1.0)
    a, b = tl.abs(v) / h, tl.abs(m) / h
    q = tl.where(some, a * a + b * b, 1.0)
    slope = 2.0 * (b * b - a * a) / (q * q * h)
    along_v = tl.where(v > 0, b, tl.where(v < 0, -b, 0.0)) * slope
    along_m = tl.where(m > 0, -a, tl.where(m < 0, a, 0.0)) * slope
    return tl.where(some, 2.0 * a * b / q, 1.0), along_v, along_m


@triton.jit
@no_type_check
def _excess(z):
    """(e^z - 1 - z) / z^2 for |z| <= 1; Triton has no expm1 and no log1p that its interpreter knows."""
    tail = z * 0.0 + 1.0
    for n in tl.static_range(11, 2, -1):  # the first term left out is 2 / 12! = 4e-9 of the first
        tail = 1.0 + z * (1.0 / n) * tail
    return 0.5 * tail


@triton.jit
@no_type_check
def _expm1(z):
    small = tl.maximum(z, -1.0)  # z <= 0
    return tl.where(z > -1.0, small + small * small * _excess(small), tl.exp(z) - 1.0)


@triton.jit
@no_type_check
def _log1p(a):
    """For -1/2 <= a <= 0: 2 artanh(r), r = a / (2 + a), |r| <= 1/3."""
    r = a / (2.0 + a)
    series = r * 0.0
    for n in tl.static_range(15, 0, -2):  # the first term left out is 9^-8 / 17 = 1e-9 of the first
        series = series * r * r + 1.0 / n
    return 2.0 * r * series


@triton.jit
@no_type_check
def _lean(u, s):
    """As in power.py: g(s u) / s^2, g(t) = t e^t - e^t + 1."""
    t = tl.maximum(s * u, -1e4)
    small = tl.minimum(tl.maximum(t, -1.0), 1.0)
    near = u * u * (1.0 + (small - 1.0) * _excess(small))
    return tl.where(tl.abs(t) < 1.0, near, ((t - 1.0) * tl.exp(t) + 1.0) / (s * s))


@triton.jit
@no_type_check
def forward(
    x, logit, scale, y, kept, x_at, logit_at, y_at, kept_at, plane, rows, C, size, out, eps,
    MODE: tl.constexpr, OWN: tl.constexpr, KEEP: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    b, c, o0, o1, o2, real = windows.tile(rows, C, out, LAST, ROWS, COLS)
    plane = tl.cast(plane, tl.int64)  # two of them may be more than 2^31 elements
    N: tl.constexpr = K[0] * K[1] * K[2]
    UNROLL: tl.constexpr = N if N <= 16 else 1
    n = windows.count(o0, o1, o2, size, K, S, P)
    zero = tl.zeros([ROWS, COLS], tl.float32)
    top, place, total = zero - float("inf"), zero, zero  # [ROWS, COLS]
    if MODE == "lp" or MODE == "mixed":
        s = tl.load(scale + c, mask=c < C, other=1.0)
    for j in tl.range(0, N, loop_unroll_factor=UNROLL):
        i0, i1, i2, inside = windows.offset(j, o0, o1, o2, size, K, S, P)
        inside &= real
        if MODE == "softmax" and not OWN:
            v = tl.load(windows.address(logit, logit_at, b, c, i0, i1, i2), mask=inside, other=0.0).to(tl.float32)
        else:
            v = tl.load(windows.address(x, x_at, b, c, i0, i1, i2), mask=inside, other=0.0).to(tl.float32)
        if MODE == "lp":
            v = tl.where(v < eps, eps, v)
        total += v
        wins = inside & ((v > top) | (v != v))  # a NaN wins, as in torch's max_pool
        top, place = tl.where(wins, v, top), tl.where(wins, j, place)
    top = tl.where(real, top, 1.0)  # no -inf in lanes that are no window
    mean = total / n

    mass, weighted, slopes, pulled, less = zero, zero, zero, zero, zero
    if MODE == "softmax":
        top = tl.where(top == -float("inf"), 0.0, top)
    if MODE == "softmax" or MODE == "dsc" or MODE == "lp":
        for j in tl.range(0, N, loop_unroll_factor=UNROLL):
            i0, i1, i2, inside = windows.offset(j, o0, o1, o2, size, K, S, P)
            inside &= real
            v = tl.load(windows.address(x, x_at, b, c, i0, i1, i2), mask=inside, other=0.0).to(tl.float32)
            if MODE == "softmax":
                score = v
                if not OWN:
                    at = windows.address(logit, logit_at, b, c, i0, i1, i2)
                    score = tl.load(at, mask=inside, other=0.0).to(tl.float32)
                e = tl.where(inside, tl.exp(score - top), 0.0)
                weighted += tl.where(e == 0, 0.0, e * v)
            elif MODE == "dsc":
                d, _, slope = _dice_slopes(v, mean)
                e = tl.where(inside, tl.exp(d - 1.0), 0.0)  # a coefficient is at most 1
                weighted += e * v
                slopes += e * slope
                pulled += e * slope * v
            else:
                # the ratio of roots never underflows
                z = s * 2.0 * tl.log(tl.where(inside, tl.sqrt(tl.where(v < eps, eps, v)) / tl.sqrt(top), 1.0))
                e = tl.where(inside, tl.exp(z), 0.0)
                less += tl.where(inside, _expm1(z), 0.0)
            mass += e

    # planes kept for the backward; the last one is the gradient of y with respect to scale, or y before it is rounded
    k0, k1, k2, k3 = zero, zero, zero, zero
    if MODE == "mean":
        value = mean
    elif MODE == "mean_minus_x":
        value = mean - tl.load(windows.address(x, x_at, b, c, o0, o1, o2), mask=real, other=0.0).to(tl.float32)
    elif MODE == "max":
        value, k0 = top, place
    elif MODE == "mixed":
        value, k0, k1 = s * top + (1.0 - s) * mean, place, top - mean
    elif MODE == "softmax":
        value = weighted / tl.where(mass == 0, 1.0, mass)
        k0 = tl.where(mass == 0, float("inf"), top + tl.log(tl.where(mass == 0, 1.0, mass)))
        k1 = value
    elif MODE == "dsc":
        mass = tl.where(real, mass, 1.0)
        value = weighted / mass
        k0, k1, k2, k3 = mean, 1.0 + tl.log(mass), (pulled - value * slopes) / (mass * n), value
    elif MODE == "lp":
        below = tl.where(real, less, 0.0) / n  # the mean of (x / top)^s, less 1: exact where that is near 1
        far = tl.log(tl.where(real, mass, n) / n)
        log_y = tl.where(below > -0.5, _log1p(tl.maximum(below, -0.5)), far) / s
        value = top * tl.exp(log_y)
        k0 = tl.log(top) + log_y
        if KEEP > 1:  # a slope that does not cancel needs y first
            for j in tl.range(0, N, loop_unroll_factor=UNROLL):
                i0, i1, i2, inside = windows.offset(j, o0, o1, o2, size, K, S, P)
                inside &= real
                v = tl.load(windows.address(x, x_at, b, c, i0, i1, i2), mask=inside, other=0.0).to(tl.float32)
                u = 2.0 * tl.log(tl.where(inside, tl.sqrt(tl.where(v < eps, eps, v)) / tl.sqrt(top), 1.0))
                k1 += tl.where(inside, _lean(u - log_y, s), 0.0)
            k1 *= value / n
    tl.store(windows.address(y, y_at, b, c, o0, o1, o2), value.to(y.dtype.element_ty), mask=real)
    at = windows.address(kept, kept_at, b, c, o0, o1, o2)
    if KEEP > 0:
        tl.store(at, k0, mask=real)
    if KEEP > 1:
        tl.store(at + plane, k1, mask=real)
    if KEEP > 2:
        tl.store(at + 2 * plane, k2, mask=real)
    if KEEP > 3:
        tl.store(at + 3 * plane, k3, mask=real)


@triton.jit
@no_type_check
def backward(
    dy, x, logit, scale, y, kept, dx, dlogit, dy_at, x_at, logit_at, y_at, kept_at, dx_at, plane, rows, C, size, out,
    eps,
    MODE: tl.constexpr, OWN: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    b, c, i0, i1, i2, real = windows.tile(rows, C, size, LAST, ROWS, COLS)
    plane = tl.cast(plane, tl.int64)
    T0: tl.constexpr = (K[0] + S[0] - 1) // S[0]
    N: tl.constexpr = T0 * ((K[1] + S[1] - 1) // S[1]) * ((K[2] + S[2] - 1) // S[2])
    UNROLL: tl.constexpr = N if N <= 16 else 1
    grad, grad_logit = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    if MODE == "lp" or MODE == "mixed":
        s = tl.load(scale + c, mask=c < C, other=1.0)
    if MODE == "softmax" or MODE == "dsc" or MODE == "lp":
        v = tl.load(windows.address(x, x_at, b, c, i0, i1, i2), mask=real, other=1.0).to(tl.float32)
        score = v
        if not OWN:
            score = tl.load(windows.address(logit, logit_at, b, c, i0, i1, i2), mask=real, other=0.0).to(tl.float32)
    for t in tl.range(0, N, loop_unroll_factor=UNROLL):
        o0, o1, o2, j, exists = windows.container(t, i0, i1, i2, out, K, S, P)
        exists &= real
        d = tl.load(windows.address(dy, dy_at, b, c, o0, o1, o2), mask=exists, other=0.0).to(tl.float32)
        n = tl.where(exists, windows.count(o0, o1, o2, size, K, S, P), 1.0)
        at = windows.address(kept, kept_at, b, c, o0, o1, o2)
        if MODE == "mean" or MODE == "mean_minus_x":
            grad += d / n
        elif MODE == "max":
            grad += tl.where(exists & (tl.load(at, mask=exists, other=-1.0) == j), d, 0.0)
        elif MODE == "mixed":
            won = tl.where(tl.load(at, mask=exists, other=-1.0) == j, s, 0.0)
            grad += d * (won + (1.0 - s) / n)
        elif MODE == "softmax":
            value = tl.load(windows.address(y, y_at, b, c, o0, o1, o2), mask=exists, other=0.0).to(tl.float32)
            share = tl.exp(score - tl.load(at, mask=exists, other=float("inf")))
            if OWN:
                grad += tl.where(exists, d * share * (1.0 + v - value), 0.0)
            else:
                grad += tl.where(exists, d * share, 0.0)
                grad_logit += tl.where(exists & (share != 0), d * share * (v - value), 0.0)
        elif MODE == "dsc":
            value = tl.load(windows.address(y, y_at, b, c, o0, o1, o2), mask=exists, other=0.0).to(tl.float32)
            mean = tl.load(at, mask=exists, other=1.0)
            coefficient, slope, _ = _dice_slopes(v, mean)
            share = tl.exp(coefficient - tl.load(at + plane, mask=exists, other=1.0))
            through_mean = tl.load(at + 2 * plane, mask=exists, other=0.0)
            grad += tl.where(exists, d * (share * (1.0 + (v - value) * slope) + through_mean), 0.0)
        elif MODE == "lp":
            log_y = tl.load(at, mask=exists, other=0.0)
            ratio = tl.exp((s - 1.0) * (tl.log(tl.where(v < eps, eps, v)) - log_y))
            grad += tl.where(exists & (v >= eps), d * ratio / n, 0.0)
    if MODE == "mean_minus_x":
        grad -= tl.load(windows.address(dy, dy_at, b, c, i0, i1, i2), mask=real, other=0.0).to(tl.float32)
    tl.store(windows.address(dx, dx_at, b, c, i0, i1, i2), grad.to(dx.dtype.element_ty), mask=real)
    if not OWN:
        tl.store(windows.address(dlogit, dx_at, b, c, i0, i1, i2), grad_logit.to(dlogit.dtype.element_ty), mask=real)
