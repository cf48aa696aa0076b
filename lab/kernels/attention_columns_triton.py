"""The Triton kernels of attention_columns: one walk per block of queries or keys, no atomics in any.

    forward       a block of queries stays, keys stream by: the output, and the one number r of each row that gives any
                  weight of that row back from its score
    columns       a block of keys stays, queries stream by: sum_i w_i A_ik, from the scores and r
    backward_q    a block of queries stays: delta_i = sum_k A_ik dA_ik first, then the gradient of the queries
    backward_kv   a block of keys stays, the queries of all heads that share it stream by: gradients of keys and values

What r is for each normalizer, and a tile of weights from it and back, is in attention_weights_triton.
Source of the walk: FlashAttention-2 (Dao, 2023), algorithms 1 and 2 (recalled). https://arxiv.org/abs/2307.08691
"""

from typing import no_type_check

import triton
import triton.language as tl

from lab.kernels.attention_weights_triton import LOG_EPSILON, by_score, logit, product, weigh

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
@no_type_check  # a checked kernel would look for its helpers in the checker's module
def queries(bounds, b, i, Tq, Tk):
    """The run of real tokens of sequence b, which token each query i is, and whether it is real."""
    lo, hi = tl.load(bounds + 2 * b), tl.load(bounds + 2 * b + 1)
    token = i + (Tk - Tq)
    return lo, hi, token, (i < Tq) & (token >= lo) & (token < hi)


@triton.jit
@no_type_check
def sees(token, real, j, lo, hi, CAUSAL: tl.constexpr):
    """[M, N]: which keys j these queries may see."""
    visible = real[:, None] & (j >= lo)[None, :] & (j < hi)[None, :]
    if CAUSAL:
        visible = visible & (j[None, :] <= token[:, None])
    return visible


@triton.jit
@no_type_check
def tile(x, at, d, here, D):
    """Rows `at` (offsets, [M]) of x as [M, BLOCK_D], zeros where not here."""
    rows = tl.load(x + at[:, None] + d[None, :], mask=here[:, None] & (d < D)[None, :], other=0.0)
    if INTERPRETED and x.dtype.element_ty == tl.bfloat16:
        rows = rows.to(tl.float32)  # the interpreter's dot multiplies the bits of a bfloat16 as an integer
    return rows


