"""Several pools of the same states, side by side."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling.functional import check


class ConcatPool(nn.Module):
    """y = [pool_1(x, mask), ... pool_P(x, mask)].

    x (B, T, D), mask (B, T) -> (B, sum of the pools' widths), or ragged. `pools` are names in POOLS, built with `dim`,
    or pools; "mean" and "max" unless said. As the tuple of modes in sentence-transformers' Pooling; Howard & Ruder,
    ULMFiT, ACL 2018, section 3.3 (recalled) for last, max and mean. https://arxiv.org/abs/1801.06146
    ValueError: no pools, an unknown name, what is no pool, a name without the dim that it needs.
    """

    def __init__(self, dim: int | None = None, pools: Sequence[str | nn.Module] = ("mean", "max")) -> None:
        super().__init__()
        from lab.pooling import POOLS  # the registry imports this file

        if not pools or isinstance(pools, str):
            raise ValueError(f"pools must be a sequence of one or more names or pools; got {pools!r}")
        if unknown := [pool for pool in pools if isinstance(pool, str) and pool not in POOLS]:
            raise ValueError(f"no pool named {unknown}; there are {sorted(POOLS)}")
        if wrong := [type(pool).__name__ for pool in pools if not isinstance(pool, str | nn.Module)]:
            raise ValueError(f"pools must be names or modules called on (x, mask); got {wrong}")
        self.dim = dim
        self.pools = nn.ModuleList(POOLS[pool](dim) if isinstance(pool, str) else pool for pool in pools)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask)
        return torch.cat([pool(x, mask) for pool in self.pools], -1)
