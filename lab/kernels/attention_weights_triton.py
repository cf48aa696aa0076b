"""A tile of attention scores s [M, N] made weights, and their gradients made those of the scores, in Triton.

r is what one row needs to give its weights back: the log-sum-exp of its scores for softmax (with one more logit of 0
for softmax1), log n for sigmoid and n for relu. For softpick it is the log-sum-exp of log |e^s - 1| and of one more
logit of log eps, so that A_k = max(1 - e^-s_k, 0) e^(s_k - r), where nothing cancels near s = 0 and nothing overflows.
"""

import math
from typing import no_type_check

import triton
import triton.language as tl

EPSILON = 1e-6  # softpick's, as in its released kernel
LOG_EPSILON = tl.constexpr(math.log(EPSILON))


@triton.jit
@no_type_check  # a checked kernel would look for its helpers in the checker's module
def rise(x):
    """1 - e^-x for x >= 0, to full precision at 0; Triton has no expm1 that its interpreter knows."""
    near, small = 1.0, tl.minimum(x, 0.5)
    for n in tl.static_range(8, 1, -1):  # the first term left out is 2^-8 / 9!, a fifth of float32's half step
        near = 1.0 - small * (1.0 / n) * near
    return tl.where(x < 0.5, small * near, 1.0 - tl.exp(-x))


@triton.jit
@no_type_check
def logit(s, MODE: tl.constexpr):
    """What a row's r is the log-sum-exp of: the scores, or log |e^s - 1| = max(s, 0) + log(1 - e^-|s|)."""
    if MODE == "softpick":
        return tl.where(s == 0, -float("inf"), tl.maximum(s, 0.0) + tl.log(tl.where(s == 0, 1.0, rise(tl.abs(s)))))
    return s


@triton.jit
@no_type_check
def weigh(s, visible, r, MODE: tl.constexpr):
    """The weights of a tile of scores s [M, N], from each row's number r [M, 1]."""
    if MODE == "softmax" or MODE == "softmax1":
        a = tl.exp(tl.where(visible, s - r, 0.0))
    elif MODE == "sigmoid":
        e = tl.exp(-tl.abs(s - r))
        a = tl.where(s >= r, 1.0, e) / (1.0 + e)
    elif MODE == "softpick":
        a = rise(tl.maximum(s, 0.0)) * tl.exp(tl.where(visible, s - r, 0.0))
    else:
        a = tl.maximum(s, 0.0) / r
    return tl.where(visible, a, 0.0)


@triton.jit
@no_type_check
def by_score(s, a, da, mean, visible, r, MODE: tl.constexpr):
    """dL/ds of a tile, from dL/dA and the mean of it that the weights of the row give, 0 where they share no sum."""
    if MODE == "softmax" or MODE == "softmax1":
        ds = a * (da - mean)
    elif MODE == "sigmoid":
        ds = a * (1.0 - a) * da
    elif MODE == "softpick":  # negative scores are in the sum and have no weight; at 0 both slopes are taken as 0
        push = tl.where(s > 0, da - mean, tl.where(s < 0, mean, 0.0))
        ds = tl.where(visible, tl.exp(tl.where(visible, s - r, 0.0)) * push, 0.0)
    else:
        ds = tl.where(visible & (s > 0), da / r, 0.0)
    return ds


@triton.jit
@no_type_check
def product(ds, rows, MODE: tl.constexpr):
    """ds @ rows. A slope of softpick is up to 1 / eps, too much for float16: TF32 has its digits and a wider range."""
    if MODE == "softpick" and rows.dtype == tl.float16:
        return tl.dot(ds, rows.to(tl.float32), input_precision="tf32")
    return tl.dot(ds.to(rows.dtype), rows, input_precision="ieee")
