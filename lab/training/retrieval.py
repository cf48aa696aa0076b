"""One attention head that finds the largest of a set: trained on small sets, asked about large ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from lab.attention import NORMALIZERS
from lab.data.tasks import MaxRetrieval
from lab.training.descend import descend


class SetReader(nn.Module):
    """logits = MLP(sum_n w_n v_n), w = normalizer(q . k_n / sqrt(D)) over the items of a set; q is learned.

    items (B, N, F) -> logits (B, C), weights (B, N). The model of Velickovic et al., 2024, section 3, with the query
    a parameter instead of a random input (recalled).
    """

    def __init__(self, features: int, classes: int, dim: int = 64) -> None:
        super().__init__()
        self.item = nn.Sequential(nn.Linear(features, dim), nn.GELU(), nn.Linear(dim, dim))
        self.query = nn.Parameter(torch.randn(dim))
        self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, classes))

    def forward(
        self, items: Float[Tensor, "B N F"], normalizer: str = "softmax"
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B N"]]:
        seen = self.item(items)
        scores = self.key(seen) @ self.query * len(self.query) ** -0.5
        weights = NORMALIZERS[normalizer](scores[:, None])[:, 0]  # rows of one query
        return self.out((weights[..., None] * self.value(seen)).sum(1)), weights


@dataclass(frozen=True, eq=False)
class Retriever:
    """A trained head, and under which normalizer it was trained."""

    net: SetReader
    task: MaxRetrieval
    normalizer: str

    @torch.no_grad()
    def measure(
        self, sizes: Iterable[int], normalizers: Iterable[str] | None = None, *, sets: int = 512, seed: int = 1
    ) -> xr.Dataset:
        """accuracy, top (the weight of the right item's class leader: the largest item) and entropy of the weights.

        Over (normalizer, items, example): each normalizer is put in place of the trained one, without training again.
        entropy is in nats, of the weights brought to a sum of 1; log(items) is even attention.
        """
        names, sizes = list(normalizers or [self.normalizer]), list(sizes)
        found = {key: np.empty((len(names), len(sizes), sets)) for key in ("accuracy", "top", "entropy")}
        for j, size in enumerate(sizes):
            items, right = self.task.draw(sets, size, seed=-seed - j)  # training draws by seeds from 0 on
            largest = items[..., 0].argmax(1, keepdim=True)
            for i, name in enumerate(names):
                logits, weights = self.net(items, name)
                share = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
                found["accuracy"][i, j] = (logits.argmax(1) == right).double().numpy()
                found["top"][i, j] = share.gather(1, largest)[:, 0].numpy()
                found["entropy"][i, j] = torch.special.entr(share.clamp(min=0)).sum(1).numpy()
        data = {key: (("normalizer", "items", "example"), values) for key, values in found.items()}
        return xr.Dataset(data, coords={"normalizer": names, "items": sizes})


def max_retrieval(
    normalizer: str = "softmax",
    *,
    items: int = 16,
    steps: int = 1000,
    batch: int = 128,
    rate: float = 2e-3,
    seed: int = 0,
    progress: bool = True,
) -> Retriever:
    """Train a SetReader on sets of 1 to `items` items, AdamW, cross-entropy; the seed draws weights and sets.

    Raises ValueError for an unknown normalizer and for one that is no function of a row of scores.
    """
    task = MaxRetrieval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SetReader(1 + task.classes, task.classes)
    sizes = np.random.default_rng(seed).integers(1, items + 1, size=steps)

    def loss(step: int) -> Tensor:
        features, right = task.draw(batch, int(sizes[step]), seed=seed * 2_000_003 + step)
        return nn.functional.cross_entropy(net(features, normalizer)[0], right)

    label = f"train {normalizer}"
    descend(loss, net.parameters(), steps, rate=rate, weight_decay=1e-3, label=label, progress=progress)
    return Retriever(net, task, normalizer)
