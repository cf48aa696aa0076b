"""The first, last, mean and largest of the tokens on a CPU: run by run of texts of one length, padding never read.

Batches are sorted by length, so their rows fall into a few runs of equal length, the real tokens of which are one block
of x: a reduction over a block needs no mask, and costs a fifth of one that has to hide padding. Runs are found once for
a batch; all of its layers share them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.pooling.functional import Segments, Tokens, counts, is_padded


@dataclass(frozen=True)
class Runs:
    """Neighbouring segments whose tokens stand alike, and where: columns of x [B, T, D], or tokens of ragged [N, D]."""

    rows: tuple[slice, ...]
    tokens: tuple[slice, ...]  # of each run, none of which is empty
    ends: dict[str, tuple[Tensor, ...]]  # the indices in x of each segment's first and last token
    empty: Bool[Tensor, " S"] | None  # which segments have no token, None where all have

    def blocks(self, x: Tokens) -> Iterator[tuple[slice, Float[Tensor, "R L D"]]]:
        """The segments of each run and their tokens, views of x."""
        for rows, tokens in zip(self.rows, self.tokens, strict=True):
            yield rows, x[rows, tokens] if x.ndim == 3 else x[tokens].unflatten(0, (rows.stop - rows.start, -1))

    def reduce(self, x: Tokens, names: Sequence[str]) -> list[Float[Tensor, "S D"]]:
        """first, last, mean or max of each segment, zeros for an empty one; float32 inside for half inputs."""
        return [self._ends(x, name) if name in self.ends else self._whole(x, name) for name in names]

    def _ends(self, x: Tokens, name: str) -> Tensor:
        y = x[self.ends[name]]
        return y if self.empty is None else y.masked_fill(self.empty[:, None], 0)

    def _whole(self, x: Tokens, name: str) -> Tensor:
        y = x.new_zeros(len(self.ends["first"][-1]), x.shape[-1])
        wide = torch.promote_types(x.dtype, torch.float32)
        for rows, block in self.blocks(x):
            y[rows] = block.amax(1) if name == "max" else block.mean(1, dtype=wide)
        return y


def find(segments: Segments) -> Runs | None:
    """The runs of a mask or of offsets; None where padding stands among the tokens of a row, or nothing else does."""
    numbers = counts(segments)
    if is_padded(segments):
        columns = torch.arange(segments.shape[1])
        first = segments.byte().argmax(1) if len(columns) else numbers
        if not torch.equal(segments, (columns >= first[:, None]) & (columns < (first + numbers)[:, None])):
            return None
    else:
        first = segments[:-1]
    if not numbers.any():
        return None
    rows, tokens = [], []
    bounds = list(zip(first.tolist(), numbers.tolist(), strict=True))
    for _, run in groupby(range(len(bounds)), bounds.__getitem__ if is_padded(segments) else lambda s: bounds[s][1]):
        some = list(run)
        (start, length), stop = bounds[some[0]], sum(bounds[some[-1]])
        if length:
            rows.append(slice(some[0], some[-1] + 1))
            tokens.append(slice(start, stop))
    # that of a segment without tokens is any: what is read there is cleared
    last = (first + numbers - 1).clamp(min=0)
    first = first.clamp(max=int(last.max()))
    which = (torch.arange(len(numbers)),) if is_padded(segments) else ()
    empty = numbers == 0
    ends = {"first": (*which, first), "last": (*which, last)}
    return Runs(tuple(rows), tuple(tokens), ends, empty if bool(empty.any()) else None)
