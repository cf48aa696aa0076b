"""Bags of images for multiple-instance learning: a bag is positive if it holds one of a kind, and only the bag is
labelled."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bags:
    """Instances [B, T, D], which places hold one, each bag's label 0 or 1, and which instances made it 1."""

    x: Float[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]
    labels: Int[Tensor, " B"]
    witness: Bool[Tensor, "B T"]


def draw(
    images: Float[Tensor, "N 1 H W"],
    labels: Int[Tensor, " N"],
    kind: int,
    *,
    bags: int,
    size: tuple[int, int] = (8, 12),
    witnesses: tuple[int, int] = (1, 1),
    seed: int = 0,
) -> Bags:
    """`bags` of them, every second one positive, padded at their end to size[1] instances, each image one flat row.

    A bag has size[0] .. size[1] instances, a positive one witnesses[0] .. witnesses[1] of the kind among them, all
    evenly drawn; instances are drawn with return, in random order. After the bags of digits of Ilse, Tomczak & Welling,
    2018 (recalled). https://arxiv.org/abs/1802.04712
    ValueError: fewer than two bags, an empty range, more witnesses than the smallest bag holds, no image of the kind or
    none of another.
    """
    if bags < 2 or not 1 <= witnesses[0] <= witnesses[1] <= size[0] <= size[1]:
        raise ValueError(
            f"needed are two bags or more and 1 <= witnesses <= size, both ranges from low to high; got {bags} bags, "
            f"witnesses {witnesses}, size {size}"
        )
    ours, others = (np.flatnonzero(labels.numpy() == kind), np.flatnonzero(labels.numpy() != kind))
    if not len(ours) or not len(others):
        raise ValueError(f"needed are images of kind {kind} and of another; got {len(ours)} and {len(others)}")
    generator, T = np.random.default_rng(seed), size[1]
    rows, witness = generator.choice(others, (bags, T)), np.zeros((bags, T), dtype=bool)
    counts = generator.integers(size[0], size[1] + 1, size=bags)
    for b in range(0, bags, 2):
        n = int(generator.integers(witnesses[0], witnesses[1] + 1))
        at = generator.choice(counts[b], n, replace=False)
        rows[b, at], witness[b, at] = generator.choice(ours, n), True
    mask = torch.from_numpy(np.arange(T) < counts[:, None])
    x = images.flatten(1)[torch.from_numpy(rows)] * mask[..., None]
    return Bags(x, mask, torch.arange(1, bags + 1) % 2, torch.from_numpy(witness))
