"""Multi-layers trainable pooling, the founding paper's pool: as its code has it, repaired, and its last-layer sibling.

Tang & Yang, "Pooling And Attention: What Are Effective Designs For LLM-Based Embedding Models?", 2024.
https://arxiv.org/abs/2409.02727. Formulas read from the authors' code (MultiLayersTrainablePooling.py).

One body serves all three: latents ask, and what they ask is data: the vectors of the layers, or the tokens of the last.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling.functional import check, is_padded, to_padded
from lab.pooling.layers import built_for, check_layers, hidden, mean, mix


class LatentReader(nn.Module):
    """r trained latents read K vectors by attention; the mean of what they say. x (B, K, D), mask (B, K) -> (B, D).

    Q = W_q LN_c(Q0),  k, v = W_kv LN(x),  A = softmax(Q k^T / sqrt(dim_head)) over the K vectors, head by head
    y = Q0 + W_o A v,  z = y + FF(LN(y)),  FF = Linear(D, 8D), GEGLU, Linear(4D, D)  ->  mean over the r latents of z

    W_q, W_kv, W_o without bias, LayerNorms with gain and bias, FF with bias. Q0 starts at N(0, 1), the rest as torch
    starts it (linear maps Kaiming-uniform). The mask (True = may be read) is ours: the authors' code passes none. A
    row in which nothing may be read gives what the latents say of nothing, A v = 0.
    """

    def __init__(self, dim: int, latents: int, heads: int, dim_head: int) -> None:
        super().__init__()
        if min(dim, latents, heads, dim_head) < 1:
            raise ValueError(
                f"dim, latents, heads and dim_head must be at least 1; got {dim}, {latents}, {heads}, {dim_head}"
            )
        self.heads, self.dim_head = heads, dim_head
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.norm, self.norm_latents, self.norm_ff = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)
        self.ff_in, self.ff_out = nn.Linear(dim, 8 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B D"]:
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        read = self.latents + self._attended(self.norm(x), mask)  # (B, r, D)
        value, gate = self.ff_in(self.norm_ff(read)).chunk(2, dim=-1)
        return (read + self.ff_out(value * nn.functional.gelu(gate))).mean(1)

    def attention(self, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B H R K"]:
        """A: how much each latent reads of each vector, per head. Rows sum to 1, or to 0 where nothing may be read."""
        return self._weights(self.norm(x if mask is None else x.masked_fill(~mask[..., None], 0)), mask)

    def _weights(self, normed: Tensor, mask: Tensor | None) -> Tensor:
        q = self.to_q(self.norm_latents(self.latents)).unflatten(-1, (self.heads, -1))  # (r, H, d), one for all rows
        k = nn.functional.linear(normed, self.to_kv.weight.chunk(2)[0]).unflatten(-1, (self.heads, -1))
        scores = torch.einsum("rhd,bkhd->bhrk", q, k) / math.sqrt(self.dim_head)
        if mask is None:
            return scores.softmax(-1)
        # finite, then zeroed: a row of minus infinities would be NaN
        unseen = ~mask[:, None, None]
        return scores.masked_fill(unseen, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(unseen, 0)

    def _attended(self, normed: Tensor, mask: Tensor | None) -> Tensor:
        """W_o A v (B, r, D), multiplied in the cheaper order.

        With fewer vectors than latents W_o goes first: of 32 layers and 768 latents it then maps 24 times fewer
        vectors, and the (B, r, heads dim_head) tensor, 200 MB a row at the paper's sizes, is never made.
        """
        weights = self._weights(normed, mask)
        v = nn.functional.linear(normed, self.to_kv.weight.chunk(2)[1]).unflatten(-1, (self.heads, -1))
        if v.shape[1] >= self.latents.shape[0]:
            return self.to_out(torch.einsum("bhrk,bkhd->brhd", weights, v).flatten(2))
        mapped = torch.einsum("bkhd,ohd->bhko", v, self.to_out.weight.unflatten(-1, (self.heads, -1)))
        return torch.einsum("bhrk,bhko->bro", weights, mapped)


def _layers_last(h: Tensor) -> Tensor:
    """(L, ..., D) -> (N, L, D)."""
    return h.flatten(1, -2).transpose(0, 1) if h.ndim > 2 else h[None]


class MultiLayerPool(nn.Module):
    """Multi-layers trainable pooling as the authors' code has it: LatentReader on h_l + W_l, then length 1.

    h (L, ..., D), mask (L,) -> (..., D). e = normalize(reader(h + W)), W (L, D) from N(0, 1): it is added, so it names
    the layers; it does not weigh them. With W = 0 the pool cannot tell one order of the layers from another.

    dim 4096, num_layers 32: 1.278 billion parameters at the default sizes, which are the paper's (r = 768 latents, 32
    heads of 2048). Give it the layers 1 .. l (the paper drops the embedding output) of the last token (causal) or
    of the masked mean (bidirectional). normalize = False leaves out the last step, which the code always takes.
    No norm before the sum: the scale of a layer matters. The mask is ours. A row of zeros (an empty text) is not
    special here either: it gives the finite, constant vector of h = 0.

    Section numbers are not known; code and figure 2 of the README agree. https://arxiv.org/abs/2409.02727
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        latents: int = 768,
        heads: int = 32,
        dim_head: int = 2048,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        built_for(dim, num_layers)
        self.dim, self.num_layers, self.latents = dim, num_layers, latents
        self.heads, self.dim_head, self.normalize = heads, dim_head, normalize
        self.layer_embedding = nn.Parameter(torch.randn(num_layers, dim))
        self.reader = LatentReader(dim, latents, heads, dim_head)

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask)
        x = _layers_last(hidden(h, mask).to(self.layer_embedding.dtype)) + self.layer_embedding
        e = self.reader(x, None if mask is None else mask.expand(x.shape[:2])).reshape(h.shape[1:])
        return (nn.functional.normalize(e, dim=-1) if self.normalize else e).to(h.dtype)


