"""Several views of a digit become one vector, from which the digit is drawn again: which pool, trained in which way?"""

from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.data import views
from lab.pooling import AttSetsPool, MaxPool, MeanPool
from lab.training.descend import descend


class LastState(nn.Module):
    """The last state of a GRU that reads the views one after the other: x (B, T, D), mask (B, T) -> (B, D).

    The one pool here that depends on their order. Padding stands at the end. As in 3D-R2N2, Choy et al., 2016
    (recalled).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        last = mask.sum(1) - 1
        return self.gru(x)[0][torch.arange(len(x)), last]


VIEW_POOLS = {"mean": MeanPool, "max": MaxPool, "gru": LastState, "attsets": AttSetsPool}
SCHEDULES = ("joint", "two stages")


class ViewNet(nn.Module):
    """decode(pool over views of encode(view)), encoder and decoder with one hidden layer; (B, V, P) -> (B, pixels)."""

    def __init__(self, width: int, pixels: int, pool: str, dim: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))
        self.decode = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, pixels))
        self.pool = VIEW_POOLS[pool](dim)  # last, so that the same seed gives all pools the same encoder and decoder

    def forward(self, seen: Float[Tensor, "B V P"]) -> Float[Tensor, "B K"]:
        x = self.encode(seen)
        return self.decode(self.pool(x, torch.ones(x.shape[:2], dtype=torch.bool)))


@dataclass(frozen=True, eq=False)
class ViewReader:
    """A trained net and how its views are drawn."""

    net: ViewNet
    side: int
    noise: float | int

    @torch.no_grad()
    def error(self, images: Float[Tensor, "N 1 H W"], count: int, *, seed: int = 0) -> float:
        """The mean square, over pixels and images, of what is missed when `count` views of each are given."""
        seen = views.draw(images, count, side=self.side, noise=self.noise, seed=1_000_003 + seed)
        return float((self.net(seen) - images.flatten(1)).square().mean())

    @torch.no_grad()
    def drawn(self, images: Float[Tensor, "N 1 H W"], count: int, *, seed: int = 0) -> Float[Tensor, "N H W"]:
        """The digits as the net draws them from `count` views."""
        seen = views.draw(images, count, side=self.side, noise=self.noise, seed=1_000_003 + seed)
        return self.net(seen).unflatten(1, images.shape[-2:])


def view_reader(
    images: Float[Tensor, "N 1 H W"],
    pool: str = "attsets",
    schedule: str = "joint",
    *,
    most: int = 4,
    side: int = 4,
    noise: float | int = 0.3,
    dim: int = 64,
    steps: int = 300,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> ViewReader:
    """Train a net that draws a digit from 1 .. `most` views of it, by AdamW on the mean square error.

    schedule: "joint" trains all on sets of views. "two stages", for attsets alone, is FASet: first encoder and decoder
    learn from single views, of which AttSets is the identity, as many a step as the sets of "joint" have; then they
    are held and AttSets learns from sets. Each stage has `steps` steps. Yang et al., IJCV 2020 (the stages recalled).
    https://arxiv.org/abs/1808.00758
    ValueError: an unknown pool or schedule, two stages without attsets, fewer than one view.
    """
    if pool not in VIEW_POOLS or schedule not in SCHEDULES or most < 1:
        raise ValueError(
            f"needed are a pool of {list(VIEW_POOLS)}, a schedule of {list(SCHEDULES)} and one view or more; got "
            f"{pool!r}, {schedule!r} and {most}"
        )
    if schedule == "two stages" and pool != "attsets":
        raise ValueError(f"two stages need a pool that leaves a single view as it is, 'attsets'; got {pool!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ViewNet(2 * images[0].numel(), images[0].numel(), pool, dim)
    generator = torch.Generator().manual_seed(seed)

    def loss(count: int, rows: int) -> Tensor:
        of = torch.randint(len(images), (rows,), generator=generator)
        drawn_by = int(torch.randint(2**31, (), generator=generator))
        seen = views.draw(images[of], count, side=side, noise=noise, seed=drawn_by)
        return nn.functional.mse_loss(net(seen), images[of].flatten(1))

    def of_sets(step: int) -> Tensor:
        return loss(1 + step % most, batch)

    how = {"rate": rate, "falling": True, "progress": progress}
    if schedule == "joint":
        descend(of_sets, net.parameters(), steps, label=f"train {pool}", **how)
    else:
        base, single = chain(net.encode.parameters(), net.decode.parameters()), batch * (most + 1) // 2
        descend(lambda _: loss(1, single), base, steps, label="train single views", **how)
        for weight in (*net.encode.parameters(), *net.decode.parameters()):
            weight.requires_grad_(False)
        descend(of_sets, net.pool.parameters(), steps, label="train attsets", **how)
    return ViewReader(net.eval(), side, noise)
