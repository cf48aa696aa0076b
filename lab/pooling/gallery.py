"""Every registered operator built with its defaults, in families, ready to be measured side by side."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, ReceivedAttentionPool
from lab.pooling.calls import SIZES, token_inputs

FIXED, VALUES, LEARNED = "fixed weights", "by the values", "by learned weights"


class SelfReceivedPool(ReceivedAttentionPool):
    """ReceivedAttentionPool with attention made of the states themselves, calls.received.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. A stand-in where no attention map was captured.
    """

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        return super().forward(*token_inputs("received_attention", x, mask))


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
    """LAYER_POOLS by name, in eval mode, each taking calls.layer_input of [L, B, D]."""
    return {name: _seeded(seed, kind, dim, num_layers, **SIZES.get(name, {})) for name, kind in LAYER_POOLS.items()}


def map_pools(channels: int, seed: int = 0) -> dict[str, nn.Module]:
    """MAP_POOLS by name, in eval mode: what draws in training gives its average."""
    return {name: _seeded(seed, kind, channels) for name, kind in MAP_POOLS.items()}


def _seeded(seed: int, kind: Callable[..., nn.Module], *sizes: int, **options: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*sizes, **options).eval()
