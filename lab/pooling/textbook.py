"""Every operator as a page of a book would write it: whole tensors, one torch call for each sign of the formula.

    TOKENS[name](pool, x, mask, *more)   LAYERS[name](pool, h)   MAPS[name](pool, x)

take the registry's pool for its parameters and give what it gives on ordinary numbers, up to rounding. They are a
second opinion in tests and the "eager" of the benchmark; they keep none of the promises about padding, empty rows and
overflow. A name that is missing has no form of its own: its pool is already written that way.
"""

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
    k, v = (t.unflatten(-1, (len(query), -1)).transpose(1, 2) for t in (key, value))
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
    "midam_softmax": lambda pool, x, mask: _log_mean_exp(x, mask, 1 / pool.tau),
    "midam_attention": lambda pool, x, mask: _gated_attention(pool.attention, x, mask),
}


def _mix(weights: Float[Tensor, " L *W"], h: Float[Tensor, "L *N D"]) -> Float[Tensor, "*N D"]:
    return (weights * h).sum(0)


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
