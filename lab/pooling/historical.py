"""HISTOGRAPH: a graph read from all of its layers, each node's history first, then the nodes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.pooling.arguments import check_counts
from lab.pooling.attention import PMA
from lab.pooling.functional import check
from lab.pooling.layers import built_for, check_layers, layer_softmax, mix

Nodes = Float[Tensor, "L B T D"] | Float[Tensor, "L N D"]


class HistoryAttention(nn.Module):
    """One state a node from those of all layers, y = sum_l a_l h_l, a = softmax_l(q(h_L) . (k(h_l) + p_l) / sqrt(C)).

    h (L, ..., D) -> (..., D): the last layer's state asks, every layer's answers, values are the states themselves, so
    a node whose layers are all equal keeps its state, and one layer is returned as it is. q, k: linear, D to hidden; p
    (L, hidden) ~ N(0, 0.02^2) names the layers. Attention over layers from the abstract of HISTOGRAPH; query, scale and
    layer embedding are ours. https://arxiv.org/abs/2601.01123
    """

    def __init__(self, dim: int, num_layers: int, hidden: int | None = None) -> None:
        super().__init__()
        built_for(dim, num_layers)
        hidden = dim if hidden is None else hidden
        check_counts(hidden=hidden)
        self.dim, self.num_layers, self.hidden = dim, num_layers, hidden
        self.query, self.key = nn.Linear(dim, self.hidden), nn.Linear(dim, self.hidden)
        self.layer_embedding = nn.Parameter(0.02 * torch.randn(num_layers, self.hidden))

    def weights(self, h: Float[Tensor, "L *N D"]) -> Float[Tensor, " L *N"]:
        """What each layer counts for at each node; they sum to 1 over the layers."""
        check_layers(h, self.num_layers, dim=self.dim)
        x = h.to(self.query.weight.dtype)
        keys = self.key(x) + self.layer_embedding.view(self.num_layers, *[1] * (h.ndim - 2), -1)
        return layer_softmax((self.query(x[-1]) * keys).sum(-1) * self.hidden**-0.5, None)

    def forward(self, h: Float[Tensor, "L *N D"]) -> Float[Tensor, "*N D"]:
        return mix(h, self.weights(h)[..., None])


class HistoGraphPool(nn.Module):
    """Two stages: HistoryAttention over each node's layers, then attention over the nodes (PMA, one seed).

    h (L, B, T, D) with mask (B, T) True = a node, or ragged h (L, N, D) with offsets (S + 1) -> (S, D). The order of
    the nodes does not matter; a graph without nodes gives zeros. Galron, Sinai, Maron & Eliasof, "Learning from
    Historical Activations in Graph Neural Networks", 2026: both stages from the abstract, their exact form not known,
    PMA ours. https://arxiv.org/abs/2601.01123
    ValueError: layers that are not num_layers, a mask that does not fit.
    """

    def __init__(self, dim: int, num_layers: int, hidden: int | None = None, num_heads: int = 1) -> None:
        super().__init__()
        self.dim, self.num_layers, self.num_heads = dim, num_layers, num_heads
        self.history = HistoryAttention(dim, num_layers, hidden)
        self.read = PMA(dim, num_heads)

    def forward(self, h: Nodes, mask: Tensor) -> Float[Tensor, "S D"]:
        check_layers(h, self.num_layers, dim=self.dim)
        check(h[0], mask)
        if mask.dtype == torch.bool:  # NaN at places without a node must meet no product
            h = torch.where(mask[..., None], h, 0)
        return self.read(self.history(h), mask)
