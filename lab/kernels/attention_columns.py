"""Attention and what each key received of it, in one go and without the matrix of weights.

    out[b, h, i] = sum_k A_ik v_k          columns[b, h, k] = sum_i w_i A_ik          A = f(scale q k^T), masked

f is softmax, softpick or a weight of its own for each score: see WEIGHTS. Query i is token i + Tk - Tq. The kernels are
in attention_columns_triton; on a CPU a few rows of A stand in memory at a time.
"""

from collections.abc import Callable
from typing import NamedTuple, no_type_check

import torch
import triton
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lab.kernels import attention_columns_triton as kernels
from lab.kernels.attention_weights_triton import EPSILON
from lab.kernels.segment_pool import by_kernel, on_device


def softpick(s: Tensor, _: Tensor) -> Tensor:
    """relu(e^s - 1) / (eps + sum |e^s - 1|) from |e^s - 1| = e^max(s, 0) (1 - e^-|s|); no slope where s is 0."""
    top = s.amax(-1, keepdim=True).clamp(min=0).detach()
    sizes = (s.clamp(min=0) - top).exp() * -torch.expm1(-s.abs())
    return torch.where(s > 0, sizes, 0) / (sizes.sum(-1, keepdim=True) + EPSILON * (-top).exp())


WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of visible scores [..., N] and their number n [..., 1]
    "softmax": lambda s, _: (s - s.amax(-1, keepdim=True)).exp() / (s - s.amax(-1, keepdim=True)).exp().sum(-1, True),
    "softmax1": lambda s, _: torch.cat([s, torch.zeros_like(s[..., :1])], -1).softmax(-1)[..., :-1],
    "sigmoid": lambda s, n: (s - n.log()).sigmoid(),
    "relu": lambda s, n: s.relu() / n,
    "softpick": softpick,
}
ROWS = 2**22  # weights that stand in memory at a time on a CPU: 16 MiB in float32


class Columns(NamedTuple):
    """An attention's output [B, H, Tq, D], in the input's type, and its column sums [B, H, Tk], in float32 or wider."""

    out: Tensor
    columns: Tensor


