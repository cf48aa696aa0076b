"""Bags too large for a batch: a few instances of each are read at a step, with a running estimate or without."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lab.data.bags import Bags
from lab.pooling import MIDAMAttentionPool, MIDAMSoftmaxPool
from lab.training.auc import AUCMargin
from lab.training.descend import descend

SAMPLED_POOLS = ("softmax", "attention")


class SampledNet(nn.Module):
    """The score in (0, 1) of each bag: x (B, T, D), mask (B, T), index (B,) which bags they are -> (B,).

    "softmax": the smoothed maximum, of temperature tau, of the instances' scores sigmoid(w . encode(x_t) + b);
    "attention": sigmoid(w . y + b) of the pooled encodings y, which is MIDAM's pool of the predictions, as w is linear.
    """

    def __init__(self, width: int, bags: int, pool: str, dim: int, tau: float, gamma: float | int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.head, self.kind = nn.Linear(dim, 1), pool
        self.pool = (
            MIDAMSoftmaxPool(1, bags, tau, gamma) if pool == "softmax" else MIDAMAttentionPool(dim, bags, dim, gamma)
        )

    def forward(
        self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], index: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        encoded = self.encode(x)
        if self.kind == "softmax":
            return self.pool(self.head(encoded).sigmoid(), mask, index)[:, 0]
        return self.head(self.pool(encoded, mask, index))[:, 0].sigmoid()


@dataclass(frozen=True, eq=False)
class SampledReader:
    """A trained net, the bags it learned from and how many instances of each it read at a step."""

    net: SampledNet
    bags: Bags
    sampled: int

    @torch.no_grad()
    def scores(self, bags: Bags) -> np.ndarray:
        """The score of each bag, pooled whole."""
        return self.net.eval()(bags.x, bags.mask).double().numpy()

    @torch.no_grad()
    def missed(self, sampled: int, gamma: float | int = 1.0, *, repeats: int = 40, seed: int = 0) -> np.ndarray:
        """Estimate less whole-bag score [repeats, B] of its own bags, by samples drawn one after the other, net fixed.

        gamma = 1: each sample by itself; below, the running estimate so far, begun anew.
        """
        fresh, generator = copy.deepcopy(self.net).train(), torch.Generator().manual_seed(seed)
        fresh.pool.gamma = gamma
        for name, buffer in fresh.pool.named_buffers():
            buffer.fill_(0 if name == "quotient" else -torch.inf)
        index, whole = torch.arange(len(self.bags.labels)), self.scores(self.bags)
        drawn = (_sampled(self.bags, index, sampled, generator) for _ in range(repeats))
        return np.stack([fresh(*part, index).double().numpy() for part in drawn]) - whole

    def kept(self, sampled: int, *, bags: int = 32) -> int:
        """How many numbers a step on `bags` bags keeps for its backward pass, weights and the bags themselves aside."""
        index, storages = torch.arange(bags), {}
        part = _sampled(self.bags, index, sampled, torch.Generator().manual_seed(0))
        given = {t.untyped_storage().data_ptr() for t in (*part, *self.net.parameters())}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in given:
                storages[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            held = self.net.eval()(*part)  # held, so that no storage is freed and counted twice
        del held
        return sum(storages.values())


def sample(mask: Bool[Tensor, "B T"], count: int, generator: torch.Generator) -> Int[Tensor, "B K"]:
    """`count` places of each row, or T, evenly drawn from its real ones without return.

    A row with fewer real ones has them all, then places that are none.
    """
    order = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2.0)
    return order.argsort(1)[:, :count]


def _sampled(bags: Bags, index: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    mask = bags.mask[index]
    at = sample(mask, count, generator)
    return bags.x[index[:, None], at], mask.gather(1, at)


def sampled_reader(
    bags: Bags,
    pool: str = "softmax",
    sampled: int = 4,
    *,
    gamma: float | int = 0.3,
    tau: float = 0.1,
    dim: int = 32,
    steps: int = 700,
    batch: int = 32,
    rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> SampledReader:
    """Train on `sampled` instances of each of batch / 2 positive and as many negative bags a step: AdamW, AUCMargin.

    pool: one of SAMPLED_POOLS. gamma < 1 is MIDAM: a bag's running estimate moves by gamma towards its new sample and
    scales the gradient; it lags behind a net that moves fast, hence the small rate. gamma = 1 is naive mini-batch
    pooling, each sample taken for its bag, and pooling of full bags where `sampled` is as large as the largest. Zhu et
    al., ICML 2023: from the abstract, the updates from the official code. https://arxiv.org/abs/2305.08040
    ValueError: an unknown pool, nothing sampled, an odd batch, fewer bags of a label than half a batch.
    """
    labels = bags.labels.numpy()
    sides = [np.flatnonzero(labels == label) for label in (0, 1)]
    if pool not in SAMPLED_POOLS or sampled < 1:
        raise ValueError(
            f"needed are a pool of {list(SAMPLED_POOLS)} and a sample of 1 or more; got {pool!r}, {sampled}"
        )
    if batch < 2 or batch % 2 or min(map(len, sides)) < batch // 2:
        counts = [len(side) for side in sides]
        raise ValueError(
            f"half of the batch is positive, half negative; got batch {batch}, {counts[1]} positive and {counts[0]} "
            "negative bags: draw more bags or take a smaller even batch"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SampledNet(bags.x.shape[-1], len(labels), pool, dim, tau, gamma)
    criterion, generator = AUCMargin(), torch.Generator().manual_seed(seed)
    rows = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        index = torch.from_numpy(np.concatenate([rows.choice(side, batch // 2, replace=False) for side in sides]))
        return criterion(net(*_sampled(bags, index, sampled, generator), index), bags.labels[index])

    weights = [*net.parameters(), *criterion.parameters()]
    descend(loss, weights, steps, rate=rate, falling=True, label=f"train {pool} on {sampled}", progress=progress)
    return SampledReader(net.eval(), bags, sampled)
