"""All that a linear fit needs of its rows, part by part: sums that can be added, left out and read from a stream."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lab.probes.cells import Cell


@dataclass(frozen=True)
class Sums:
    """Of rows x [D] with targets y [C]: how many, sum x, sum x x', sum y, sum x y'; of one part, or [P, ...]."""

    n: Tensor  # [] or [P]
    x: Tensor  # [.., D]
    xx: Tensor  # [.., D, D]
    y: Tensor  # [.., C]
    xy: Tensor  # [.., D, C]

    def total(self) -> "Sums":
        return Sums(*(field.sum(0) for field in self._fields()))

    def part(self, number: int) -> "Sums":
        return Sums(*(field[number] for field in self._fields()))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(self._fields(), other._fields(), strict=True)))

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(*(a - b for a, b in zip(self._fields(), other._fields(), strict=True)))

    def _fields(self) -> tuple[Tensor, ...]:
        return self.n, self.x, self.xx, self.y, self.xy


def gather(cell: Cell, y: Tensor, part: Tensor, parts: int) -> Sums:
    """The sums of each part, y [N, C] and part [N] the number of each row's, -1 for none; one pass over the rows."""
    found: list[Sums | None] = [None] * parts
    for at, x in cell:
        for number in range(parts):
            here = part[at] == number
            rows, targets = x[here], y[at][here]
            some = Sums(here.sum().double(), rows.sum(0), rows.mT @ rows, targets.sum(0), rows.mT @ targets)
            found[number] = some if found[number] is None else found[number] + some
    return Sums(*(torch.stack(fields) for fields in zip(*(some._fields() for some in found), strict=True)))
