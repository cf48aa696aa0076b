"""A pool and a linear head asked for a sum, a mean, a maximum ... of small sets, then of larger ones than it saw."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.data import sets
from lab.data.sets import Sets
from lab.pooling import GNP, MaxPool, MeanPool
from lab.training.descend import descend

SET_POOLS = {
    "gnp": lambda dim: GNP(dim, p=2.0, q=0.5),
    "sum": lambda dim: GNP(dim, p=1.0, q=0.0, trainable=False),
    "mean": MeanPool,
    "max": MaxPool,
}


@dataclass(frozen=True, eq=False)
class SetReader:
    """answer = w . pool(x) + b."""

    pool: nn.Module
    head: nn.Linear

    def answers(self, asked: Sets) -> Float[Tensor, " B"]:
        return self.head(self.pool(asked.x, asked.mask))[:, 0]

    def missed(self, asked: Sets) -> Float[Tensor, " B"]:
        """By how much each answer is off, as a share of the right one, with its sign."""
        return self.answers(asked) / asked.answers - 1


def set_reader(
    target: str,
    pool: str = "gnp",
    *,
    size: tuple[int, int] = (2, 8),
    drawn: int = 1000,
    steps: int = 300,
    batch: int = 128,
    rate: float = 0.2,
    seed: int = 0,
    progress: bool = True,
) -> SetReader:
    """Fit head and pool to sets drawn once, by the mean square of what is missed as a share of the answer.

    target: one of lab.data.sets.TARGETS. pool: a fixed one with the exact least-squares head, or "gnp", which starts at
    p = 2 and q = 1/2, none of the answers, with that head, and learns all of them by Adam. That a pool with the
    right exponents extrapolates in size is the claim of Ko et al., 2021 (from the abstract).
    https://arxiv.org/abs/2106.06210
    ValueError: an unknown target or pool.
    """
    if pool not in SET_POOLS:
        raise ValueError(f"no pool {pool!r}; there are {list(SET_POOLS)}")
    seen = sets.draw(target, drawn, size, seed=seed)
    D = seen.x.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = SetReader(SET_POOLS[pool](D), nn.Linear(D, 1))
    generator = torch.Generator().manual_seed(seed)

    def loss(_: int) -> Tensor:
        rows = torch.randint(drawn, (batch,), generator=generator)
        return made.missed(Sets(seen.x[rows], seen.mask[rows], seen.answers[rows])).square().mean()

    solve(made, seen)
    if pool == "gnp":
        weights = [*made.pool.parameters(), *made.head.parameters()]
        how = {"rate": rate, "weight_decay": 0.0, "falling": True, "label": f"fit {target}", "progress": progress}
        descend(loss, weights, steps, **how)
    return made


@torch.no_grad()
def solve(made: SetReader, seen: Sets) -> None:
    """The head with the least mean square of what is missed: least squares of rows over their answers, in float64."""
    pooled = made.pool(seen.x, seen.mask).double()
    rows = torch.cat([pooled, torch.ones(len(pooled), 1).double()], 1) / seen.answers[:, None].double()
    found = torch.linalg.lstsq(rows, torch.ones(len(rows), 1).double(), driver="gelsd").solution[:, 0]
    made.head.weight.copy_(found[None, :-1])
    made.head.bias.copy_(found[-1:])
