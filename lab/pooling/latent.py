"""Pooling through trained latent vectors, in both directions: tokens that ask latents, and latents that ask tokens."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, keep
from lab.pooling.arguments import check_counts
from lab.pooling.attention import attend, split
from lab.pooling.functional import check, segment_pool
from lab.pooling.selection import blank, side_by_side


class GEGLU(nn.Sequential):
    """Feed-forward block: Linear(D, 2 m D), one half times the GELU of the other, Linear(m D, D).

    The last map is affine, so a mean of results is the map of the mean of `gated`: a third of the products less.
    """

    def __init__(self, dim: int, mult: int) -> None:
        super().__init__(nn.Linear(dim, 2 * mult * dim), nn.Linear(mult * dim, dim))

    def gated(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n W"]:
        """What the last map is given."""
        value, gate = self[0](x).chunk(2, -1)
        return value * nn.functional.gelu(gate)

    def forward(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        return self[1](self.gated(x))


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
        each = split(dim, num_heads) if head_dim is None else head_dim
        check_counts(dim=dim, num_latents=num_latents, num_heads=num_heads, head_dim=each, ff_mult=ff_mult)
        width = each * num_heads
        self.dim, self.num_latents, self.num_heads = dim, num_latents, num_heads
        self.head_dim, self.ff_mult = head_dim, ff_mult
        self.latents = nn.Parameter(torch.randn(num_latents, dim))
        self.norm, self.latent_norm, self.ff_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, dim, bias=False)
        self.ff = GEGLU(dim, ff_mult)

    def tokens(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """h_t: every token after it has read the latents, each on its own: no token sees another."""
        latents = self.latent_norm(self.latents)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)  # [..., H, tokens or latents, C]
            for part in (self.query(self.norm(x)), self.key(latents), self.value(latents))
        )
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        weights = scores.softmax(-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
        return x + self.out((weights @ v).transpose(-2, -3).flatten(-2))

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask, self.dim)
        h = self.tokens(keep(x, mask).to(self.latents.dtype))
        inner = self.ff.gated(self.ff_norm(h))
        y = segment_pool(h, mask, "mean") + self.ff[1](segment_pool(inner, mask, "mean"))
        return blank(y, mask).to(x.dtype)


class LatentReader(nn.Module):
    """r trained latents read K vectors by attention; the mean of what they say. x (B, K, D), mask (B, K) -> (B, D).

        Q = W_q LN(Q0),  k, v = W_kv LN(x),  A = softmax(Q k^T / sqrt(dim_head)) over the K vectors, head by head
        z = Q0 + W_o A v  (r, D),   y = mean over the latents of z + FF(LN(z))

    W_q, W_kv, W_o without bias, LayerNorms with gain and bias, FF is GEGLU of width ff_mult D. Q0 starts at N(0, 1),
    the rest as torch starts it. The mask (True = may be read) is ours: the code of Tang & Yang, 2024, where this block
    is from, passes none. A row in which nothing may be read gives what the latents say of nothing, A v = 0.
    https://arxiv.org/abs/2409.02727
    """

    def __init__(self, dim: int, latents: int, heads: int, dim_head: int, ff_mult: int = 4) -> None:
        super().__init__()
        check_counts(dim=dim, latents=latents, heads=heads, dim_head=dim_head, ff_mult=ff_mult)
        self.heads, self.dim_head = heads, dim_head
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.norm, self.norm_latents, self.norm_ff = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)
        self.ff = GEGLU(dim, ff_mult)

    def forward(self, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B D"]:
        z = self._read(x, mask)
        return z.mean(1) + self.ff[1](self.ff.gated(self.norm_ff(z)).mean(1))

    def each(self, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B R D"]:
        """What each latent says, z + FF(LN(z)): `forward` before its mean."""
        z = self._read(x, mask)
        return z + self.ff(self.norm_ff(z))

    def attention(self, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B H R K"]:
        """A: how much each latent reads of each vector, per head. Rows sum to 1, or to 0 where nothing may be read."""
        return self._weights(*self._seen(x, mask))

    def _seen(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        return self.norm(keep(x, mask)), mask

    def _queries(self) -> Float[Tensor, "R H C"]:
        return self.to_q(self.norm_latents(self.latents)).unflatten(-1, (self.heads, -1))

    def _weights(self, seen: Tensor, mask: Tensor) -> Tensor:
        k = nn.functional.linear(seen, self.to_kv.weight.chunk(2)[0]).unflatten(-1, (self.heads, -1))
        scores = torch.einsum("rhd,bkhd->bhrk", self._queries(), k) / math.sqrt(self.dim_head)
        # finite, then zeroed: a row of minus infinities would be NaN
        unseen = ~mask[:, None, None]
        scores = scores.masked_fill(unseen, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
        return weights.masked_fill(unseen, 0)

    def _read(self, x: Tensor, mask: Tensor | None) -> Float[Tensor, "B R D"]:
        """z, multiplied in the cheaper order.

        As many vectors as latents or more: the maps are moved to the side of the latents, and no vector has a key or a
        value. Fewer: W_o goes in front of A; of 32 layers and 768 latents it then maps 24 times fewer vectors, and the
        (B, r, heads dim_head) tensor, 200 MB a row at the paper's sizes, is never made.
        """
        seen, mask = self._seen(x, mask)
        if _as_many(seen.shape[1], len(self.latents)):
            key, value = self.to_kv.weight.chunk(2)
            met = attend(seen, mask, self._queries(), key, value, self.dim_head**-0.5)
            return self.latents + self.to_out(met)
        v = nn.functional.linear(seen, self.to_kv.weight.chunk(2)[1]).unflatten(-1, (self.heads, -1))
        mapped = torch.einsum("bkhd,ohd->bhko", v, self.to_out.weight.unflatten(-1, (self.heads, -1)))
        return self.latents + torch.einsum("bhrk,bhko->bro", self._weights(seen, mask), mapped)


def _as_many(vectors: int, latents: int) -> bool:
    """vectors >= latents; true of ragged tokens in a graph, whose longest row is known when it runs."""
    if not torch.compiler.is_compiling():
        return vectors >= latents
    from torch.fx.experimental.symbolic_shapes import guard_or_true  # a heavy import, there when anything compiles

    return guard_or_true(vectors >= latents)


class PerceiverPool(nn.Module):
    """Perceiver resampler: trained latents Q [num_latents, D] ask the tokens, then their mean is taken.

        z = Q + W_o softmax_t(W_q LN(Q) (W_k LN(x_t))^T / sqrt(C)) W_v LN(x_t),  z <- z + FF(LN(z)),  y = mean of z

    x (B, T, D), mask (B, T) -> (B, D), or ragged. The roles are the reverse of NV-Embed's. C = head_dim (None: D /
    num_heads), FF is GEGLU of width ff_mult D. `mean=False` returns the latents side by side, (B, num_latents * D);
    `normalize=True` brings each vector to length 1. Jaegle et al., ICML 2021, section 3 (recalled).
    https://arxiv.org/abs/2103.03206

    PerceiverPool(dim, 768, 32, 2048, normalize=True) is the last-layer trainable pooling of Tang & Yang, 2024, with as
    many parameters as their multi-layer pool but the layer embedding (MultiLayerPool). Their code differs in two ways
    (read from it): bidirectional (model 4) it masks no padding, so that more padding moves the embedding; causal
    (model 2) it is fed the last token alone, where softmax over one key is 1 and the pool an MLP: pass x[:, -1:] to
    have that. https://arxiv.org/abs/2409.02727
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
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.num_latents, self.num_heads = dim, num_latents, num_heads
        self.head_dim, self.ff_mult = head_dim, ff_mult
        self.mean, self.normalize = mean, normalize
        width = split(dim, num_heads) if head_dim is None else head_dim
        self.reader = LatentReader(dim, num_latents, num_heads, width, ff_mult)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask, self.dim)
        tokens, real = side_by_side(x.to(self.reader.latents.dtype), mask)
        y = self.reader(tokens, real)[:, None] if self.mean else self.reader.each(tokens, real)
        y = nn.functional.normalize(y, dim=-1) if self.normalize else y
        return blank(y.flatten(1), real).to(x.dtype)
