"""What is no function of one row: a convolution over queries, keys and heads, temperatures and gates made by tokens."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lab.attention.exponential import PTS, softmax

Scores = Float[Tensor, "*rows J"]
Seen = Bool[Tensor, "*rows J"]


def mta(
    x: Scores,
    mask: Seen,
    kernel: Tensor | None = None,
    mix: Tensor | None = None,
    after_kernel: Tensor | None = None,
) -> Scores:
    """Convolved scores, softmax, convolved and mixed weights, each step only where a kernel for it is given.

    kernel, after_kernel [H, P, Q] or [P, Q]: weight [a, b] is for P - 1 - a queries earlier and b - (Q - 1) // 2 keys
    later. Masked scores count as 0 in the convolution and are masked again behind it. mix [H / c, c, c]: within each
    group of c heads, head a gets sum_b mix[a, b] of their weights.
    """
    heads = x.shape[-3] if x.ndim > 2 else 1
    if x.ndim < 2:
        raise ValueError(f"a convolution over queries needs scores [..., Tq, Tk]; got {tuple(x.shape)}")
    if kernel is not None:
        x = _convolved(x, _each(kernel, heads))
    weights = torch.where(mask, softmax(x, mask), 0)
    if after_kernel is not None:
        weights = torch.where(mask, _convolved(weights, _each(after_kernel, heads)), 0)
    if mix is not None:
        if mix.ndim != 3 or mix.shape[1] != mix.shape[2] or mix.shape[0] * mix.shape[1] != heads or x.ndim < 3:
            raise ValueError(f"mix must be [H / c, c, c] for the {heads} heads of {tuple(x.shape)}; got {[*mix.shape]}")
        groups = weights.unflatten(-3, mix.shape[:2])
        weights = torch.einsum("gab,...gbqk->...gaqk", mix.to(x.dtype), groups).flatten(-4, -3)
    return weights


def _each(kernel: Tensor, heads: int) -> Tensor:
    if kernel.ndim not in {2, 3} or kernel.numel() == 0 or (kernel.ndim == 3 and kernel.shape[0] != heads):
        raise ValueError(f"a kernel must be [P, Q] or [{heads}, P, Q], one for each head; got {[*kernel.shape]}")
    return kernel.expand(heads, *kernel.shape[-2:])


def _convolved(x: Tensor, kernel: Tensor) -> Tensor:
    past, near = kernel.shape[-2:]
    padded = functional.pad(x, ((near - 1) // 2, near // 2, past - 1, 0))
    flat = padded.reshape(-1, kernel.shape[0], *padded.shape[-2:])
    return functional.conv2d(flat, kernel[:, None].to(x.dtype), groups=kernel.shape[0]).reshape(x.shape)


def identity_kernels(call: Any, size: tuple[int, int] = (6, 11), group: int = 2) -> dict[str, Tensor]:
    """A kernel that is 1 at the score itself for each head, and heads left as they are in their groups."""
    heads, (past, near) = call.query.shape[1], size
    if past < 1 or near < 1:
        raise ValueError(f"size is (queries, keys) of the kernel, 1 or more of each; got {size}")
    if group < 1 or heads % group:
        raise ValueError(f"group must divide the {heads} heads; got {group}")
    kernel = torch.zeros(heads, past, near)
    kernel[:, -1, (near - 1) // 2] = 1
    return {"kernel": kernel, "mix": torch.eye(group).repeat(heads // group, 1, 1)}


def queries_before(kernel: Tensor | None = None, after_kernel: Tensor | None = None) -> int:
    return sum(k.shape[-2] - 1 for k in (kernel, after_kernel) if k is not None)


def temperatures(call: Any) -> dict[str, Tensor]:
    """SSA's maps of states and values to one number for each token and head, zero, and the weight of log n."""
    H, (_, K, _, Dv) = call.query.shape[1], call.value.shape
    return {
        "of_query": torch.zeros(H, _entered(call).shape[-1]),
        "of_value": torch.zeros(K, Dv),
        "length": torch.full((H, 1, 1), PTS),
    }


def spikes(call: Any, *, of_query: Tensor) -> dict[str, Tensor]:
    """tanh(w_h . h_i), what a token adds to the temperature of its query: [B, H, Tq, 1].

    h_i is the state that enters attention, of which the query is made: the query itself is rotated by its place before
    anybody else sees it, and would tell where a token stands.
    """
    entered = _entered(call).to(of_query.dtype)
    return {"spike": torch.einsum("btd,hd->bht", entered, of_query).tanh()[..., None]}


def scaled_values(call: Any, *, of_value: Tensor) -> Any:
    """Values times 1 + tanh(w_h . v_j); of the value itself, so that cached ones are scaled alike."""
    factor = 1 + torch.einsum("bktd,kd->bkt", call.value.to(of_value.dtype), of_value).tanh()[..., None]
    return replace(call, value=(call.value * factor).to(call.value.dtype))


def gate_learned(call: Any, elementwise: bool = True) -> dict[str, Tensor]:
    """W_g of zeros, so gates of 1/2: [H Dv, width], a gate for each number, or [H, width], one for each head."""
    H, Dv = call.query.shape[1], call.value.shape[-1]
    return {"gate": torch.zeros(H * Dv if elementwise else H, _entered(call).shape[-1])}


def gated(out: Tensor, call: Any, *, gate: Tensor) -> Tensor:
    """out [B, Tq, H, Dv] times sigma(W_g h_t), h what entered the attention module."""
    opened = functional.linear(_entered(call).to(gate.dtype), gate).sigmoid()
    return (out * opened.unflatten(-1, (out.shape[2], -1))).to(out.dtype)


def _entered(call: Any) -> Tensor:
    if call.hidden is None or call.hidden.shape[:-1] != (call.query.shape[0], call.query.shape[2]):
        shape = None if call.hidden is None else tuple(call.hidden.shape)
        raise ValueError(
            "this normalizer has a gate or a temperature that reads the states [B, Tq, width] which enter attention; "
            f"{type(call.module).__name__} was seen to be entered by {shape}"
        )
    return call.hidden
