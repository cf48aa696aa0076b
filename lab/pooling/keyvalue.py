"""Discrete key-value bottleneck: each token is replaced by the learned value of its nearest key, then averaged."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, keep
from lab.pooling.arguments import check_counts
from lab.pooling.functional import check, counts, is_padded, segment_pool


class DiscreteKeyValueBottleneck(nn.Module):
    """y = mean_t mean_c V_c[k_c(x_t)], k_c(x) = argmin_k |x R_c - K_ck| over the keys of codebook c.

    x (B, T, D), mask (B, T) -> (B, dim_value), or ragged. R_c [D, dim_key] is a fixed random projection
    (xavier-normal), keys K [num_codebooks, num_keys, dim_key] ~ N(0, 1) get no gradient, values V [num_codebooks,
    num_keys, dim_value] ~ N(0, 1) are the parameters: only fetched rows get a gradient, and x gets none. `forward`
    never moves the keys; `update_keys` does, towards the mean of the tokens they are nearest to, so call it while
    setting up and then not. A row with NaN in a real token is NaN. Traeuble et al., ICML 2023, section 3
    (recalled; mechanics from a well-known third-party code). https://arxiv.org/abs/2207.11240
    ValueError: a size below 1, decay outside [0, 1).
    """

    keys: Tensor
    projection: Tensor
    weight: Tensor

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 4,
        num_keys: int = 64,
        dim_key: int = 8,
        dim_value: int | None = None,
        decay: float = 0.95,
    ) -> None:
        super().__init__()
        dim_value = dim if dim_value is None else dim_value
        check_counts(dim=dim, num_codebooks=num_codebooks, num_keys=num_keys, dim_key=dim_key, dim_value=dim_value)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1); got {decay}")
        self.dim, self.num_codebooks, self.num_keys = dim, num_codebooks, num_keys
        self.dim_key, self.dim_value, self.decay = dim_key, dim_value, decay
        projection = torch.randn(num_codebooks, dim, dim_key) * (2 / (dim + dim_key)) ** 0.5
        self.register_buffer("projection", projection)
        self.register_buffer("keys", torch.randn(num_codebooks, num_keys, dim_key))
        self.register_buffer("weight", torch.ones(num_codebooks, num_keys))  # tokens a key stands for, decayed
        self.values = nn.Parameter(torch.randn(num_codebooks, num_keys, dim_value))

    @torch.no_grad()
    def codes(self, x: Tokens, mask: Segments) -> Int[Tensor, "*tokens C"]:
        """The nearest key of each token in each codebook; of padding, that of the zero vector."""
        z = torch.einsum("...d,cde->...ce", keep(x, mask).to(self.keys.dtype), self.projection)
        # |z - k|^2 without |z|^2, which all keys share
        distance = self.keys.square().sum(-1) - 2 * torch.einsum("...ce,cke->...ck", z, self.keys)
        return distance.argmin(-1)

    @torch.no_grad()
    def update_keys(self, x: Tokens, mask: Segments) -> None:
        """A step of exponentially averaged k-means: K <- (decay w K + sum of its tokens) / (decay w + their number)."""
        check(x, mask, self.dim)
        codes = self.codes(x, mask)
        real = mask if is_padded(mask) else slice(None)
        z = torch.einsum("nd,cde->cne", x[real].to(self.keys.dtype), self.projection)
        mine = nn.functional.one_hot(codes[real].mT, self.keys.shape[1]).to(z.dtype)  # [C, N, K]
        kept = self.decay * self.weight
        moved = kept[..., None] * self.keys + mine.mT @ z
        self.weight.copy_(kept + mine.sum(1))
        # a key that nothing has been near for long keeps its place instead of dividing 0 by 0
        self.keys.copy_(torch.where(self.weight[..., None] > 1e-6, moved / self.weight[..., None], self.keys))

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S V"]:
        check(x, mask, self.dim)
        C, K, _ = self.values.shape
        # no key is nearest to NaN, though argmin names one
        lost = segment_pool(x.detach(), mask, "max").isnan().any(-1, keepdim=True)
        rows = self.codes(x, mask) + K * torch.arange(C, device=x.device)
        # a segment is one bag of codes: no value is written out for each token
        bag = partial(nn.functional.embedding_bag, rows.flatten(), self.values.flatten(0, 1), include_last_offset=True)
        if not is_padded(mask):
            return bag(mask.long() * C, mode="mean").masked_fill(lost, torch.nan).to(x.dtype)
        offsets = torch.arange(len(mask) + 1, device=x.device) * mask.shape[1] * C
        share = mask.to(self.values.dtype) / (C * counts(mask).clamp(min=1))[:, None]
        y = bag(offsets, mode="sum", per_sample_weights=share.flatten().repeat_interleave(C))
        return y.masked_fill(lost, torch.nan).to(x.dtype)
