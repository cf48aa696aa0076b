"""The filters of window_filters.py in Triton: one thread per window forward, one per position backward."""

from typing import no_type_check

import triton
import triton.language as tl

from lab.kernels import windows


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
def forward(
    x, weight, y, kept, x_at, y_at, kept_at, plane, rows, C, size, out, R: tl.constexpr, R_PAD: tl.constexpr,
    MODE: tl.constexpr, KEEP: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    b, c, o0, o1, o2, real = windows.tile(rows, C, out, LAST, ROWS, COLS)
    plane = tl.cast(plane, tl.int64)  # six of them may be more than 2^31 elements
    N: tl.constexpr = K[0] * K[1] * K[2]
    zero = tl.zeros([ROWS, COLS], tl.float32)
    top, place, total = zero - float("inf"), zero, zero  # [ROWS, COLS]
    ids = tl.arange(0, R_PAD)[:, None, None]
    z = tl.zeros([R_PAD, ROWS, COLS], tl.float32)
    for j in tl.range(0, N, loop_unroll_factor=N if N <= 16 else 1):
        i0, i1, i2, inside = windows.offset(j, o0, o1, o2, size, K, S, P)
        inside &= real
        v = tl.load(windows.address(x, x_at, b, c, i0, i1, i2), mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(weight + ids * N + j, mask=ids < R, other=0.0)
        if MODE == "poset":
            z += weights * tl.where(weights == 0, 0.0, v[None])  # a filter does not see what it leaves out
        else:
            z += weights * v[None]
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
def backward(
    dy, weight, kept, dx, dy_at, kept_at, dx_at, plane, rows, C, size, out, R: tl.constexpr, MODE: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    b, c, i0, i1, i2, real = windows.tile(rows, C, size, LAST, ROWS, COLS)
    plane = tl.cast(plane, tl.int64)
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


@triton.jit
@no_type_check
def weight_gradient(
    dy, x, kept, partial, dy_at, x_at, kept_at, plane, rows, C, size, out, R: tl.constexpr, R_PAD: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """partial[tile, r, j] = sum over the tile's windows of dy (dy/dz_r) x_j; the tiles are added in a fixed order."""
    b, c, o0, o1, o2, real = windows.tile(rows, C, out, LAST, ROWS, COLS)
    N: tl.constexpr = K[0] * K[1] * K[2]
    d = tl.load(windows.address(dy, dy_at, b, c, o0, o1, o2), mask=real, other=0.0).to(tl.float32)
    r = tl.arange(0, R_PAD)
    planes = windows.address(kept, kept_at, b, c, o0, o1, o2)[None] + (r.to(tl.int64) * plane)[:, None, None]
    push = tl.load(planes, mask=real[None] & (r < R)[:, None, None], other=0.0) * d[None]  # [R_PAD, ROWS, COLS]
    tile = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
    for j in tl.range(0, N):
        i0, i1, i2, inside = windows.offset(j, o0, o1, o2, size, K, S, P)
        at = windows.address(x, x_at, b, c, i0, i1, i2)
        v = tl.load(at, mask=inside & real, other=0.0).to(tl.float32)
        sums = tl.sum(tl.sum(push * v[None], 2), 1)  # [R_PAD]
        tl.store(partial + (tile * R + r) * N + j, sums, mask=r < R)
