"""The first, last, mean and largest of the tokens on a CPU: run by run of texts of one length, padding never read.

Batches are sorted by length, so their rows fall into a few runs of equal length, the real tokens of which are one block
of x: a reduction over a block needs no mask, and costs a fifth of one that has to hide padding. Runs are found once for
a batch; all of its layers share them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.pooling.functional import Segments, Tokens, counts, is_padded


@dataclass(frozen=True)
class Runs:
    """Neighbouring segments whose tokens stand alike, and where: columns of x [B, T, D], or tokens of ragged [N, D]."""

    rows: tuple[slice, ...]
    tokens: tuple[slice, ...]  # of each run, none of which is empty
    ends: dict[str, Int[Tensor, " S"]]  # where each segment's first and last token stand, rows one behind the other
    empty: Bool[Tensor, " S"] | None  # which segments have no token, None where all have

    def blocks(self, x: Tokens) -> Iterator[tuple[slice, Float[Tensor, "R L D"]]]:
        """The segments of each run and their tokens, views of x."""
        for rows, tokens in zip(self.rows, self.tokens, strict=True):
            yield rows, x[rows, tokens] if x.ndim == 3 else x[tokens].unflatten(0, (rows.stop - rows.start, -1))

    def reduce(self, x: Tokens, names: Sequence[str]) -> Float[Tensor, "P S D"]:
        """first, last, mean or max of each segment, zeros for an empty one; float32 inside for half inputs.

        Each is written where it shall stand, so x must be without gradient, as what capture sees is.
        """
        y = x.new_empty(len(names), len(self.ends["first"]), x.shape[-1])
        for name, out in zip(names, y, strict=True):
            if name in self.ends:
                torch.index_select(x.reshape(-1, x.shape[-1]), 0, self.ends[name], out=out)
        whole = [(name, out) for name, out in zip(names, y, strict=True) if name not in self.ends]
        for rows, block in self.blocks(x):
            for name, out in whole:  # block by block: the second to read it finds it in the cache
                if name == "max":
                    torch.amax(block, 1, out=out[rows])
                elif x.dtype in (torch.float16, torch.bfloat16):
                    out[rows] = block.mean(1, dtype=torch.float32)
                else:
                    torch.mean(block, 1, out=out[rows])
        if self.empty is not None:
            y[:, self.empty] = 0
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
    start = torch.arange(len(numbers)) * segments.shape[1] if is_padded(segments) else 0
    empty = numbers == 0
    ends = {"first": start + first, "last": start + last}
    return Runs(tuple(rows), tuple(tokens), ends, empty if bool(empty.any()) else None)
