"""A classifier on frozen states that listens to one layer or to several: a layer pool and a linear head."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.pooling import FirstLastMean, LayerMax, LayerMean, LayerPick, SoftmaxMix
from lab.training.descend import descend

# what each reads of the layers 0 .. L - 1; "preceding" leaves the last one out
LISTENERS = {
    "last": LayerPick,
    "mean": LayerMean,
    "max": LayerMax,
    "weighted": SoftmaxMix,
    "first-last": FirstLastMean,
    "preceding": lambda dim, layers: LayerMean(dim, layers, 0, max(1, layers - 1)),
}


@dataclass(frozen=True, eq=False)
class LayerHead:
    """A trained head: logits = W norm(pool(h)) + b."""

    pool: nn.Module
    norm: nn.LayerNorm
    head: nn.Linear

    def logits(self, h: Float[Tensor, "L N D"]) -> Float[Tensor, "N C"]:
        return self.head(self.norm(self.pool(h)))

    @torch.no_grad()
    def correct(self, h: Float[Tensor, "L N D"], labels: np.ndarray) -> np.ndarray:
        """Whether each example's class, a number from 0, is named right, as 0 and 1."""
        return (self.logits(h).argmax(1).numpy() == labels).astype(float)


def layer_head(
    h: Float[Tensor, "L N D"],
    labels: np.ndarray,
    listen: str = "weighted",
    *,
    steps: int = 150,
    batch: int = 128,
    rate: float = 3e-3,
    weight_decay: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> LayerHead:
    """Train pool, a LayerNorm (without weights, so that layers of any scale serve alike) and a linear head; AdamW.

    h: frozen states, one vector an example and layer; labels: classes as numbers from 0; listen: one of LISTENERS.
    "Don't be a fool: pooling strategies in offensive language detection from user-intended adversarial attacks" pools
    preceding layers by mean, max, weights or first and last (from the abstract; exact forms not known).
    ValueError: an unknown name, labels that do not fit.
    """
    if listen not in LISTENERS:
        raise ValueError(f"listen must be one of {list(LISTENERS)}; got {listen!r}")
    L, N, D = h.shape
    labels = np.asarray(labels)
    if labels.shape != (N,) or not np.issubdtype(labels.dtype, np.integer) or (N and labels.min() < 0):
        raise ValueError(f"labels must be {(N,)} numbers from 0; got {labels.shape} of {labels.dtype}")
    right = torch.from_numpy(labels.astype(np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = LayerHead(
            LISTENERS[listen](D, L), nn.LayerNorm(D, elementwise_affine=False), nn.Linear(D, int(labels.max()) + 1)
        )
    weights = [*made.pool.parameters(), *made.head.parameters()]
    generator = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        rows = torch.from_numpy(generator.integers(N, size=batch))
        return nn.functional.cross_entropy(made.logits(h[:, rows]), right[rows])

    descend(loss, weights, steps, rate=rate, weight_decay=weight_decay, label=f"train {listen}", progress=progress)
    return made
