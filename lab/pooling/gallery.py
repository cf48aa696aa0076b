"""Every registered operator built with its defaults, in families, ready to be measured side by side."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, ReceivedAttentionPool
from lab.pooling.functional import segment_softmax

FIXED, VALUES, LEARNED = "fixed weights", "by the values", "by learned weights"
# the founding paper's sizes (768 latents, 32 heads of 2048) take gigabytes: smaller here, the same code
SIZES = {"multilayer": {"latents": 16, "heads": 4, "dim_head": 32}, "attentive_fusion": {"summaries": 1}}


class SelfReceivedPool(ReceivedAttentionPool):
    """ReceivedAttentionPool with attention made of the states themselves: a_t = sum_u softmax_t(x_u . x_t / sqrt(D)).

    x (B, T, D), mask (B, T) -> (B, D). A stand-in where no attention map was captured; no gradient through a.
    """

    def forward(self, x: Float[Tensor, "B T D"], mask: Tensor) -> Float[Tensor, "B D"]:
        real = x.detach().masked_fill(~mask[..., None], 0)
        scores = real @ real.mT / x.shape[-1] ** 0.5  # symmetric, so column u holds what token u asks
        return super().forward(x, mask, segment_softmax(scores, mask).masked_fill(~mask[:, None], 0).sum(-1))


def token_pools(dim: int, seed: int = 0) -> dict[str, nn.Module]:
    """POOLS by name, in eval mode, family after family; every pool draws its weights from the same seed."""
    pools = {
        name: _seeded(seed, kind, dim) for name, kind in (POOLS | {"received_attention": SelfReceivedPool}).items()
    }
    order = [FIXED, VALUES, LEARNED]
    return dict(sorted(pools.items(), key=lambda item: order.index(family(item[1], dim))))  # sorted is stable


def family(pool: nn.Module, dim: int) -> str:
    """What a token's weight hangs on: weights that are learned, the values, or only where the token stands.

    Learned: a parameter of two axes or more. Fixed: linear in the states, f(2 x + z) = 2 f(x) + f(z).
    """
    if any(p.ndim > 1 for p in pool.parameters()):
        return LEARNED
    draw = torch.Generator().manual_seed(0)
    # small states: products of large ones saturate a softmax, which then looks fixed
    x, z = (0.3 * torch.randn(2, 1, 6, dim, generator=draw)).to(next(pool.parameters(), torch.empty(0)))
    mask = torch.ones(1, 6, dtype=torch.bool, device=x.device)
    whole, parts = pool(2 * x + z, mask), 2 * pool(x, mask) + pool(z, mask)
    return FIXED if torch.allclose(whole, parts, atol=1e-5) else VALUES


def layer_pools(dim: int, num_layers: int, seed: int = 0) -> dict[str, nn.Module]:
    """LAYER_POOLS by name, in eval mode, each taking [L, B, D]."""
    return {name: _seeded(seed, kind, dim, num_layers, **SIZES.get(name, {})) for name, kind in LAYER_POOLS.items()}


def map_pools(channels: int, seed: int = 0) -> dict[str, nn.Module]:
    """MAP_POOLS by name, in eval mode: what draws in training gives its average."""
    return {name: _seeded(seed, kind, channels) for name, kind in MAP_POOLS.items()}


def _seeded(seed: int, kind: Callable[..., nn.Module], *sizes: int, **options: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*sizes, **options).eval()
