"""Is the kind that was asked for in this bag? An encoder of instances, a pool over the bag, a linear head."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.data.bags import Bags
from lab.pooling import GatedAttentionPool, HopfieldPooling, LSEPool, MaxPool, MeanPool
from lab.training.descend import descend

BAG_POOLS = {
    "mean": MeanPool,
    "max": MaxPool,
    "lse": lambda dim: LSEPool(dim, trainable=True),
    "gated attention": lambda dim: GatedAttentionPool(dim, hidden=dim),
    "hopfield": HopfieldPooling,
    "hopfield at beta 0": lambda dim: HopfieldPooling(dim, beta=0.0),  # the same norms and maps, nothing retrieved
}


class BagNet(nn.Module):
    """logit = w . pool_t(encode(x_t)) + b, an encoder of one hidden layer: x (B, T, D), mask (B, T) -> (B,)."""

    def __init__(self, width: int, pool: str, dim: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.head = nn.Linear(dim, 1)
        self.pool = BAG_POOLS[pool](dim)  # last, so that the same seed gives all pools the same encoder and head

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
        return self.head(self.pool(self.encode(x), mask))[:, 0]


@dataclass(frozen=True, eq=False)
class BagReader:
    """A trained net."""

    net: BagNet

    @torch.no_grad()
    def scores(self, bags: Bags) -> np.ndarray:
        """The logit of each bag."""
        return self.net(bags.x, bags.mask).double().numpy()


def bag_reader(
    bags: Bags,
    pool: str = "hopfield",
    *,
    dim: int = 32,
    steps: int = 250,
    batch: int = 32,
    rate: float = 1e-2,
    seed: int = 0,
    progress: bool = True,
) -> BagReader:
    """Train encoder, pool and head on the bags' labels, AdamW, cross-entropy; pool: one of BAG_POOLS, over embeddings.

    "lse" learns its r, "hopfield" is one head, one learned state and no update, with its norms and projections.
    ValueError: an unknown pool.
    """
    if pool not in BAG_POOLS:
        raise ValueError(f"no pool {pool!r}; there are {list(BAG_POOLS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = BagNet(bags.x.shape[-1], pool, dim)
    generator, labels = np.random.default_rng(seed), bags.labels.to(bags.x.dtype)

    def loss(_: int) -> Tensor:
        rows = torch.from_numpy(generator.integers(len(labels), size=batch))
        return nn.functional.binary_cross_entropy_with_logits(net(bags.x[rows], bags.mask[rows]), labels[rows])

    descend(loss, net.parameters(), steps, rate=rate, falling=True, label=f"train {pool}", progress=progress)
    return BagReader(net.eval())
