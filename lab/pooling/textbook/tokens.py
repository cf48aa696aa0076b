"""Token pools, pool(x [B, T, D], mask [B, T]), by the book."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def _mean(x: Float[Tensor, "B T D"], weights: Float[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    return (x * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


def _hidden(values: Float[Tensor, "B T *K"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T *K"]:
    return values.masked_fill(~mask.view(*mask.shape, *[1] * (values.ndim - 2)), -torch.inf)


def _place(mask: Bool[Tensor, "B T"]) -> Tensor:
    return mask.cumsum(1) * mask


def _first(_: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return x[torch.arange(len(x), device=x.device), mask.int().argmax(1)]


def _last(_: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return x[torch.arange(len(x), device=x.device), _place(mask).argmax(1)]


def _landmark(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    at = _place(mask)
    return _mean(x, (mask & ((at % pool.chunk_size == 0) | (at == at.amax(1, keepdim=True)))).to(x.dtype))


def _max(_: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return _hidden(x, mask).max(1).values


def _gem(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    p = pool.exponent(x.dtype)
    return _mean(x.clamp(min=pool.eps).pow(p), mask.to(x.dtype)).pow(1 / p)


def _gnp(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    powers = x.abs().clamp(min=pool.eps).pow(pool.p) * mask[..., None]
    return powers.sum(1).pow(1 / pool.p) / mask.sum(1, keepdim=True).pow(pool.q)


def _log_mean_exp(x: Tensor, mask: Tensor, r: Tensor | float) -> Tensor:
    return (_hidden(r * x, mask).logsumexp(1) - mask.sum(1, keepdim=True).log()) / r


def _own_softmax(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return (_hidden(pool.beta * x, mask).softmax(1) * x).sum(1)


def _splade(_: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return (x.relu().log1p() * mask[..., None]).amax(1)


def _gated_attention(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    h = pool.v(x).tanh()
    return (_hidden(pool.w(h if pool.u is None else h * pool.u(x).sigmoid()), mask).softmax(1) * x).sum(1)


def _attsets(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return (_hidden(pool.score(x), mask).softmax(1) * x).sum(1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """query [H, P, C], key and value [B, T, H * C] -> [B, P, H * C]."""
    k, v = (heads(t, len(query)) for t in (key, value))
    scores = (scale * query @ k.mT).masked_fill(~mask[:, None, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _multihead(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    scale = pool.query.shape[-1] ** -0.5
    return pool.out(_attend(pool.query.transpose(0, 1), pool.key(x), pool.value(x), mask, scale)).flatten(1)


def _pma(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    query = pool.query(pool.seeds)
    heads = query.unflatten(-1, (pool.num_heads, -1)).transpose(0, 1)
    o = pool.norm[0](query + _attend(heads, pool.key(x), pool.value(x), mask, pool.scale))
    return pool.norm[1](o + pool.out(o).relu()).flatten(1)


def heads(x: Tensor, n: int) -> Float[Tensor, "*B H T C"]:
    return x.unflatten(-1, (n, -1)).transpose(-2, -3)


def _hopfield(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    k, v = (heads(part(pool.stored_norm(x)), pool.num_heads) for part in (pool.key, pool.value))
    q = heads(pool.query(pool.state_norm(pool.state)), pool.num_heads)
    hidden = ~mask[:, None, None]
    for _ in range(pool.update_steps):
        q = (pool.beta * q @ k.mT).masked_fill(hidden, -torch.inf).softmax(-1) @ k
    met = (pool.beta * q @ k.mT).masked_fill(hidden, -torch.inf).softmax(-1) @ v
    return pool.out(met.transpose(1, 2).flatten(2)).flatten(1)


def _gsp(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """t by halving an interval in float64, then one Newton step, which has the gradient of the solution."""
    prototypes, tokens = (v / v.norm(dim=-1, keepdim=True).clamp(min=1) for v in (pool.prototypes, x))
    logits = (-pool.gamma * torch.cdist(tokens, prototypes.expand(len(x), -1, -1))).logsumexp(-1)
    real, n = mask.to(x.dtype), mask.sum(1, keepdim=True)
    with torch.no_grad():
        wide = logits.double()
        t = math.log(pool.mu / (1 - pool.mu)) - wide.masked_fill(~mask, 0).sum(1, keepdim=True) / n
        step = wide.abs().amax(1, keepdim=True) * 2
        for _ in range(64):
            low = ((t + wide).sigmoid() * real).sum(1, keepdim=True) < n * pool.mu
            t, step = torch.where(low, t + step, t - step), step / 2
        t = t.to(x.dtype)
    s = (t + logits).sigmoid() * real
    slope = (s * (1 - s) * real).sum(1, keepdim=True).detach()
    t = t - (s.sum(1, keepdim=True) - n * pool.mu) / slope
    return ((t + logits).sigmoid() * real / pool.mu / n)[:, None].matmul(x)[:, 0]


def _geglu(ff: nn.Module, x: Tensor) -> Tensor:
    value, gate = ff[0](x).chunk(2, -1)
    return ff[1](value * nn.functional.gelu(gate))


def _latent_attention(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    latents = pool.latent_norm(pool.latents)
    parts = pool.query(pool.norm(x)), pool.key(latents), pool.value(latents)
    q, k, v = (heads(part, pool.num_heads) for part in parts)
    met = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    x = x + pool.out(met.transpose(1, 2).flatten(2))
    return _mean(x + _geglu(pool.ff, pool.ff_norm(x)), mask.to(x.dtype))


def read(reader: nn.Module, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"]) -> Float[Tensor, "B R D"]:
    query = heads(reader.to_q(reader.norm_latents(reader.latents)), reader.heads)
    k, v = reader.to_kv(reader.norm(x)).chunk(2, -1)
    z = reader.latents + reader.to_out(_attend(query, k, v, mask, reader.dim_head**-0.5))
    return z + _geglu(reader.ff, reader.norm_ff(z))


def _key_value(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    z = torch.einsum("btd,cde->cbte", x, pool.projection).flatten(1, 2)
    codes = torch.cdist(z, pool.keys).argmin(-1)  # [C, B T]
    met = torch.stack([values[code] for values, code in zip(pool.values, codes, strict=True)]).mean(0)
    return _mean(met.unflatten(0, mask.shape), mask.to(x.dtype))


TOKENS: dict[str, Callable[..., Tensor]] = {
    "first": _first,
    "last": _last,
    "mean": lambda _, x, mask: _mean(x, mask.to(x.dtype)),
    "sqrt_mean": lambda _, x, mask: (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).sqrt(),
    "position_mean": lambda _, x, mask: _mean(x, _place(mask).to(x.dtype)),
    "sink_excluding_mean": lambda pool, x, mask: _mean(x, (_place(mask) > pool.num_sinks).to(x.dtype)),
    "landmark": _landmark,
    "max": _max,
    "min": lambda pool, x, mask: -_max(pool, -x, mask),
    "gem": _gem,
    "group_gem": _gem,
    "lse": lambda pool, x, mask: _log_mean_exp(x, mask, pool.r),
    "softmax": _own_softmax,
    "gnp": _gnp,
    "norm_weighted_mean": lambda pool, x, mask: _mean(x, x.norm(dim=-1).pow(pool.alpha) * mask),
    "splade": _splade,
    "span_max": _max,
    "received_attention": lambda _, x, mask, received: _mean(x, received * mask),
    "concat": lambda _, x, mask: torch.cat([_mean(x, mask.to(x.dtype)), _max(_, x, mask)], -1),
    "multihead_attention": _multihead,
    "gated_attention": _gated_attention,
    "attsets": _attsets,
    "pma": _pma,
    "hopfield": _hopfield,
    "gsp": _gsp,
    "latent_attention": _latent_attention,
    "perceiver": lambda pool, x, mask: read(pool.reader, x, mask).mean(1),
    "midam_softmax": lambda pool, x, mask: _log_mean_exp(x, mask, 1 / pool.tau),
    "midam_attention": lambda pool, x, mask: _gated_attention(pool.attention, x, mask),
    "key_value": _key_value,
}
