"""Texts to batches of tokens: sorted by length, cut by a budget of tokens, padded as little as possible."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Token ids of every text, cut to a window."""

    ids: list[list[int]]
    truncated: np.ndarray  # bool, one per text: did it lose tokens to the window?

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.ids])


@dataclass(frozen=True)
class Batch:
    """Some texts, padded on the right to the longest of them."""

    index: np.ndarray  # which texts these are, in the caller's order
    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]


def tokenize(tokenizer: Any, texts: Sequence[str], window: int | None) -> Tokens:
    """Token ids with the special tokens the tokenizer adds, and which texts the window cut short."""
    whole = tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
    over = np.array([window is not None and len(row) > window for row in whole])
    if not over.any():
        return Tokens(whole, over)
    # the tokenizer itself cuts, so that closing special tokens stay
    cut = tokenizer([texts[i] for i in np.flatnonzero(over)], truncation=True, max_length=window)["input_ids"]
    for i, row in zip(np.flatnonzero(over), cut, strict=True):
        whole[i] = row
    return Tokens(whole, over)


def batches(tokens: Tokens, budget: int) -> Iterator[Batch]:
    """Every text once, longest first, as many to a batch as fit the budget of padded tokens (at least one).

    Longest first: a batch that does not fit the memory fails at once, not after an hour.
    """
    lengths = tokens.lengths
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))  # a text may have no token at all
        index = order[start : start + max(1, budget // longest)]
        ids = torch.zeros(len(index), longest, dtype=torch.long)
        for row, i in enumerate(index):
            ids[row, : lengths[i]] = torch.tensor(tokens.ids[i], dtype=torch.long)
        yield Batch(index, ids, torch.arange(longest) < torch.from_numpy(lengths[index])[:, None])
        start += len(index)
