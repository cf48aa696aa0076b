"""Synthetic sets of numbers, or of kinds, that are asked for a number whose rule is known, whatever their size."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# of numbers [B, T], 0 at padding, in sets of n [B]
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, n: x.sum(1),  # noqa: ARG005 (one signature)
    "mean": lambda x, n: x.sum(1) / n,
    "max": lambda x, n: x.amax(1),  # noqa: ARG005
    "norm": lambda x, n: x.square().sum(1).sqrt(),  # noqa: ARG005
}
TARGETS = (*RULES, "distinct")


@dataclass(frozen=True, eq=False)
class Sets:
    """Elements [B, T, D], which places hold one, and the answer of each set, above zero."""

    x: Float[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]
    answers: Float[Tensor, " B"]


def draw(target: str, sets: int, size: tuple[int, int], *, kinds: int = 32, seed: int = 0) -> Sets:
    """`sets` of size[0] .. size[1] elements, sizes drawn evenly, padded with zeros at their end.

    "sum", "mean", "max" and Euclidean "norm" are asked of positive numbers, D = 1, whose logarithms are standard
    normal; "distinct", how many different ones there are, of `kinds` drawn evenly, as unit vectors, D = kinds.
    ValueError: an unknown target, no set, an empty range, fewer than two kinds.
    """
    if target not in TARGETS or sets < 1 or not 1 <= size[0] <= size[1] or kinds < 2:
        raise ValueError(
            f"needed are a target of {list(TARGETS)}, 1 set or more, sizes from low to high and 2 kinds or more; got "
            f"{target!r}, {sets}, {size} and {kinds}"
        )
    generator = torch.Generator().manual_seed(seed)
    n = torch.randint(size[0], size[1] + 1, (sets,), generator=generator)
    mask = torch.arange(size[1]) < n[:, None]
    if target == "distinct":
        drawn = torch.randint(kinds, mask.shape, generator=generator)
        x = torch.nn.functional.one_hot(drawn, kinds).float() * mask[..., None]
        return Sets(x, mask, x.amax(1).sum(1))
    x = torch.randn(mask.shape, generator=generator).exp() * mask
    return Sets(x[..., None], mask, RULES[target](x, n))
