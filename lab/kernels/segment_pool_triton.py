"""The Triton kernels of segment_pool: one body forward, one that merges parts, one backward, for all modes.

The forward kernel walks a part of one segment for one block of coordinates, BLOCK_T tokens at a time. Each lane of the
[BLOCK_T, BLOCK_D] tile keeps its own running state, so lanes meet once, at the end: three tiles (n, a, m) that mean
    sum, mean   n tokens, a their sum
    std         n tokens, a their mean, m the sum of squares around it (Welford; lanes merge by Chan's formula)
    max, min    n the first token that attains the extremum, a the extremum
    lse         n the sum of exp(x - m), m the maximum, a tells whether there was any token
    softmax     n the sum of exp(s - m), m the maximum, a the sum of exp(s - m) x
A few long segments are cut in parts whose states a second kernel merges in a fixed order. The backward kernel walks
the same way and writes each token's gradient where it belongs: no atomics in either, the same bits every time.
Sources: Welford 1962, https://doi.org/10.1080/00401706.1962.10490022; Chan, Golub & LeVeque 1979 (merge, recalled);
Milakov & Gimelshein 2018, algorithm 3 (online softmax, recalled), https://arxiv.org/abs/1805.02867
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check  # a checked kernel would look for its helpers in the checker's module
def span(mask, m_t, s, tokens, part, parts, PADDED: tl.constexpr, BLOCK_T: tl.constexpr):
    """Where segment s starts among ragged tokens, and the part of it that is ours."""
    if PADDED:
        start = s * 0
        length = start + tokens
    else:
        start = tl.load(mask + s * m_t).to(tl.int64)
        length = tl.load(mask + (s + 1) * m_t).to(tl.int64) - start
    size = tl.cdiv(tl.cdiv(length, parts), BLOCK_T) * BLOCK_T
    return start, part * size, tl.minimum(part * size + size, length)


@triton.jit
@no_type_check
def step(mask, m_s, m_t, s, t0, end, PADDED: tl.constexpr, BLOCK_T: tl.constexpr):
    """The next BLOCK_T tokens of segment s as a column: their numbers in it, and which are real."""
    t = t0 + tl.arange(0, BLOCK_T)[:, None].to(tl.int64)  # [BLOCK_T, 1]
    real = t < end
    if PADDED:
        real = tl.load(mask + s * m_s + t * m_t, mask=real, other=0) != 0
    return t, real


@triton.jit
@no_type_check
def fold(n, a, m, v, x, real, t, MODE: tl.constexpr):
    """One more token in each lane; v is what the exponential is of, x what is summed."""
    if MODE == "sum" or MODE == "mean":
        n += real.to(tl.float32)
        a += x
    elif MODE == "std":
        n += real.to(tl.float32)
        away = x - a
        a += tl.where(real, away / tl.maximum(n, 1.0), 0.0)
        m += tl.where(real, away * (x - a), 0.0)
    elif MODE == "max" or MODE == "min":
        v = x if MODE == "max" else -x
        # strictly larger, so the first of equals stays; the first NaN beats all
        take = real & ((n == 2147483647) | (v > a) | ((v != v) & (a == a)))
        n = tl.where(take, t, n)
        a = tl.where(take, v, a)
    else:
        # one exponential for both the old sum and the new term: the lower of m and v shrinks; inf - inf never happens
        e = tl.exp(-tl.abs(v - tl.where(tl.abs(m) == float("inf"), 0.0, m)))
        old = tl.where(v > m, e, 1.0)
        new = tl.where(v > m, 1.0, e)
        m = tl.maximum(m, v)
        n = n * old + new
        a = tl.maximum(a, real.to(tl.float32)) if MODE == "lse" else a * old + new * x
    return n, a, m


@triton.jit
@no_type_check
def merge(n, a, m, MODE: tl.constexpr):
    """The states of all lanes (or parts) in one: [L, W] -> [W]."""
    if MODE == "sum" or MODE == "mean":
        n, a, m = tl.sum(n, 0), tl.sum(a, 0), tl.sum(m, 0)
    elif MODE == "std":
        count = tl.sum(n, 0)
        near = tl.max(tl.where(n > 0, a, -float("inf")), 0)  # one lane's mean: equal tokens give exactly 0 around it
        near = tl.where(count > 0, near, 0.0)
        off = tl.where(n > 0, a - near[None, :], 0.0)
        mean = tl.sum(n * off, 0) / tl.maximum(count, 1.0)
        off -= mean[None, :]
        m = tl.sum(m + n * off * off, 0)
        n, a = count, near + mean
    elif MODE == "max" or MODE == "min":
        key = tl.where(a == a, a, -float("inf"))
        best = tl.max(key, 0)
        first = tl.min(tl.where(key == best[None, :], n, 2147483647), 0)
        nan = tl.min(tl.where(a == a, 2147483647, n), 0)
        n = tl.where(nan < 2147483647, nan, first)
        a = tl.where(nan < 2147483647, float("nan"), best)
        m = tl.sum(m, 0)
    else:
        top = tl.max(m, 0)
        shift = tl.where(tl.abs(top) == float("inf"), 0.0, top)
        scale = tl.exp(m - shift[None, :])
        n = tl.sum(n * scale, 0)
        a = tl.max(a, 0) if MODE == "lse" else tl.sum(a * scale, 0)
        m = top
    return n, a, m


@triton.jit
@no_type_check
def finish(n, a, m, y, aux, at, plane, keep, MODE: tl.constexpr):
    """From a segment's state to its value and to what the backward pass needs."""
    if MODE == "sum":
        value = a
    elif MODE == "mean":
        value = a / tl.maximum(n, 1.0)
    elif MODE == "std":
        value = tl.sqrt(m / tl.maximum(n, 1.0))
        tl.store(aux + at, a, mask=keep)
        tl.store(aux + plane + at, value, mask=keep)
    elif MODE == "max" or MODE == "min":
        value = tl.where(n == 2147483647, 0.0, a if MODE == "max" else -a)
        tl.store(aux + at, n, mask=keep)
    else:
        shift = tl.where(tl.abs(m) == float("inf"), 0.0, m)
        some = n != 0  # a NaN counts
        lse = tl.log(tl.where(some, n, 1.0)) + shift
        if MODE == "lse":
            value = tl.where(some, lse, tl.where(a > 0, -float("inf"), 0.0))
        else:
            value = tl.where(some, a / tl.where(some, n, 1.0), 0.0)
            tl.store(aux + plane + at, value, mask=keep)
        tl.store(aux + at, lse, mask=keep)  # finite where every score is -inf, so that exp(s - lse) is 0 and not NaN
    tl.store(y + at, value.to(y.dtype.element_ty), mask=keep)


