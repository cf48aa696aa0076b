"""A small graph network, deep or shallow, whose readout sees its last layer or its whole history."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.data.graphs import Graphs, Neighbour
from lab.pooling import PMA, HistoGraphPool, MeanPool
from lab.training.descend import descend


class GCN(nn.Module):
    """h_{l+1} = relu(A' h_l W_l + b_l), A' = D^-1/2 (A + I) D^-1/2; all layers' states, h_0 = W x first.

    nodes (B, T, F), mask (B, T), adjacency (B, T, T) -> (L + 1, B, T, D). Kipf & Welling, 2017, eq. 2 (number
    recalled). https://arxiv.org/abs/1609.02907
    """

    def __init__(self, features: int, dim: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, dim)
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))

    def forward(
        self, nodes: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"], adjacency: Float[Tensor, "B T T"]
    ) -> Float[Tensor, "L B T D"]:
        loops = adjacency + torch.diag_embed(mask.to(adjacency.dtype))
        degree = loops.sum(-1).clamp(min=1).rsqrt()
        spread = degree[:, :, None] * loops * degree[:, None]
        states = [self.first(nodes)]
        for layer in self.layers:
            states.append(layer(spread @ states[-1]).relu())
        return torch.stack(states)


class LastReadout(nn.Module):
    """A token pool on the last layer alone."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, h: Float[Tensor, "L B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        return self.pool(h[-1], mask)


class MeanReadout(nn.Module):
    """The mean over nodes of the mean over layers: the history without attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pool = MeanPool(dim)

    def forward(self, h: Float[Tensor, "L B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        return self.pool(h.mean(0), mask)


READOUTS = {
    "last, mean": lambda dim, _: LastReadout(MeanPool(dim)),
    "last, attention": lambda dim, _: LastReadout(PMA(dim)),
    "history, mean": lambda dim, _: MeanReadout(dim),
    "history, attention": HistoGraphPool,
}


@dataclass(frozen=True, eq=False)
class GraphReader:
    """A trained graph network with its readout."""

    gcn: GCN
    readout: nn.Module
    head: nn.Linear

    def logits(self, graphs: Graphs) -> Float[Tensor, "B C"]:
        return self.head(self.readout(self.gcn(graphs.nodes, graphs.mask, graphs.adjacency), graphs.mask))

    @torch.no_grad()
    def correct(self, graphs: Graphs) -> Float[Tensor, " B"]:
        """Whether each graph's label is named, 0 or 1."""
        return (self.logits(graphs).argmax(1) == graphs.labels).double()

    @torch.no_grad()
    def apart(self, graphs: Graphs) -> Float[Tensor, " L"]:
        """How far the nodes of a graph differ, layer by layer: |h - mean h|^2 over |h|^2, of the graphs' real nodes.

        0 where all nodes of a graph are alike (over-smoothed).
        """
        h = self.gcn(graphs.nodes, graphs.mask, graphs.adjacency)
        real = graphs.mask[..., None]
        mean = (h * real).sum(2, keepdim=True) / real.sum(1, keepdim=True)
        spread = ((h - mean).square() * real).sum((1, 2, 3))
        return (spread / (h.square() * real).sum((1, 2, 3)).clamp(min=1e-30)).double()


def graph_reader(
    readout: str = "history, attention",
    layers: int = 4,
    task: Neighbour = Neighbour(),  # noqa: B008 (frozen)
    *,
    graphs: int = 1000,
    dim: int = 32,
    steps: int = 200,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> GraphReader:
    """Train a GCN of `layers` with one of READOUTS on graphs drawn once; AdamW, cross-entropy.

    ValueError: an unknown readout, fewer than one layer.
    """
    if readout not in READOUTS or layers < 1:
        raise ValueError(f"readout must be one of {list(READOUTS)}, layers 1 or more; got {readout!r} and {layers}")
    drawn = task.draw(graphs, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gcn, read = GCN(task.kinds, dim, layers), READOUTS[readout](dim, layers + 1)
        made = GraphReader(gcn, read, nn.Linear(dim, task.classes))
        weights = [p for part in (made.gcn, made.readout, made.head) for p in part.parameters()]

        def loss(_: int) -> Tensor:
            rows = torch.randint(graphs, (batch,))
            part = Graphs(drawn.nodes[rows], drawn.mask[rows], drawn.adjacency[rows], drawn.labels[rows])
            return nn.functional.cross_entropy(made.logits(part), part.labels)

        descend(loss, weights, steps, rate=rate, label=f"train {readout}", progress=progress)
    return made