class MultiLayerResidualPool(nn.Module):
    """Multi-layers trainable pooling, repaired: it starts, bit for bit, as the baseline it is to improve on.

    h (L, ..., D), mask (L,) -> (..., D).   x_l = g_l * h_l / rms(h_l) + W_l,   y = b(h) + U reader(x)

    b is the last layer that may be read (baseline = "last": the plain mean-pooled or last-token embedding, whichever
    the states are) or the mean of the layers (baseline = "mean"). U (D, D) starts at 0, so y = b(h) exactly at the
    first step; from the second on the reader learns. g (L, D) starts at 1: each layer has its own RMSNorm, and
    a layer of a hundred times the scale counts no more for it. W (L, D) starts at N(0, 0.02^2). Heads are free and
    small by default, dim_head is dim // heads unless told. A row of zeros gives zeros. It is not normalised.

    Ours; what it repairs is in section 1 of the paper's own code: no mask over keys, layers of unlike scale summed
    unnormed, nothing in the output initialised at zero, head sizes fixed at 32 x 2048. https://arxiv.org/abs/2409.02727
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        baseline: str = "last",
        latents: int = 16,
        heads: int = 4,
        dim_head: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        built_for(dim, num_layers)
        if baseline not in ("last", "mean"):
            raise ValueError(f"baseline must be 'last' (the last layer) or 'mean' (of the layers); got {baseline!r}")
        self.dim, self.num_layers, self.baseline, self.eps = dim, num_layers, baseline, eps
        self.latents, self.heads, self.dim_head = latents, heads, dim_head or max(1, dim // heads)
        self.gain = nn.Parameter(torch.ones(num_layers, dim))
        self.layer_embedding = nn.Parameter(0.02 * torch.randn(num_layers, dim))
        self.reader = LatentReader(dim, latents, heads, self.dim_head)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask)
        read = hidden(h, mask).to(torch.promote_types(h.dtype, torch.float32))
        whole = self.baseline == "mean" and mask is None
        base = mean(read) if whole else mix(read, self._baseline_weights(mask, h.device))
        x = _layers_last(read.to(self.gain.dtype))
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.gain + self.layer_embedding
        more = self.out(self.reader(x, None if mask is None else mask.expand(x.shape[:2]))).reshape(h.shape[1:])
        empty = (read == 0).all(-1).all(0)
        return (base + more.masked_fill(empty[..., None], 0)).to(h.dtype)

    def _baseline_weights(self, mask: Tensor | None, device: torch.device) -> Tensor:
        allowed = torch.ones(self.num_layers, dtype=torch.bool, device=device) if mask is None else mask
        if self.baseline == "mean":
            return allowed.double() / allowed.sum()
        return (allowed & (allowed.cumsum(0) == allowed.sum())).double()


class LastLayerPool(nn.Module):
    """The paper's last-layer trainable pooling: the same reader on the tokens of one layer, with a real mask.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. e = normalize(reader(x)); no layer embedding, same default
    sizes, and as many parameters but L D. The authors' code differs in two ways (read from the code): bidirectional
    (model 4) it masks no padding, so that more padding moves the embedding; causal (model 2) it is fed the last token
    alone, where softmax over one key is 1 and the pool an MLP: pass x[:, -1:] to have that. An empty row gives zeros.
    https://arxiv.org/abs/2409.02727
    """

    def __init__(
        self, dim: int, latents: int = 768, heads: int = 32, dim_head: int = 2048, normalize: bool = True
    ) -> None:
        super().__init__()
        self.dim, self.latents, self.heads, self.dim_head, self.normalize = dim, latents, heads, dim_head, normalize
        self.reader = LatentReader(dim, latents, heads, dim_head)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        if not is_padded(mask):
            x, mask = to_padded(x, mask)
        e = self.reader(x.to(self.reader.latents.dtype), mask)
        e = nn.functional.normalize(e, dim=-1) if self.normalize else e
        return e.masked_fill(~mask.any(1, keepdim=True), 0).to(x.dtype)