@triton.jit
@no_type_check
def forward(
    x, mask, scores, y, aux, work, tokens, D, segments, parts,
    x_s, x_t, x_d, m_s, m_t, s_s, s_t, s_d,
    MODE: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One part of one segment, one block of coordinates. WIDE: a score for each coordinate, not for each token."""
    blocks = tl.cdiv(D, BLOCK_D)
    row = (tl.program_id(0) // blocks).to(tl.int64)  # neighbours in memory are neighbours in time
    s = row // parts
    d = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, begin, end = span(mask, m_t, s, tokens, row % parts, parts, PADDED, BLOCK_T)
    x += s * x_s + start * x_t
    scores += s * s_s + start * s_t

    m = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    a = m
    n = tl.zeros([BLOCK_T, 1], tl.float32)
    near = m
    if MODE == "max" or MODE == "min":
        n = tl.full([BLOCK_T, BLOCK_D], 2147483647, tl.int32)
        a = m - float("inf")
    elif MODE == "lse":
        n, m = m, m - float("inf")
    elif MODE == "softmax":
        if WIDE:
            n, m = m, m - float("inf")
        else:
            m = n - float("inf")
    for t0 in range(begin, end, BLOCK_T):
        t, real = step(mask, m_s, m_t, s, t0, end, PADDED, BLOCK_T)
        rows = tl.load(x + t * x_t + d[None, :] * x_d, mask=real & (d < D)[None, :], other=0.0).to(tl.float32)
        if MODE == "softmax":
            at = scores + t * s_t
            if WIDE:
                v = tl.load(at + d[None, :] * s_d, mask=real & (d < D)[None, :], other=-float("inf")).to(tl.float32)
            else:
                v = tl.load(at, mask=real, other=-float("inf")).to(tl.float32)
        else:
            v = tl.where(real, rows, -float("inf"))
        if MODE == "std":  # around each lane's first token: an offset that all share costs no digits
            near = tl.where(real & (n == 0), rows, near)
            rows = tl.where(real, rows - near, 0.0)
        n, a, m = fold(n, a, m, v, rows, real, t.to(tl.int32), MODE)
    if MODE == "std":
        a += near
    n, a, m = merge(n, a, m, MODE)

    if SPLIT:
        at = row * D + d
        plane = segments * parts * D
        if MODE == "max" or MODE == "min":
            n = n.to(tl.float32, bitcast=True)
        zero = tl.zeros([BLOCK_D], tl.float32)  # a state of one number is stored at every coordinate
        tl.store(work + at, n + zero if MODE != "max" and MODE != "min" else n, mask=d < D)
        tl.store(work + plane + at, a + zero, mask=d < D)
        tl.store(work + 2 * plane + at, m + zero, mask=d < D)
    else:
        zero = tl.zeros([BLOCK_D], tl.float32)
        if MODE == "softmax":
            n, m = n + zero, m + zero
        finish(n, a, m, y, aux, s * D + d, segments * D, d < D, MODE)


@triton.jit
@no_type_check
def combine(
    work, y, aux, D, segments, parts, MODE: tl.constexpr, LANES: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """The parts of one segment, merged in their order."""
    blocks = tl.cdiv(D, BLOCK_D)
    s = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    lane = tl.arange(0, LANES)[:, None]
    at = (s * parts + lane) * D + d[None, :]
    ours = (lane < parts) & (d < D)[None, :]
    plane = segments * parts * D
    n = tl.load(work + at, mask=ours, other=0.0)
    if MODE == "max" or MODE == "min":
        n = tl.where(ours, n.to(tl.int32, bitcast=True), 2147483647)
        a = tl.load(work + plane + at, mask=ours, other=-float("inf"))
    else:
        a = tl.load(work + plane + at, mask=ours, other=0.0)
    if MODE == "lse" or MODE == "softmax":
        m = tl.load(work + 2 * plane + at, mask=ours, other=-float("inf"))
    else:
        m = tl.load(work + 2 * plane + at, mask=ours, other=0.0)
    n, a, m = merge(n, a, m, MODE)
    finish(n, a, m, y, aux, s * D + d, segments * D, d < D, MODE)


@triton.jit
@no_type_check
def backward(
    dy, x, mask, scores, aux, lengths, dx, ds, tokens, D, segments, parts,
    g_s, g_d, x_s, x_t, x_d, m_s, m_t, s_s, s_t, s_d,
    MODE: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of each token of one part of one segment; dx and ds are contiguous."""
    blocks = tl.cdiv(D, BLOCK_D)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    s = row // parts
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    start, begin, end = span(mask, m_t, s, tokens, row % parts, parts, PADDED, BLOCK_T)
    first = s * tokens if PADDED else start  # of the tokens of all segments
    x += s * x_s + start * x_t
    scores += s * s_s + start * s_t

    g = tl.load(dy + s * g_s + d * g_d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    if MODE == "mean" or MODE == "std":
        g = g / tl.maximum(tl.load(lengths + s).to(tl.float32), 1.0)
    saved = aux + s * D + d
    if MODE == "softmax" and not WIDE:
        one = tl.load(aux + s * D)  # the lse of the segment stands at every coordinate
    elif MODE != "sum" and MODE != "mean":
        one = tl.load(saved, mask=d < D, other=0)[None, :]  # winner, mean or lse
    if MODE == "std" or MODE == "softmax":
        two = tl.load(saved + segments * D, mask=d < D, other=0.0)[None, :]  # std or y
    for t0 in range(begin, end, BLOCK_T):
        t, real = step(mask, m_s, m_t, s, t0, end, PADDED, BLOCK_T)
        inside = (t < end) & (d < D)[None, :]
        grad = tl.zeros([BLOCK_T, BLOCK_D], tl.float32) + g
        if MODE == "max" or MODE == "min":
            grad = tl.where(t.to(tl.int32) == one, grad, 0.0)
        elif MODE == "std" or MODE == "lse" or MODE == "softmax":
            ours = real & (d < D)[None, :]
            rows = tl.load(x + t * x_t + d[None, :] * x_d, mask=ours, other=0.0).to(tl.float32)
            if MODE == "std":
                grad = tl.where(two > 0, grad * ((rows - one) / tl.where(two > 0, two, 1.0)), 0.0)
            elif MODE == "lse":
                grad *= tl.exp(rows - one)
            else:
                if WIDE:
                    v = tl.load(scores + t * s_t + d[None, :] * s_d, mask=ours, other=-float("inf")).to(tl.float32)
                else:
                    v = tl.load(scores + t * s_t, mask=real, other=-float("inf")).to(tl.float32)
                grad *= tl.exp(v - one)
                slope = tl.where(ours, grad * (rows - two), 0.0)
                if WIDE:
                    tl.store(ds + (first + t) * D + d[None, :], slope.to(ds.dtype.element_ty), mask=inside)
                else:  # this block's share; the shares of all blocks are summed outside
                    share = tl.sum(slope, 1)[:, None]
                    tl.store(ds + (first + t) * blocks + block, share, mask=t < end)
        grad = tl.where(real, grad, 0.0)
        tl.store(dx + (first + t) * D + d[None, :], grad.to(dx.dtype.element_ty), mask=inside)
