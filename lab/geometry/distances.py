"""Squared distances of all pairs of rows, each pair once: half of a matrix, row after row."""

import numpy as np
import torch
from torch import Tensor

from lab.geometry.pairs import Side, centred

BLOCK = 2**19  # distances at once: 4 MB, which caches hold
COPIES = 1e-12  # of |x|^2 + |y|^2: below it a squared distance is the product's rounding


def distances(side: Side) -> Tensor:
    """|x_i - x_j|^2 over i < j [N (N - 1) / 2]; exactly 0 for copies."""
    x = side.part(centred)
    own = x.square().sum(1)
    n, halves = len(x), []
    step = max(1, BLOCK // n)
    for begin in range(0, n - 1, step):
        rows, others = slice(begin, begin + step), slice(begin, None)
        most = own[rows, None] + own[None, others]
        block = torch.addmm(most, x[rows], x[others].T, alpha=-2)
        block.masked_fill_(block < most.mul_(COPIES), 0)
        halves += [row[i + 1 :] for i, row in enumerate(block.unbind())]
    return torch.cat(halves)


def row_sums(half: Tensor, n: int) -> Tensor:
    """Row sums [N] of the symmetric matrix without a diagonal that half is the upper part of."""
    values, sums = half.numpy(force=True), np.zeros(n)
    begin = 0
    for i in range(n - 1):
        row = values[begin : begin + n - 1 - i]
        sums[i] += row.sum()
        sums[i + 1 :] += row
        begin += len(row)
    return torch.from_numpy(sums).to(half.device)


def median(values: Tensor) -> Tensor:
    """The lower of the two in the middle."""
    middle = (len(values) - 1) // 2
    return values.new_tensor(np.partition(values.numpy(force=True), middle)[middle])