@triton.jit
@no_type_check
def forward(
    q, k, v, bounds, out, row, scale, H, G, Tq, Tk, D,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t,
    MODE: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    b, h = pair // H, pair % H
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    lo, hi, token, real = queries(bounds, b, i, Tq, Tk)
    wide = i.to(tl.int64)
    qs = tile(q + b * q_b + h * q_h, wide * q_t, d, real, D)
    k += b * k_b + (h // G) * k_h
    v += b * v_b + (h // G) * v_h

    count = (token - lo + 1 if CAUSAL else token * 0 + (hi - lo)).to(tl.float32)
    r = tl.maximum(count, 1.0)
    top = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if MODE == "sigmoid":
        r = tl.log(r)
    elif MODE == "softmax1":  # the logit of 0 without a value is met before all keys
        top, total = total, total + 1.0
    elif MODE == "softpick":  # and eps likewise
        top, total = total + LOG_EPSILON, total + 1.0
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    end = hi
    if CAUSAL:
        end = tl.minimum(hi, tl.max(token, 0) + 1)
    for j0 in range(lo // BLOCK_N * BLOCK_N, end, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        here = (j >= lo) & (j < hi)
        ks = tile(k, j.to(tl.int64) * k_t, d, here, D)
        vs = tile(v, j.to(tl.int64) * v_t, d, here, D)
        s = tl.dot(qs, tl.trans(ks), input_precision="ieee") * scale
        visible = sees(token, real, j, lo, hi, CAUSAL)
        if MODE == "softmax" or MODE == "softmax1" or MODE == "softpick":
            terms = logit(s, MODE)
            higher = tl.maximum(top, tl.max(tl.where(visible, terms, -float("inf")), 1))
            shift = tl.where(higher == -float("inf"), 0.0, higher)  # nothing seen yet: inf - inf never happens
            a = weigh(terms, visible, shift[:, None], "softmax")
            shrink = tl.exp(top - shift)
            total = total * shrink + tl.sum(a, 1)
            if MODE == "softpick":
                a = tl.where(s > 0, a, 0.0)
            acc *= shrink[:, None]
            top = higher
        else:
            a = weigh(s, visible, r[:, None], MODE)
        acc += tl.dot(a.to(vs.dtype), vs, input_precision="ieee")
    if MODE == "softmax" or MODE == "softmax1" or MODE == "softpick":
        some = total > 0
        acc /= tl.where(some, total, 1.0)[:, None]
        r = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), 0.0)
        r = tl.where(total != total, total, r)  # a NaN among real tokens stays one
    place = pair * Tq + wide
    tl.store(out + place[:, None] * D + d[None, :], acc.to(out.dtype.element_ty), mask=(i < Tq)[:, None] & (d < D))
    tl.store(row + place, r, mask=i < Tq)


@triton.jit
@no_type_check
def columns(
    q, k, bounds, row, weight, out, scale, H, G, Tq, Tk, D, q_b, q_h, q_t, k_b, k_h, k_t,
    MODE: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    b, h = pair // H, pair % H
    j = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    lo, hi, _place, _there = queries(bounds, b, j, Tq, Tk)  # of the keys the last two say nothing
    ks = tile(k + b * k_b + (h // G) * k_h, j.to(tl.int64) * k_t, d, (j >= lo) & (j < hi), D)
    total = tl.zeros([BLOCK_N], tl.float32)
    begin = tl.maximum(lo - (Tk - Tq), 0)
    if CAUSAL:
        begin = tl.maximum(begin, tl.program_id(0) * BLOCK_N - (Tk - Tq))
    for i0 in range(begin // BLOCK_M * BLOCK_M, tl.minimum(hi - (Tk - Tq), Tq), BLOCK_M):
        i = i0 + tl.arange(0, BLOCK_M)
        lo, hi, token, real = queries(bounds, b, i, Tq, Tk)
        qs = tile(q + b * q_b + h * q_h, i.to(tl.int64) * q_t, d, real, D)
        r = tl.load(row + pair * Tq + i, mask=real, other=1.0)
        w = tl.load(weight + b * Tq + i, mask=real, other=0.0)
        s = tl.dot(qs, tl.trans(ks), input_precision="ieee") * scale
        a = weigh(s, sees(token, real, j, lo, hi, CAUSAL), r[:, None], MODE)
        total += tl.sum(a * w[:, None], 0)
    tl.store(out + pair * Tk + j, total, mask=j < Tk)


@triton.jit
@no_type_check
def backward_q(
    q, k, v, bounds, row, weight, dout, dcolumns, dq, delta, dweight, scale, H, G, Tq, Tk, D,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t,
    MODE: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1).to(tl.int64)
    b, h = pair // H, pair % H
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    lo, hi, token, real = queries(bounds, b, i, Tq, Tk)
    wide = i.to(tl.int64)
    place = pair * Tq + wide
    qs = tile(q + b * q_b + h * q_h, wide * q_t, d, real, D)
    dy = tile(dout, place * D, d, real, D)
    r = tl.load(row + place, mask=real, other=1.0)
    w = tl.load(weight + b * Tq + i, mask=real, other=0.0)
    k += b * k_b + (h // G) * k_h
    v += b * v_b + (h // G) * v_h
    begin, end = lo // BLOCK_N * BLOCK_N, hi
    if CAUSAL:
        end = tl.minimum(hi, tl.max(token, 0) + 1)

    mean = tl.zeros([BLOCK_M], tl.float32)  # delta; 0 where the weights of a row do not share a sum
    given = tl.zeros([BLOCK_M], tl.float32)  # sum_k A_ik dcolumns_k, the gradient of w_i
    for j0 in range(begin, end, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        here = (j >= lo) & (j < hi)
        ks = tile(k, j.to(tl.int64) * k_t, d, here, D)
        s = tl.dot(qs, tl.trans(ks), input_precision="ieee") * scale
        a = weigh(s, sees(token, real, j, lo, hi, CAUSAL), r[:, None], MODE)
        dc = tl.load(dcolumns + pair * Tk + j, mask=here, other=0.0)
        given += tl.sum(a * dc[None, :], 1)
        if MODE == "softmax" or MODE == "softmax1" or MODE == "softpick":
            vs = tile(v, j.to(tl.int64) * v_t, d, here, D)
            mean += tl.sum(a * tl.dot(dy, tl.trans(vs), input_precision="ieee"), 1)
    if MODE == "softmax" or MODE == "softmax1" or MODE == "softpick":
        mean += w * given
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for j0 in range(begin, end, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        here = (j >= lo) & (j < hi)
        ks = tile(k, j.to(tl.int64) * k_t, d, here, D)
        vs = tile(v, j.to(tl.int64) * v_t, d, here, D)
        s = tl.dot(qs, tl.trans(ks), input_precision="ieee") * scale
        visible = sees(token, real, j, lo, hi, CAUSAL)
        a = weigh(s, visible, r[:, None], MODE)
        dc = tl.load(dcolumns + pair * Tk + j, mask=here, other=0.0)
        da = tl.dot(dy, tl.trans(vs), input_precision="ieee") + w[:, None] * dc[None, :]
        ds = by_score(s, a, da, mean[:, None], visible, r[:, None], MODE)
        acc += product(ds, ks, MODE)
    tl.store(
        dq + place[:, None] * D + d[None, :], (acc * scale).to(dq.dtype.element_ty), mask=(i < Tq)[:, None] & (d < D)
    )
    tl.store(delta + place, mean, mask=i < Tq)
    tl.store(dweight + place, given, mask=i < Tq)


@triton.jit
@no_type_check
def backward_kv(
    q, k, v, bounds, row, weight, dout, dcolumns, delta, dk, dv, scale, H, G, Tq, Tk, D,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t,
    MODE: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    shared = tl.program_id(1).to(tl.int64)
    b, group = shared // (H // G), shared % (H // G)
    j = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    lo, hi, _place, _there = queries(bounds, b, j, Tq, Tk)  # of the keys the last two say nothing
    here = (j >= lo) & (j < hi)
    wide = j.to(tl.int64)
    ks = tile(k + b * k_b + group * k_h, wide * k_t, d, here, D)
    vs = tile(v + b * v_b + group * v_h, wide * v_t, d, here, D)
    of_k = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    of_v = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    begin = tl.maximum(lo - (Tk - Tq), 0)
    if CAUSAL:
        begin = tl.maximum(begin, tl.program_id(0) * BLOCK_N - (Tk - Tq))
    for h in range(group * G, group * G + G):
        pair = b * H + h
        dc = tl.load(dcolumns + pair * Tk + j, mask=here, other=0.0)
        for i0 in range(begin // BLOCK_M * BLOCK_M, tl.minimum(hi - (Tk - Tq), Tq), BLOCK_M):
            i = i0 + tl.arange(0, BLOCK_M)
            lo, hi, token, real = queries(bounds, b, i, Tq, Tk)
            qs = tile(q + b * q_b + h * q_h, i.to(tl.int64) * q_t, d, real, D)
            dy = tile(dout, (pair * Tq + i) * D, d, real, D)
            r = tl.load(row + pair * Tq + i, mask=real, other=1.0)
            w = tl.load(weight + b * Tq + i, mask=real, other=0.0)
            mean = tl.load(delta + pair * Tq + i, mask=real, other=0.0)
            s = tl.dot(qs, tl.trans(ks), input_precision="ieee") * scale
            visible = sees(token, real, j, lo, hi, CAUSAL)
            a = weigh(s, visible, r[:, None], MODE)
            of_v += tl.dot(tl.trans(a).to(dy.dtype), dy, input_precision="ieee")
            da = tl.dot(dy, tl.trans(vs), input_precision="ieee") + w[:, None] * dc[None, :]
            ds = by_score(s, a, da, mean[:, None], visible, r[:, None], MODE)
            of_k += product(tl.trans(ds), qs, MODE)
    at = (shared * Tk + wide)[:, None] * D + d[None, :]
    inside = (j < Tk)[:, None] & (d < D)[None, :]
    tl.store(dk + at, (of_k * scale).to(dk.dtype.element_ty), mask=inside)
    tl.store(dv + at, of_v.to(dv.dtype.element_ty), mask=inside)
