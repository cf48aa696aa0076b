"""The exact search for nearest neighbours: blocks of one matrix product, near copies measured again."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 2**19  # distances at once: 4 MB, which caches hold
CLOSE = 1e-6  # of |x|^2 + |y|^2: below it the product's squared distance has lost more than half of its digits


def nearest(x: Float[Tensor, "*L N D"], k: int) -> tuple[Float[Tensor, "*L N k"], Int[Tensor, "*L N k"]]:
    """Distances |x_i - x_j| to the k nearest other rows, nearest first, and their numbers j.

    A row is left out of its own list by its number, not by being the first: where there are copies, the first may be
    another row. |x|^2 + |y|^2 - 2 x.y gives the order; the distances of near copies are taken again by subtraction,
    so that a distance is 0 exactly where two rows are equal. Ties come in any order. x should be centred.
    """
    flat = x.reshape(-1, *x.shape[-2:])
    found = [_one(part, k) for part in flat]
    return tuple(torch.stack(parts).view(*x.shape[:-1], k) for parts in zip(*found, strict=True))


def _one(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    square = x.square().sum(1)
    distances, numbers = [], []
    step = max(1, BLOCK // len(x))
    for begin in range(0, len(x), step):
        rows = torch.arange(begin, min(begin + step, len(x)), device=x.device)
        block = torch.addmm(square[None], x[rows], x.T, alpha=-2).add_(square[rows, None])
        block[rows - begin, rows] = torch.inf
        value, number = block.topk(k, dim=1, largest=False)
        close = value < CLOSE * (square[rows, None] + square[number])
        i, j = close.nonzero().unbind(1)
        value[i, j] = (x[rows[i]] - x[number[i, j]]).square().sum(1)
        value, order = value.sort(dim=1)
        distances.append(value.sqrt())
        numbers.append(number.gather(1, order))
    return torch.cat(distances), torch.cat(numbers)
