"""SPLADE pooling: token logits over a vocabulary to one sparse, non-negative vector."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, keep
from lab.pooling.functional import check, segment_pool


class SPLADEPool(nn.Module):
    """y_v = max_t or sum_t of ln(1 + relu(z_tv)) over the real tokens.

    x (B, T, V) logits, mask (B, T) -> (B, V), or ragged. ln(1 + relu) never falls, so the maximum is taken first and
    transformed once for each row instead of once for each token: log1p(relu(max_t z_t)), exact. "sum": Formal,
    Piwowarski & Clinchant, SIGIR 2021, eq. 1; "max": SPLADE v2, 2021, eq. 6 (numbers recalled).
    https://arxiv.org/abs/2107.05720 https://arxiv.org/abs/2109.10086
    ValueError: a pooling_strategy that is neither.
    """

    def __init__(self, dim: int | None = None, pooling_strategy: str = "max") -> None:
        super().__init__()
        if pooling_strategy not in {"max", "sum"}:
            raise ValueError(f"pooling_strategy must be 'max' or 'sum'; got {pooling_strategy!r}")
        self.dim, self.pooling_strategy = dim, pooling_strategy

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S V"]:
        check(x, mask)
        wide = torch.promote_types(x.dtype, torch.float32)
        if self.pooling_strategy == "max":
            return segment_pool(x, mask, "max").to(wide).relu().log1p().to(x.dtype)
        return segment_pool(keep(x, mask).to(wide).relu().log1p(), mask, "sum").to(x.dtype)
