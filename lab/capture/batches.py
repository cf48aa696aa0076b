"""What a model reads, in batches: texts by length under a budget of tokens, padded little or not at all; or arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Some examples, ready to be read."""

    index: np.ndarray  # which they are, in the caller's order
    inputs: dict[str, Tensor]
    # of texts which tokens are real, or where each text begins in one packed row; None: all that the model makes of it
    segments: Bool[Tensor, "B T"] | Int[Tensor, " S"] | None

    @property
    def size(self) -> int:
        """Tokens read, padding among them; images count as one each."""
        return len(self.index) if self.segments is None else next(iter(self.inputs.values())).numel()


@dataclass(frozen=True)
class Tokens:
    """Token ids of every text, cut to a window, and how to batch them.

    layout: "padded" on the right; "equal", where a model takes no attention mask: texts of one length at a time;
    "packed": one row without padding, for attention that keeps the texts apart by their positions.
    """

    ids: list[list[int]]
    truncated: np.ndarray  # bool, one per text: did it lose tokens to the window?
    reads: str = "input_ids"
    layout: str = "padded"

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.ids])

    def batch(self, index: np.ndarray) -> Batch:
        if self.layout == "packed":
            return self._packed(index)
        lengths = self.lengths_of(index)
        ids = torch.zeros(len(index), max(1, *lengths), dtype=torch.long)  # no text may have a token
        for row, i in enumerate(index):
            ids[row, : lengths[row]] = torch.tensor(self.ids[i], dtype=torch.long)
        mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
        return Batch(
            index, {self.reads: ids} | ({"attention_mask": mask.long()} if self.layout == "padded" else {}), mask
        )

    def _packed(self, index: np.ndarray) -> Batch:
        lengths = torch.tensor(self.lengths_of(index))
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        row = torch.tensor([t for i in index for t in self.ids[i]], dtype=torch.long)
        places = torch.arange(len(row)) - torch.repeat_interleave(offsets[:-1], lengths)
        return Batch(index, {self.reads: row[None], "position_ids": places[None]}, offsets)

    def lengths_of(self, index: np.ndarray) -> list[int]:
        return [len(self.ids[i]) for i in index]


@dataclass(frozen=True)
class Arrays:
    """Images, or whatever else a model reads as one tensor: the first axis counts the examples."""

    values: Tensor
    reads: str
    layout = "whole"

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self.values), dtype=int)

    @property
    def truncated(self) -> np.ndarray:
        return np.zeros(len(self.values), dtype=bool)

    def batch(self, index: np.ndarray) -> Batch:
        return Batch(index, {self.reads: self.values[torch.from_numpy(index)]}, None)


def tokenize(
    tokenizer: Any, texts: Sequence[str], window: int | None, reads: str = "input_ids", layout: str = "padded"
) -> Tokens:
    """Token ids with the special tokens the tokenizer adds, and which texts the window cut short."""
    whole = tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
    over = np.array([window is not None and len(row) > window for row in whole])
    if over.any():
        # the tokenizer itself cuts, so that closing special tokens stay
        cut = tokenizer([texts[i] for i in np.flatnonzero(over)], truncation=True, max_length=window)["input_ids"]
        for i, row in zip(np.flatnonzero(over), cut, strict=True):
            whole[i] = row
    return Tokens(whole, over, reads, layout)


class Plan:
    """Which examples go together: each once, longest first, as many as fit the budget of padded tokens (at least one).

    Longest first: a batch that does not fit the memory fails at once, not after an hour. `shrink` then takes back the
    batch and halves the budget for it and all that follow.
    """

    def __init__(self, lengths: np.ndarray, budget: int, equal: bool = False) -> None:
        self.lengths = np.maximum(lengths, 1)  # a text may have no token at all
        self.exact = lengths
        self.order = np.argsort(-lengths, kind="stable")
        self.budget, self.equal = budget, equal
        self.start = self.stop = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        while self.stop < len(self.order):
            self.start = self.stop
            longest = int(self.lengths[self.order[self.start]])
            self.stop = min(self.start + max(1, self.budget // longest), len(self.order))
            if self.equal:
                same = self.exact[self.order[self.start : self.stop]] == self.exact[self.order[self.start]]
                self.stop = self.start + int(same.sum())  # sorted, so the equal ones come first
            yield self.order[self.start : self.stop]

    def shrink(self) -> int:
        """The new budget; ValueError where the batch was a single example."""
        examples = self.stop - self.start
        if examples == 1:
            raise ValueError(f"one example of {self.lengths[self.order[self.start]]} tokens does not fit the memory")
        self.budget = int(self.lengths[self.order[self.start]]) * (examples // 2)
        self.stop = self.start
        return self.budget
