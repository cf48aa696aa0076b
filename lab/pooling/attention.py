"""Attention over tokens with learned scores: gated MIL, AttSets, and multi-head attention with learned queries.

Projections run in the type of their parameters, the softmax and the sums in float32 or wider; the result has x's
type.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, finite
from lab.pooling.arguments import check_counts
from lab.pooling.functional import check, segment_pool, segment_softmax, weighed
from lab.pooling.selection import blank, side_by_side


def split(dim: int, num_heads: int) -> int:
    """The width of a head; ValueError where the heads do not divide the width."""
    check_counts(dim=dim, num_heads=num_heads)
    if dim % num_heads:
        raise ValueError(f"dim must divide into num_heads; got dim {dim} and num_heads {num_heads}")
    return dim // num_heads


def attend(
    x: Tokens,
    mask: Segments,
    query: Float[Tensor, "P H C"],
    key: Float[Tensor, "E D"],
    value: Float[Tensor, "F D"],
    scale: float | Tensor,
) -> Float[Tensor, "S P F"]:
    """sum_t softmax_t(scale q_ph . (K x_t)_h) (V x_t)_h for learned queries q, heads side by side; empty rows: zeros.

    q . (K x) = (K^T q) . x and sum_t a_t V x_t = V sum_t a_t x_t, so neither keys nor values of the tokens are formed:
    the states are read once, 2 P H D multiplications for each token instead of 4 D^2. A bias on the keys shifts all
    scores alike and is dropped; one on the values is the caller's to add.
    """
    P, H, _ = query.shape
    absorbed = torch.einsum("phc,hcd->phd", query, key.unflatten(0, (H, -1))).flatten(0, 1)
    x, mask = side_by_side(x, mask)
    scores = (scale * (x @ absorbed.mT)).to(torch.promote_types(x.dtype, torch.float32))  # [B, T, P H]
    met = weighed(x, segment_softmax(scores, mask), mask).unflatten(1, (P, H))
    return torch.einsum("bphd,hcd->bphc", met, value.unflatten(0, (H, -1))).flatten(2)


class MultiHeadAttentionPool(nn.Module):
    """Multi-head attention with learned queries q_k: y_k = W_o concat_h sum_t softmax_t(q_kh . k_th / sqrt(C)) v_th.

    x (B, T, D), mask (B, T) -> (B, num_queries * D), or ragged; k = W_k x, v = W_v x + b_v, C = D / num_heads. Equal to
    torch.nn.MultiheadAttention with in_proj of the query already applied. W xavier-uniform, biases zero, queries
    N(0, 0.02^2). Vaswani et al., 2017, section 3.2.2 (recalled); a learned query in front of it: timm's
    AttentionPoolLatent. https://arxiv.org/abs/1706.03762
    ValueError: dim not divisible by num_heads.
    """

    def __init__(self, dim: int, num_heads: int = 1, num_queries: int = 1) -> None:
        super().__init__()
        check_counts(num_queries=num_queries)
        self.dim, self.num_heads, self.num_queries = dim, num_heads, num_queries
        self.query = nn.Parameter(0.02 * torch.randn(num_queries, num_heads, split(dim, num_heads)))
        self.key, self.value, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim), nn.Linear(dim, dim)
        for layer in (self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.value.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask, self.dim)
        scale = self.query.shape[-1] ** -0.5
        met = attend(x.to(self.query.dtype), mask, self.query, self.key.weight, self.value.weight, scale)
        return blank(self.out(met + self.value.bias), mask).flatten(1).to(x.dtype)


class GatedAttentionPool(nn.Module):
    """Attention-based MIL, a_t = softmax_t(w . (tanh(V x_t + b_V) * sigmoid(U x_t + b_U)) + b_w), y = sum_t a_t x_t.

    x (B, T, D), mask (B, T) -> (B, branches * D), or ragged: one softmax and one y for each branch. `gated=False` drops
    the sigmoid. torch's Linear init. Ilse, Tomczak & Welling, ICML 2018, eq. 8 and 9 (numbers recalled).
    https://arxiv.org/abs/1802.04712
    """

    def __init__(self, dim: int, hidden: int = 128, branches: int = 1, gated: bool = True) -> None:
        super().__init__()
        check_counts(dim=dim, hidden=hidden, branches=branches)
        self.dim, self.hidden, self.branches, self.gated = dim, hidden, branches, gated
        self.v = nn.Linear(dim, hidden)
        self.u = nn.Linear(dim, hidden) if gated else None
        self.w = nn.Linear(hidden, branches)

    def scores(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens K"]:
        h = self.v(x).tanh()
        return self.w(h if self.u is None else h * self.u(x).sigmoid())

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask, self.dim)
        real = finite(x, mask)
        scores = self.scores(real.to(self.w.weight.dtype))
        return torch.cat([segment_pool(real, mask, "softmax", branch) for branch in scores.unbind(-1)], -1)


class AttSetsPool(nn.Module):
    """Attention for each coordinate, s_t = W x_t + b, y_kd = sum_t softmax_t(s_kd)_t x_td: num_outputs vectors.

    x (B, T, D), mask (B, T) -> (B, num_outputs * D), or ragged. W xavier-uniform, b zero. A convex combination in each
    coordinate: min_t x_td <= y_kd <= max_t x_td. Yang et al., IJCV 2020, eq. 2 to 4 (numbers recalled).
    https://arxiv.org/abs/1808.00758
    """

    def __init__(self, dim: int, num_outputs: int = 1) -> None:
        super().__init__()
        check_counts(dim=dim, num_outputs=num_outputs)
        self.dim, self.num_outputs = dim, num_outputs
        self.score = nn.Linear(dim, num_outputs * dim)
        nn.init.xavier_uniform_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask, self.dim)
        real = finite(x, mask)
        scores = self.score(real.to(self.score.weight.dtype)).split(x.shape[-1], -1)
        return torch.cat([segment_pool(real, mask, "softmax", score) for score in scores], -1)


class PMA(nn.Module):
    """Pooling by multi-head attention, with learned seeds S [num_seeds, D] as queries:

        o = W_q S + concat_h sum_t softmax_t(scale q_h . k_th) v_th,   y = o + relu(W_o o),   a LayerNorm after each sum

    x (B, T, D), mask (B, T) -> (B, num_seeds * D), or ragged. This is the official block: the residual is the
    *projected* query, `scale` is 1 / sqrt(D) of the whole width (None), not of a head; PyTorch Geometric's has 1 /
    sqrt(D / heads) and other residuals. `layer_norm` is off as in the official default, the paper's rFF on x is left to
    the caller. S xavier-uniform, torch's Linear init. Lee et al., Set Transformer, ICML 2019, eq. 6, 7, 11 (numbers
    recalled). https://arxiv.org/abs/1810.00825
    ValueError: dim not divisible by num_heads.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        num_seeds: int = 1,
        scale: float | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        split(dim, num_heads)
        check_counts(num_seeds=num_seeds)
        if scale is not None and not math.isfinite(scale):
            raise ValueError(f"scale must be finite, or None for 1 / sqrt(dim); got {scale}")
        self.dim, self.num_heads, self.num_seeds, self.layer_norm = dim, num_heads, num_seeds, layer_norm
        self.scale = 1 / math.sqrt(dim) if scale is None else scale
        self.seeds = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_seeds, dim)))
        self.query, self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)  # its bias would shift all scores of a query alike
        self.norm = nn.ModuleList(nn.LayerNorm(dim) if layer_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask, self.dim)
        query = self.query(self.seeds)
        heads = query.unflatten(-1, (self.num_heads, -1))
        met = attend(x.to(query.dtype), mask, heads, self.key.weight, self.value.weight, self.scale)
        o = self.norm[0](query + met + self.value.bias)
        return blank(self.norm[1](o + self.out(o).relu()), mask).flatten(1).to(x.dtype)
