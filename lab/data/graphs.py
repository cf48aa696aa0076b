"""Synthetic graphs whose answer is one step away: deep message passing can only blur it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Graphs:
    """Node kinds as unit vectors [B, T, F], which places are nodes, adjacency 0 and 1 without loops, and labels."""

    nodes: Float[Tensor, "B T F"]
    mask: Bool[Tensor, "B T"]
    adjacency: Float[Tensor, "B T T"]
    labels: Int[Tensor, " B"]


@dataclass(frozen=True)
class Neighbour:
    """Which kind of node stands beside the marked one? Trees and a few edges more, one mark, one neighbour.

    Node kinds: 0 the mark (once), 1 .. classes the kinds asked for, the rest plain. The mark has exactly one neighbour
    of a kind asked for, the label; nodes of all kinds asked for stand elsewhere, too, so that how many there are says
    nothing. One round of message passing sees the answer. Synthetic: it was made to have its answer in an early layer.
    """

    classes: int = 4
    plain: int = 2
    size: tuple[int, int] = (14, 24)
    extra: float | int = 0.3  # edges beyond a tree, for each node

    def __post_init__(self) -> None:
        if self.classes < 2 or self.plain < 1 or not self.classes + 4 <= self.size[0] <= self.size[1] or self.extra < 0:
            raise ValueError(f"needed are two classes, a plain kind and {self.classes + 4} nodes or more; got {self}")

    @property
    def kinds(self) -> int:
        return 1 + self.classes + self.plain

    def draw(self, graphs: int, seed: int) -> Graphs:
        """`graphs` of them, padded to the largest size. ValueError for fewer than one."""
        if graphs < 1:
            raise ValueError(f"got {graphs} graphs; at least one is needed")
        generator = np.random.default_rng(seed)
        T = self.size[1]
        kinds, adjacency = np.zeros((graphs, T), dtype=int), np.zeros((graphs, T, T), dtype=np.float32)
        mask, labels = np.zeros((graphs, T), dtype=bool), generator.integers(self.classes, size=graphs)
        for b in range(graphs):
            n = int(generator.integers(self.size[0], self.size[1] + 1))
            mask[b, :n] = True
            for child in range(1, n):
                self._join(adjacency[b], child, int(generator.integers(child)))
            for _ in range(generator.binomial(n, min(1.0, self.extra))):
                self._join(adjacency[b], *generator.choice(n, 2, replace=False).tolist())
            kinds[b, :n] = self._kinds(adjacency[b, :n, :n], int(labels[b]), generator)
        nodes = torch.nn.functional.one_hot(torch.from_numpy(kinds), self.kinds).float()
        real = torch.from_numpy(mask)
        return Graphs(nodes * real[..., None], real, torch.from_numpy(adjacency), torch.from_numpy(labels))

    def _join(self, adjacency: np.ndarray, i: int, j: int) -> None:
        adjacency[i, j] = adjacency[j, i] = 1

    def _kinds(self, adjacency: np.ndarray, label: int, generator: np.random.Generator) -> np.ndarray:
        n = len(adjacency)
        kinds = 1 + self.classes + generator.integers(self.plain, size=n)
        # a mark that leaves room for every kind elsewhere: a centre of a star would not
        far = n - 1 - adjacency.sum(1)
        mark = int(generator.choice(np.flatnonzero(far >= min(self.classes, far.max()))))
        kinds[mark] = 0
        beside, others = np.flatnonzero(adjacency[mark]), np.flatnonzero(adjacency[mark] == 0)
        kinds[generator.choice(beside)] = 1 + label
        others = others[others != mark]
        placed = generator.permutation(others)[: self.classes]
        kinds[placed] = 1 + generator.permutation(self.classes)[: len(placed)]
        return kinds
