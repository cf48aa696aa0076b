"""A small vision transformer trained on digits: what does it matter how its patches become one vector?"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab import models
from lab.pooling import GeM, GroupGeM, MaxPool, MeanPool
from lab.training.descend import descend

# pools of the patch tokens by name; "cls" reads the first token, which is no patch
PATCH_POOLS = {
    "mean": lambda dim, heads: MeanPool(dim),  # noqa: ARG005 (one signature)
    "max": lambda dim, heads: MaxPool(dim),  # noqa: ARG005
    "gem": lambda dim, heads: GeM(dim),  # noqa: ARG005
    "group_gem": lambda dim, heads: GroupGeM(dim, num_groups=heads),
}


@dataclass(frozen=True, eq=False)
class PatchClassifier:
    """A trained ViT, its pool and its head."""

    vit: nn.Module
    pool: nn.Module | None
    head: nn.Linear
    heads: int

    def pooled(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        """One vector an image: the CLS token where there is no pool, otherwise the pooled patches."""
        states = self.vit(pixel_values=images).last_hidden_state
        if self.pool is None:
            return states[:, 0]
        patches = states[:, 1:]
        return self.pool(patches, torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device))

    @torch.no_grad()
    def correct(self, images: Float[Tensor, "N C H W"], labels: Int[Tensor, " N"]) -> np.ndarray:
        """Whether each image's digit is named right, as 0 and 1."""
        return (self.head(self.pooled(images)).argmax(1) == labels).double().numpy()


def patch_classifier(
    images: Float[Tensor, "N C H W"],
    labels: Int[Tensor, " N"],
    pool: str = "group_gem",
    *,
    layers: int = 2,
    dim: int = 32,
    heads: int = 4,
    steps: int = 150,
    batch: int = 64,
    rate: float = 2e-3,
    seed: int = 0,
    progress: bool = True,
) -> PatchClassifier:
    """Train a tiny ViT with the pool in front of a linear head, all from scratch; AdamW, the rate falling to 0.

    pool: "cls", "mean", "max", "gem" (one p) or "group_gem" (one p for each of `heads` groups of channels; Group
    Generalized Mean Pooling for Vision Transformer, 2022, from the abstract). https://arxiv.org/abs/2212.04114
    GeM needs positive numbers and takes max(x, 1e-6) of states that have both signs. ValueError: an unknown pool.
    """
    if pool != "cls" and pool not in PATCH_POOLS:
        raise ValueError(f"no pool {pool!r}; there are {['cls', *PATCH_POOLS]}")
    drawn = models.tiny("vit", layers=layers, dim=dim, heads=heads, seed=seed).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(dim, int(labels.max()) + 1)
        made = PatchClassifier(drawn, None if pool == "cls" else PATCH_POOLS[pool](dim, heads), head, heads)
    parts = [part for part in (made.vit, made.pool, made.head) if part is not None]
    weights = [p for part in parts for p in part.parameters() if p.requires_grad]
    generator = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        rows = torch.from_numpy(generator.integers(len(images), size=batch))
        return nn.functional.cross_entropy(made.head(made.pooled(images[rows])), labels[rows])

    made.vit.train()
    descend(loss, weights, steps, rate=rate, falling=True, label=f"train {pool}", progress=progress)
    made.vit.eval()
    return made