def reference(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, bounds: Tensor, normalizer: str, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The definition, row by row; tests use float64.

    query [B, H, Tq, D], key and value [B, K, Tk, D], rows [B, Tq] (w), bounds [B, 2] (first real token, one past the
    last) -> out [B, H, Tq, D], columns [B, H, Tk]. Head h reads key head h // (H / K).
    """
    (B, H, Tq, _), (_, K, Tk, _) = query.shape, key.shape
    out, columns = torch.zeros_like(query), []
    outs = []
    for b in range(B):
        first, last = bounds[b].tolist()
        for h in range(H):
            keys, values = key[b, h // (H // K)], value[b, h // (H // K)]
            received = keys.new_zeros(Tk)
            for i in range(Tq):
                token = i + Tk - Tq
                end = min(last, token + 1) if causal else last
                if not first <= token < last:
                    outs.append(out[b, h, i])
                    continue
                n = keys.new_tensor([float(end - first)])
                weight = WEIGHTS[normalizer](scale * keys[first:end] @ query[b, h, i], n)
                outs.append(weight @ values[first:end])
                received = received + rows[b, i] * torch.nn.functional.pad(weight, (first, Tk - end))
            columns.append(received)
    return torch.stack(outs).view_as(query), torch.stack(columns).view(B, H, Tk)


def _blocks(D: int) -> dict[str, int]:
    """64 x 64 tiles of scores; 32 x 32 for heads so wide that two accumulators would not fit the registers."""
    block = 64 if D <= 128 else 32
    return {"BLOCK_M": block, "BLOCK_N": block, "BLOCK_D": max(16, triton.next_power_of_2(D))}


def _sizes(query: Tensor, key: Tensor) -> tuple[int, ...]:
    H, Tq, D = query.shape[1:]
    return H, H // key.shape[1], Tq, key.shape[2], D


def _dense(*tensors: Tensor) -> list[Tensor]:
    """The kernels step through coordinates one by one; all other strides are free."""
    return [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in tensors]


@torch.library.custom_op("lab::attention_columns", mutates_args=())
def _attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, bounds: Tensor, normalizer: str, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, the column sums, and the number of each row that the backward pass needs."""
    query, key, value = _dense(query, key, value)
    out, columns, row = _outputs(query, key)
    H, _, Tq, Tk, D = sizes = _sizes(query, key)
    if out.numel() and columns.numel():
        how = {"MODE": normalizer, "CAUSAL": causal, **_blocks(D)}
        steps = (*query.stride()[:3], *key.stride()[:3], *value.stride()[:3])
        pairs = len(query) * H
        with on_device(query):
            kernels.forward[(triton.cdiv(Tq, how["BLOCK_M"]), pairs)](
                query, key, value, bounds, out, row, scale, *sizes, *steps, **how
            )
            kernels.columns[(triton.cdiv(Tk, how["BLOCK_N"]), pairs)](
                query, key, bounds, row, rows.contiguous(), columns, scale, *sizes, *steps[:6], **how
            )
    return out, columns, row


@no_type_check  # sizes are symbols while a graph is traced, here and below
def _outputs(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    B, H, Tq, D = query.shape
    wide = {"dtype": torch.float32}
    return query.new_empty(B, H, Tq, D), query.new_empty(B, H, key.shape[2], **wide), query.new_empty(B, H, Tq, **wide)


@_attention.register_fake
@no_type_check
def _(query, key, value, rows, bounds, normalizer, causal, scale):  # noqa: ARG001
    return _outputs(query, key)


@torch.library.custom_op("lab::attention_columns_backward", mutates_args=())
def _gradient(
    dout: Tensor, dcolumns: Tensor, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, bounds: Tensor,
    row: Tensor, normalizer: str, causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of query, key, value and rows; the weights are computed anew."""
    query, key, value = _dense(query, key, value)
    dq, dk, dv, dweight = _gradients(query, key)
    H, _, Tq, Tk, D = sizes = _sizes(query, key)
    if dq.numel() and dk.numel():
        # two tiles of weights and of their gradients stand at once, so each is half as tall as in the forward kernel
        how = {"MODE": normalizer, "CAUSAL": causal, **_blocks(D), "BLOCK_M": 32}
        steps = (*query.stride()[:3], *key.stride()[:3], *value.stride()[:3])
        delta, rows = torch.empty_like(dweight), rows.contiguous()
        given = (query, key, value, bounds, row, rows, dout.contiguous(), dcolumns.contiguous())
        with on_device(query):
            kernels.backward_q[(triton.cdiv(Tq, how["BLOCK_M"]), len(query) * H)](
                *given, dq, delta, dweight, scale, *sizes, *steps, **how
            )
            kernels.backward_kv[(triton.cdiv(Tk, how["BLOCK_N"]), len(query) * key.shape[1])](
                *given, delta, dk, dv, scale, *sizes, *steps, **how
            )
    return dq, dk, dv, dweight.sum(1)


@no_type_check
def _gradients(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = query.new_empty(query.shape), key.new_empty(key.shape), key.new_empty(key.shape)
    return dq, dk, dv, query.new_empty(query.shape[:3], dtype=torch.float32)


@_gradient.register_fake
@no_type_check
def _(dout, dcolumns, query, key, value, rows, bounds, row, normalizer, causal, scale):  # noqa: ARG001
    *grads, dweight = _gradients(query, key)
    return (*grads, dweight.sum(1))


def _save(ctx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])
    ctx.how = inputs[5:]
    ctx.set_materialize_grads(True)


def _differentiate(ctx, dout: Tensor, dcolumns: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_gradient(dout, dcolumns, *ctx.saved_tensors, *ctx.how), None, None, None, None)


_attention.register_autograd(_differentiate, setup_context=_save)


def apply(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, bounds: Tensor, normalizer: str, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The kernel with its gradient; the signature of `reference`."""
    return _attention(query, key, value, rows, bounds, normalizer, causal, scale)[:2]


def by_torch(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, bounds: Tensor, normalizer: str, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The same in plain torch, a few rows of the matrix at a time, which a backward pass computes anew."""
    (B, H, Tq, D), (K, Tk) = query.shape, key.shape[1:3]
    wide = torch.promote_types(query.dtype, torch.float32)
    there = torch.arange(Tk, device=query.device)
    real = (there >= bounds[:, :1]) & (there < bounds[:, 1:])  # [B, Tk]
    queries, keys, values = (
        x.to(wide).masked_fill(~kept[:, None, :, None], 0).view(B, K, -1, x.shape[2], D)
        for x, kept in ((query, real[:, Tk - Tq :]), (key, real), (value, real))
    )

    def some(start: int, stop: int, q: Tensor, keys: Tensor, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        token = there[Tk - Tq + start : Tk - Tq + stop, None]
        visible = (real[:, None] & real[:, token[:, 0], None])[:, None, None]
        if causal:
            visible = visible & (there <= token)
        n = visible.sum(-1, keepdim=True)
        s = (q @ keys.mT * scale).masked_fill(~visible, -torch.inf if normalizer.startswith("softmax") else 0)
        # a row without keys: equal scores, so that neither value nor gradient is 0 / 0
        a = WEIGHTS[normalizer](torch.where(n > 0, s, 0), n.clamp(min=1).to(wide)).masked_fill(~visible, 0)
        return a @ values, (a * rows[:, None, None, start:stop, None]).sum(-2)

    step = max(1, ROWS // max(1, B * H * Tk))
    outs, columns = [], keys.new_zeros(B, K, H // K, Tk)
    for start in range(0, Tq, step):
        stop = min(start + step, Tq)
        given = (start, stop, queries[..., start:stop, :], keys, values, rows.to(wide))
        out, received = checkpoint(some, *given, use_reentrant=False) if torch.is_grad_enabled() else some(*given)
        outs.append(out)
        columns = columns + received
    out = torch.cat(outs, -2) if outs else queries
    return out.reshape(query.shape).to(query.dtype), columns.view(B, H, Tk)


def attention_columns(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    rows: Tensor | None = None,
    *,
    normalizer: str = "softmax",
    causal: bool = True,
    scale: float | None = None,
) -> Columns:
    """Attention, and the sum over queries of the weight that each key was given: out and columns.

    query [B, H, Tq, D], key and value [B, K, Tk, D] with H a multiple of K; query i is token i + Tk - Tq. mask [B, Tk],
    True = real token: one run in each sequence; queries outside it give zeros. rows [B, Tq]: the weight of each query
    in the sums, 1 when not given. scale: 1 / sqrt(D) when not given. normalizer, of a row's scaled scores s and the
    number n of keys it may see:
        softmax     e^s_k / sum_j e^s_j
        softmax1    e^s_k / (1 + sum_j e^s_j); Miller 2023
        sigmoid     sigma(s_k - log n); Ramapuram et al. 2024, https://arxiv.org/abs/2409.04431
        relu        max(s_k, 0) / n; Wortsman et al. 2023, https://arxiv.org/abs/2309.08586
        softpick    max(e^s_k - 1, 0) / (eps + sum_j |e^s_j - 1|), eps = 1e-6; Zuhri et al. 2025,
                    https://arxiv.org/abs/2504.20966. No gradient reaches a score of exactly 0
    Memory is linear in T, forward and backward. Half inputs are multiplied as they are and summed in float32.

    By the kernel on a GPU or in Triton's interpreter, by plain torch on a CPU and in float64.
    Raises ValueError for an unknown normalizer, shapes or types that do not fit, and a mask of several runs.
    """
    _check(query, key, value, mask, rows, normalizer)
    B, _, Tq, D = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    rows = query.new_ones(B, Tq, dtype=wide) if rows is None else rows.to(wide)
    bounds = _bounds(mask, key)
    run = apply if by_kernel(query) else by_torch
    return Columns(*run(query, key, value, rows, bounds, normalizer, causal, D**-0.5 if scale is None else scale))


def _bounds(mask: Tensor | None, key: Tensor) -> Tensor:
    B, _, Tk, _ = key.shape
    if mask is None:
        return torch.tensor([[0, Tk]], dtype=torch.int32, device=key.device).repeat(B, 1)
    n, first = mask.sum(1), mask.int().argmax(1) if Tk else mask.sum(1)
    there = torch.arange(Tk, device=mask.device)
    if not torch.equal(mask, (there >= first[:, None]) & (there < (first + n)[:, None])):
        raise ValueError("mask must hold one run of real tokens in each sequence; got one with a hole")
    return torch.stack([first, first + n], 1).int()


def _check(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rows: Tensor | None, normalizer: str
) -> None:
    if normalizer not in WEIGHTS:
        raise ValueError(f"no normalizer {normalizer!r} here; there are {list(WEIGHTS)}")
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if query.ndim != 4 or key.ndim != 4 or key.shape != value.shape:
        raise ValueError(f"needed are query [B, H, Tq, D] and key and value [B, K, Tk, D]; got {shapes}")
    (B, H, Tq, D), (_, K, Tk, _) = query.shape, key.shape
    if key.shape[0] != B or key.shape[3] != D or K == 0 or H % K or Tq > Tk:
        raise ValueError(f"needed are one B and D, H a multiple of K, and Tq <= Tk; got {shapes}")
    if not query.is_floating_point() or {key.dtype, value.dtype} != {query.dtype}:
        raise ValueError(f"needed is one float type; got {query.dtype}, {key.dtype}, {value.dtype}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (B, Tk)):
        raise ValueError(f"mask must be bool {(B, Tk)}, True = real token; got {mask.dtype} {tuple(mask.shape)}")
    if rows is not None and rows.shape != (B, Tq):
        raise ValueError(f"rows must be {(B, Tq)}, a weight for each query; got {tuple(rows.shape)}")
