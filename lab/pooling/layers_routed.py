"""Layer pools whose weights depend on the text: a gated router, attentive layer fusion, and the LMORT pair."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.pooling.arguments import check_counts, check_positive
from lab.pooling.layers import built_for, check_layers, hidden, layer_softmax, with_inverse_rms


class GatedLayerRouter(nn.Module):
    """Each text weighs its layers, y = sum_l softmax_l(a_l) h_l. h (L, ..., D), mask (L,) -> (..., D).

    a_l = w . (tanh(V z_l) * sigmoid(U z_l)) + b_l,  z_l = h_l / rms(h_l);  V, U (hidden, D), w (hidden,), b (L,)

    The gate of Ilse et al., 2018, eq. 9, over layers instead of instances, with a bias that names the layer; no paper
    is known to define the whole. w and b start at 0, so it starts as the mean of the layers. The weights see the
    direction of a layer, not its scale; the sum has the scale. A row of zeros gives zeros.
    https://arxiv.org/abs/1802.04712
    """

    def __init__(self, dim: int, num_layers: int, hidden_dim: int = 64, eps: float = 1e-6) -> None:
        super().__init__()
        built_for(dim, num_layers)
        check_counts(hidden_dim=hidden_dim)
        check_positive(eps=eps)
        self.dim, self.num_layers, self.hidden_dim, self.eps = dim, num_layers, hidden_dim, eps
        self.see = nn.Linear(dim, hidden_dim, bias=False)
        self.gate = nn.Linear(dim, hidden_dim, bias=False)
        self.score = nn.Parameter(torch.zeros(hidden_dim))
        self.bias = nn.Parameter(torch.zeros(num_layers))

    def weights(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, " L *N"]:
        """What each text makes of each layer; sums to 1 over layers."""
        x, scale = with_inverse_rms(hidden(h, mask).to(self.score.dtype), self.eps)
        # the scale comes after the maps, which are narrower than h
        scores = ((scale * self.see(x)).tanh() * (scale * self.gate(x)).sigmoid()) @ self.score
        return layer_softmax(scores + self.bias.view(-1, *[1] * (scores.ndim - 1)), mask)

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask, self.dim)
        wide = hidden(h, mask).to(torch.promote_types(h.dtype, torch.float32))
        return (self.weights(h, mask)[..., None] * wide).sum(0).to(h.dtype)


class AttentiveLayerFusion(nn.Module):
    """One trained query attends to several summaries of every layer. h (L, P, ..., D), mask (L,) -> (..., D).

    y = W_o concat_heads( softmax(q k_i / sqrt(d)) v_i ),  k_i, v_i = W_kv LN(h_i), over the L P vectors h_i of a text

    P summaries a layer: CLS and the mean of the tokens in the paper, capture's pools=("first", "mean") here. LN is a
    LayerNorm per summary and layer with a gain (L, P, D) and no bias, linear maps have none either, so a row of zeros
    gives zeros. q from N(0, 1); linear maps torch's default.
    Ciernik et al., "Attentive Multi-Layer Fusion for Vision Transformers", 2026 (from the abstract and a summary: CLS
    and average-pooled tokens of all layers, a trained query, multi-head cross-attention; norms and inits are ours).
    https://arxiv.org/abs/2601.09322
    """

    def __init__(self, dim: int, num_layers: int, summaries: int = 2, heads: int = 1, eps: float = 1e-6) -> None:
        super().__init__()
        built_for(dim, num_layers)
        check_positive(eps=eps)
        check_counts(summaries=summaries, heads=heads)
        if dim % heads:
            raise ValueError(f"heads must divide dim {dim}; got {heads}")
        self.dim, self.num_layers, self.summaries, self.heads, self.eps = dim, num_layers, summaries, heads, eps
        self.gain = nn.Parameter(torch.ones(num_layers, summaries, dim))
        self.query = nn.Parameter(torch.randn(dim))
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def attention(
        self, h: Float[Tensor, "L P *N D"], mask: Bool[Tensor, " L"] | None = None
    ) -> Float[Tensor, "L P *N H"]:
        """What the query reads of each layer and summary, per head; sums to 1 over both."""
        return self._read(h, mask)[0]

    def forward(self, h: Float[Tensor, "L P *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        weights, values = self._read(h, mask)
        return self.to_out((weights[..., None] * values).sum((0, 1)).flatten(-2)).to(h.dtype)

    def _read(self, h: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        check_layers(h, self.num_layers, mask, self.dim)
        if h.ndim < 3 or h.shape[1] != self.summaries:
            raise ValueError(
                f"h must be [{self.num_layers} layers, {self.summaries} summaries, ..., dim]; got {tuple(h.shape)}: "
                "capture with as many pools, or say summaries= when building"
            )
        x = nn.functional.layer_norm(hidden(h, mask).to(self.query.dtype), h.shape[-1:], eps=self.eps)
        x = x * self.gain.view(*h.shape[:2], *[1] * (h.ndim - 3), -1)
        k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.to_kv(x).chunk(2, dim=-1))
        scores = (k * self.query.view(self.heads, -1)).sum(-1) / math.sqrt(self.dim // self.heads)  # (L, P, ..., H)
        if mask is not None:
            scores = scores.masked_fill(~mask.view(-1, *[1] * (scores.ndim - 1)), -torch.inf)
        return scores.flatten(0, 1).softmax(0).view(scores.shape), v


class LayerPair(nn.Module):
    """Two layers, one of good alignment, one of good uniformity, fused by attention. h (L, ..., D) -> (..., D).

    X = (h_align, h_uniform);  twice: X <- X + W_o softmax(q k^T / sqrt(d)) v, with q, k, v = W_qkv rms(X), each of
    the two seeing both, then X <- X + F gelu(E rms(X));  y = the mean of the two

    W_o and F start at 0, so it starts as the mean of the pair; no bias anywhere, so a row of zeros gives zeros.
    After LMORT, Sun et al., 2024 (from the abstract and a summary: a frozen model, the layers of best alignment and
    best uniformity, two bidirectional attention blocks). There the blocks attend over the tokens of both layers; here
    over the two pooled vectors, which is a different, smaller thing. https://arxiv.org/abs/2403.01999
    """

    def __init__(
        self, dim: int, num_layers: int, align: int | None = None, uniform: int = -1, heads: int = 1, eps: float = 1e-6
    ) -> None:
        super().__init__()
        built_for(dim, num_layers)
        align = num_layers // 2 if align is None else align  # which layers are best is the data's to say
        check_counts(-num_layers, align=align, uniform=uniform)
        if wrong := [layer for layer in (align, uniform) if layer >= num_layers]:
            raise ValueError(f"no layer {wrong}; there are 0 to {num_layers - 1}, and -1 for the last")
        check_positive(eps=eps)
        check_counts(heads=heads)
        if dim % heads:
            raise ValueError(f"heads must divide dim {dim}; got {heads}")
        self.dim, self.num_layers, self.align, self.uniform = dim, num_layers, align, uniform
        self.heads, self.eps = heads, eps
        self.blocks = nn.ModuleList(_block(dim) for _ in range(2))

    def forward(self, h: Float[Tensor, "L *N D"]) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, dim=self.dim)
        pair = torch.stack([h[self.align], h[self.uniform]], dim=-2)  # (..., 2, D)
        x = pair.to(self.blocks[0]["qkv"].weight.dtype)
        for block in self.blocks:
            q, k, v = (
                part.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
                for part in block["qkv"](self._rms(x)).chunk(3, -1)
            )
            weights = (q @ k.mT / math.sqrt(self.dim // self.heads)).softmax(-1)  # (..., H, 2, 2)
            x = x + block["out"]((weights @ v).transpose(-2, -3).flatten(-2))
            x = x + block["down"](nn.functional.gelu(block["up"](self._rms(x))))
        return x.mean(-2).to(h.dtype)

    def _rms(self, x: Tensor) -> Tensor:
        return torch.mul(*with_inverse_rms(x, self.eps))


def _block(dim: int) -> nn.ModuleDict:
    sizes = {"qkv": (dim, 3 * dim), "out": (dim, dim), "up": (dim, 4 * dim), "down": (4 * dim, dim)}
    block = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})
    nn.init.zeros_(block["out"].weight)
    nn.init.zeros_(block["down"].weight)
    return block
