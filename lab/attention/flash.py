"""Attention statistics from stock flash kernels, which never hold the T x T weights: two passes, linear memory.

A flash kernel gives each row's log-sum-exp, lse_i = log sum_k exp(s_ik). So with one more coordinate, q' = [q, -lse /
scale] and k' = [k, 1], the score of a pair is the logarithm of its weight, and the same kernel with keys in the place
of queries, and both reversed so that causal stays causal, has the column sums as its own log-sum-exp:

    columns_k = sum_i A_ik = exp(LSE_i(scale k'_k . q'_i))

Its output, with any value u_i, is sum_i A_ik u_i / columns_k. With u = [q, i] it holds, in the same pass, the sums

    sum_ik A_ik s_ik = scale sum_k columns_k k_k . (its q part)           entropy: sum_i H_i = sum_i lse_i - that
    sum_ik A_ik (i - k) = sum_k columns_k (its i part - k)                how far back attention looks

In half precision lse goes into three coordinates, a number and what is left of it twice, since one alone is wrong by a
percent; the inputs' width is padded to a multiple of 8 for the kernels' sake anyway. Found for this lab; awslabs/
keys_values#77 proposes the two passes for FlexAttention. On a GPU the same operators' own forms are called; that was
not run where this was written.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class Received(NamedTuple):
    """Of each head: what each key received, and sums over queries."""

    columns: Tensor  # [B, H, T] sum_i A_ik
    entropy: Tensor  # [B, H] sum_i -sum_k A_ik log A_ik, nats
    distance: Tensor  # [B, H] sum_ik A_ik (i - k), tokens


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The stock kernel: out [B, H, Tq, D] and lse [B, H, Tq], all heads with keys of their own, widths equal."""
    if not query.is_cuda:
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)
    query, key, value = (x.contiguous() for x in (query, key, value))
    if query.dtype in (torch.float16, torch.bfloat16):
        out, lse, *_ = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)
    else:
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
    return out, lse[..., : query.shape[2]]  # padded to a multiple of 32 by one of them


def log_sum_exp(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
    """[B, H, Tq] float32, or wider where the input is. Of one query beside many keys, and of as many as keys."""
    query, key = (_padded(x, 0) for x in (query, key))
    return attend(query, key, key, causal, scale)[1]


def received(query: Tensor, key: Tensor, lse: Tensor, causal: bool, scale: float) -> Received:
    """The second pass, from the first one's lse [B, H, Tq]. query [B, H, Tq, D], key [B, H, Tk, D]; causal: Tq = Tk."""
    Tq, Tk, D = query.shape[2], key.shape[2], query.shape[3]
    wide = lse.dtype
    q, k = _padded(query, 3), _padded(key, 3)
    q[..., D : D + 3] = _in_three(-lse / scale, q.dtype)
    k[..., D : D + 3] = 1
    values = _padded(query, 3)
    middle = (Tk - 1) / 2
    place = torch.arange(Tk - Tq, Tk, device=query.device, dtype=wide) - middle  # around 0, for the sake of half
    values[..., D : D + 3] = _in_three(place / max(middle, 1), values.dtype)
    if causal:
        q, k, values = q.flip(2), k.flip(2), values.flip(2)
    out, logs = attend(k, q, values, causal, scale)
    if causal:
        out, logs = out.flip(2), logs.flip(2)
    columns = logs.exp()
    far = out[..., D : D + 3].to(wide).sum(-1) * max(middle, 1)
    back = far - (torch.arange(Tk, device=query.device, dtype=wide) - middle)
    score = scale * torch.einsum("bhtd,bhtd->bht", out[..., :D].to(wide), key.to(wide))
    entropy = lse.sum(-1) - (columns * score).sum(-1)
    return Received(columns, entropy.clamp(min=0), (columns * back).sum(-1))


def effective(query: Tensor, key: Tensor, lse: Tensor, causal: bool, scale: float) -> Tensor:
    """[B, H, Tq]: 1 / sum_k A_ik^2, the number of keys that would be left with equal weights; one more first pass.

    sum_k A_ik^2 = exp(LSE_k(2 s_ik) - 2 lse_i).
    """
    return (2 * lse - log_sum_exp(query, key, causal, 2 * scale)).exp()


class Overheard(TorchDispatchMode):
    """Keeps the lse [B, H, Tq] of each flash kernel that runs inside the block: a first pass already paid for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is aten.scaled_dot_product_attention.default:  # inference mode hands it over whole
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in {
            aten._scaled_dot_product_flash_attention_for_cpu.default,
            aten._scaled_dot_product_flash_attention.default,
        }:
            self.found.append(result[1])
        return result


def _padded(x: Tensor, more: int) -> Tensor:
    """A copy with at least `more` coordinates of zero behind its own, a multiple of 8 in all."""
    return torch.nn.functional.pad(x, (0, -(x.shape[-1] + more) % 8 + more))


def _in_three(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., 3] numbers of this type whose sum is x."""
    first = x.to(dtype)
    second = (x - first.to(x.dtype)).to(dtype)
    third = (x - first.to(x.dtype) - second.to(x.dtype)).to(dtype)
    return torch.stack([first, second, third], -1)
