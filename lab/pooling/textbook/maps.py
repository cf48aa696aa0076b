"""Map pools, pool(x [B, C, H, W]), by the book."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.windows import Ints


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
