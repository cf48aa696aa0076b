"""Pooling through trained latent vectors, in both directions: tokens that ask latents, and latents that ask tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, keep
from lab.pooling.attention import split
from lab.pooling.functional import check, segment_pool, segment_softmax
from lab.pooling.selection import blank, side_by_side


class GEGLU(nn.Sequential):
    """Feed-forward block: Linear(D, 2 m D), one half times the GELU of the other, Linear(m D, D)."""

    def __init__(self, dim: int, mult: int) -> None:
        super().__init__(nn.Linear(dim, 2 * mult * dim), nn.Linear(mult * dim, dim))

    def forward(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        value, gate = self[0](x).chunk(2, -1)
        return self[1](value * nn.functional.gelu(gate))


class LatentAttentionPool(nn.Module):
    """NV-Embed's latent attention: tokens are the queries, trained latents L [num_latents, D] are keys and values.

        h_t = x_t + W_o softmax(W_q LN(x_t) (W_k LN(L))^T / sqrt(C)) W_v LN(L),   y = mean_t h_t + FF(LN(h_t))

    x (B, T, D), mask (B, T) -> (B, D), or ragged. C = head_dim (None: D / num_heads), FF is GEGLU of width ff_mult D,
    projections without bias, L ~ N(0, 1), torch's init elsewhere; NV-Embed-v2 has 512 latents, 8 heads, head_dim 4096.
    To pool without the instruction clear its tokens in the mask. Lee et al., ICLR 2025, section 3.1 and eq. 1 (numbers
    recalled; roles, residuals and norms from the code). https://arxiv.org/abs/2405.17428
    ValueError: dim not divisible by num_heads while head_dim is not given.
    """

    def __init__(
        self, dim: int, num_latents: int = 512, num_heads: int = 1, head_dim: int | None = None, ff_mult: int = 4
    ) -> None:
        super().__init__()
        width = (split(dim, num_heads) if head_dim is None else head_dim) * num_heads
        self.dim, self.num_latents, self.num_heads = dim, num_latents, num_heads
        self.head_dim, self.ff_mult = head_dim, ff_mult
        self.latents = nn.Parameter(torch.randn(num_latents, dim))
        self.norm, self.latent_norm, self.ff_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, dim, bias=False)
        self.ff = GEGLU(dim, ff_mult)

    def tokens(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """Every token after the latent block, each on its own: no token sees another."""
        latents = self.latent_norm(self.latents)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)  # [..., H, tokens or latents, C]
            for part in (self.query(self.norm(x)), self.key(latents), self.value(latents))
        )
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        weights = scores.softmax(-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
        x = x + self.out((weights @ v).transpose(-2, -3).flatten(-2))
        return x + self.ff(self.ff_norm(x))

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        return segment_pool(self.tokens(keep(x, mask).to(self.latents.dtype)), mask, "mean").to(x.dtype)


class PerceiverPool(nn.Module):
    """Perceiver resampler: trained latents Q [num_latents, D] ask the tokens, then their mean is taken.

        z = Q + W_o softmax_t(W_q LN(Q) (W_k LN(x_t))^T / sqrt(C)) W_v LN(x_t),  z <- z + FF(LN(z)),  y = mean of z

    x (B, T, D), mask (B, T) -> (B, D), or ragged. The roles are the reverse of NV-Embed's. C = head_dim (None: D /
    num_heads), FF is GEGLU of width ff_mult D, projections without bias, Q ~ N(0, 1), torch's init elsewhere. Padding
    is masked, which the code of the last-layer trainable pooling that this block comes from forgets. `mean=False`
    returns the latents side by side, (B, num_latents * D). Jaegle et al., ICML 2021, section 3 (recalled); the block
    from the code of Tang & Yang, 2024. https://arxiv.org/abs/2103.03206 https://arxiv.org/abs/2409.02727
    ValueError: dim not divisible by num_heads while head_dim is not given.
    """

    def __init__(
        self,
        dim: int,
        num_latents: int = 64,
        num_heads: int = 1,
        head_dim: int | None = None,
        ff_mult: int = 4,
        mean: bool = True,
    ) -> None:
        super().__init__()
        width = (split(dim, num_heads) if head_dim is None else head_dim) * num_heads
        self.dim, self.num_latents, self.num_heads = dim, num_latents, num_heads
        self.head_dim, self.ff_mult = head_dim, ff_mult
        self.mean = mean
        self.latents = nn.Parameter(torch.randn(num_latents, dim))
        self.norm, self.latent_norm, self.ff_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, dim, bias=False)
        self.ff = GEGLU(dim, ff_mult)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask)
        tokens, real = side_by_side(x.to(self.latents.dtype), mask)
        tokens = self.norm(tokens)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)  # [H, R, C] and [B, H, T, C]
            for part in (self.query(self.latent_norm(self.latents)), self.key(tokens), self.value(tokens))
        )
        scores = (q @ k.mT) * q.shape[-1] ** -0.5  # [B, H, R, T]
        weights = segment_softmax(scores.flatten(1, 2).mT, real).mT.unflatten(1, scores.shape[1:3])
        z = self.latents + self.out((weights @ v).transpose(1, 2).flatten(2))
        z = z + self.ff(self.ff_norm(z))
        return blank(z.mean(1) if self.mean else z.flatten(1), real).to(x.dtype)
