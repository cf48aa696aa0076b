"""Layer pools, pool(h [L, ..., D]), by the book."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.pooling.textbook.tokens import heads, read


def _mix(weights: Float[Tensor, " L *W"], h: Float[Tensor, "L *N D"]) -> Float[Tensor, "*N D"]:
    return (weights * h).sum(0)


def _rms(x: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def _router(pool: nn.Module, h: Tensor) -> Tensor:
    z = _rms(h, pool.eps)
    scores = (pool.see(z).tanh() * pool.gate(z).sigmoid()) @ pool.score
    return _mix((scores + pool.bias.view(-1, *[1] * (h.ndim - 2))).softmax(0)[..., None], h)


def _attentive_fusion(pool: nn.Module, h: Float[Tensor, "L P B D"]) -> Tensor:
    x = nn.functional.layer_norm(h, h.shape[-1:], eps=pool.eps) * pool.gain[:, :, None]
    k, v = (heads(part, pool.heads) for part in pool.to_kv(x.flatten(0, 1).transpose(0, 1)).chunk(2, -1))
    query = pool.query.view(pool.heads, 1, -1)
    met = (query @ k.mT / query.shape[-1] ** 0.5).softmax(-1) @ v  # [B, H, 1, C]
    return pool.to_out(met.flatten(1))


def _pair(pool: nn.Module, h: Tensor) -> Tensor:
    x = torch.stack([h[pool.align], h[pool.uniform]], 1)
    for block in pool.blocks:
        q, k, v = (heads(part, pool.heads) for part in block["qkv"](_rms(x, pool.eps)).chunk(3, -1))
        met = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + block["out"](met.transpose(1, 2).flatten(2))
        x = x + block["down"](nn.functional.gelu(block["up"](_rms(x, pool.eps))))
    return x.mean(1)


def _all_layers(reader: nn.Module, x: Float[Tensor, "L B D"]) -> Tensor:
    x = x.transpose(0, 1)
    return read(reader, x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)).mean(1)


def _multilayer(pool: nn.Module, h: Tensor) -> Tensor:
    e = _all_layers(pool.reader, h + pool.layer_embedding[:, None])
    return nn.functional.normalize(e, dim=-1) if pool.normalize else e


def _multilayer_residual(pool: nn.Module, h: Tensor) -> Tensor:
    x = _rms(h, pool.eps) * pool.gain[:, None] + pool.layer_embedding[:, None]
    return (h[-1] if pool.baseline == "last" else h.mean(0)) + pool.out(_all_layers(pool.reader, x))


def _history(pool: nn.Module, h: Tensor) -> Tensor:
    keys = pool.key(h) + pool.layer_embedding.view(len(h), *[1] * (h.ndim - 2), -1)
    return _mix(((pool.query(h[-1]) * keys).sum(-1) / keys.shape[-1] ** 0.5).softmax(0)[..., None], h)


LAYERS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "pick": lambda _, h: h[-1],
    "mean": lambda _, h: h.mean(0),
    "first_last": lambda _, h: (h[0] + h[-1]) / 2,
    "max": lambda _, h: h.max(0).values,
    "softmax_mix": lambda pool, h: pool.gamma * _mix(pool.scores.softmax(0).view(-1, *[1] * (h.ndim - 1)), h),
    "dimension_mix": lambda pool, h: _mix(pool.scores.softmax(0).view(len(h), *[1] * (h.ndim - 2), -1), h),
    "weighted_mix": lambda pool, h: (
        _mix(pool.layer_weights.view(-1, *[1] * (h.ndim - 1)), h) / pool.layer_weights.sum()
    ),
    "concat_project": lambda pool, h: pool.project(torch.cat(h.unbind(0), -1)),
    "router": _router,
    "attentive_fusion": _attentive_fusion,
    "pair": _pair,
    "history": _history,
    "multilayer": _multilayer,
    "multilayer_residual": _multilayer_residual,
}
