"""Every operator as a page of a book would write it: whole tensors, one torch call for each sign of the formula.

    TOKENS[name](pool, x, mask, *more)   LAYERS[name](pool, h)   MAPS[name](pool, x)

take the registry's pool for its parameters and give what it gives on ordinary numbers, up to rounding. They are a
second opinion in tests and the "eager" of the benchmark; they keep none of the promises about padding, empty rows and
overflow. h is [L, B, D], or [L, P, B, D] for what reads several summaries.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.kernels.windows import Ints


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
    k, v = (_heads(t, len(query)) for t in (key, value))
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


def _heads(x: Tensor, n: int) -> Float[Tensor, "*B H T C"]:
    return x.unflatten(-1, (n, -1)).transpose(-2, -3)


def _hopfield(pool: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    k, v = (_heads(part(pool.stored_norm(x)), pool.num_heads) for part in (pool.key, pool.value))
    q = _heads(pool.query(pool.state_norm(pool.state)), pool.num_heads)
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
    q, k, v = (_heads(part, pool.num_heads) for part in parts)
    met = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    x = x + pool.out(met.transpose(1, 2).flatten(2))
    return _mean(x + _geglu(pool.ff, pool.ff_norm(x)), mask.to(x.dtype))


def _reader(reader: nn.Module, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"]) -> Float[Tensor, "B R D"]:
    query = _heads(reader.to_q(reader.norm_latents(reader.latents)), reader.heads)
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
    "perceiver": lambda pool, x, mask: _reader(pool.reader, x, mask).mean(1),
    "midam_softmax": lambda pool, x, mask: _log_mean_exp(x, mask, 1 / pool.tau),
    "midam_attention": lambda pool, x, mask: _gated_attention(pool.attention, x, mask),
    "key_value": _key_value,
}


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
    k, v = (_heads(part, pool.heads) for part in pool.to_kv(x.flatten(0, 1).transpose(0, 1)).chunk(2, -1))
    query = pool.query.view(pool.heads, 1, -1)
    met = (query @ k.mT / query.shape[-1] ** 0.5).softmax(-1) @ v  # [B, H, 1, C]
    return pool.to_out(met.flatten(1))


def _pair(pool: nn.Module, h: Tensor) -> Tensor:
    x = torch.stack([h[pool.align], h[pool.uniform]], 1)
    for block in pool.blocks:
        q, k, v = (_heads(part, pool.heads) for part in block["qkv"](_rms(x, pool.eps)).chunk(3, -1))
        met = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + block["out"](met.transpose(1, 2).flatten(2))
        x = x + block["down"](nn.functional.gelu(block["up"](_rms(x, pool.eps))))
    return x.mean(1)


def _all_layers(reader: nn.Module, x: Float[Tensor, "L B D"]) -> Tensor:
    x = x.transpose(0, 1)
    return _reader(reader, x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)).mean(1)


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


def _softpool(x: Tensor, logit: Tensor, kernel: Ints, stride: Ints | None = None, padding: int = 0) -> Tensor:
    e = logit.exp()
    return nn.functional.avg_pool2d(x * e, kernel, stride, padding) / nn.functional.avg_pool2d(
        e, kernel, stride, padding
    )


def _edscw(x: Tensor, kernel: int) -> Tensor:
    mean = nn.functional.interpolate(nn.functional.avg_pool2d(x, kernel), scale_factor=kernel)
    return _softpool(x, 2 * (x * mean).abs() / (x.square() + mean.square()), kernel)


def _filtered(x: Float[Tensor, "B C H W"], filters: Float[Tensor, "R kH kW"]) -> Float[Tensor, "R B C oH oW"]:
    """Each filter over all channels, windows side by side."""
    planes = x.flatten(0, 1)[:, None]
    return (
        nn.functional.conv2d(planes, filters[:, None], stride=filters.shape[1:]).unflatten(0, x.shape[:2]).movedim(2, 0)
    )


def _mixed(pool: nn.Module, x: Tensor) -> Tensor:
    a = pool.alpha.clamp(0, 1).view(-1, 1, 1)
    return a * nn.functional.max_pool2d(x, pool.args[0]) + (1 - a) * nn.functional.avg_pool2d(x, pool.args[0])


def _gated(pool: nn.Module, x: Tensor) -> Tensor:
    g = _filtered(x, pool.weight)[0].sigmoid()
    return g * nn.functional.max_pool2d(x, pool.args[0]) + (1 - g) * nn.functional.avg_pool2d(x, pool.args[0])


def _tree(pool: nn.Module, x: Tensor) -> Tensor:
    a, b, c, d = _filtered(x, pool.leaves)
    root, left, right = _filtered(x, pool.gates).sigmoid()
    return root * (left * a + (1 - left) * b) + (1 - root) * (right * c + (1 - right) * d)


def _stochastic(pool: nn.Module, x: Tensor) -> Tensor:
    a = x.relu()
    return nn.functional.avg_pool2d(a * a, pool.args[0]) / nn.functional.avg_pool2d(a, pool.args[0]).clamp(min=1e-30)


def _s3(pool: nn.Module, x: Tensor) -> Tensor:
    edge = [0, pool.pool_size - 1, 0, pool.pool_size - 1]
    return nn.functional.avg_pool2d(
        nn.functional.max_pool2d(nn.functional.pad(x, edge, value=-torch.inf), pool.pool_size, 1), pool.pool_size
    )


def _gem2d(pool: nn.Module, x: Tensor) -> Tensor:
    p = pool.p.view(-1, 1, 1)
    powers = x.clamp(min=pool.eps).pow(p)
    mean = (
        powers.mean((2, 3), keepdim=True) if pool.kernel_size is None else nn.functional.avg_pool2d(powers, *pool.args)
    )
    return mean.pow(1 / p)


def _regional_gem(pool: nn.Module, x: Tensor) -> Tensor:
    around = nn.functional.pad(x.clamp(min=pool.eps), [pool.kernel_size // 2] * 4, mode="reflect")
    return (nn.functional.avg_pool2d(around.pow(pool.p), pool.kernel_size, 1).pow(1 / pool.p) + x) / 2


MAPS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "soft": lambda pool, x: _softpool(x, x, pool.kernel_size),
    "edscw": lambda pool, x: _edscw(x, pool.kernel_size),
    "ada": lambda pool, x: torch.lerp(_softpool(x, x, pool.kernel_size), _edscw(x, pool.kernel_size), pool.beta),
    "mixed": _mixed,
    "gated": _gated,
    "tree": _tree,
    "gem": _gem2d,
    "pyramid": lambda pool, x: torch.cat([nn.functional.adaptive_max_pool2d(x, n).flatten(1) for n in pool.levels], 1),
    "poset": lambda pool, x: _filtered(x, pool.filters.view(-1, 2, 2)).amax(0),
    "lip": lambda pool, x: _softpool(x, pool.logit(x), *pool.args[:3]),
    "stochastic": _stochastic,
    "s3": _s3,
    "mixer": lambda pool, x: (
        nn.functional.avg_pool2d(x, pool.pool_size, 1, pool.pool_size // 2, count_include_pad=False) - x
    ),
    "pf_layer": lambda pool, x: pool.expand(
        nn.functional.max_pool2d(pool.reduce(x), pool.kernel_size, pool.stride, pool.kernel_size // 2)
    ),
    "regional_gem": _regional_gem,
    "relup": lambda pool, x: x.clamp(min=pool.alpha),
}
