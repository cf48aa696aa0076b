"""Text as one long row of token ids, of which training draws windows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lab.data.tasks import Drawn

BEGIN = 0  # the token before every window, where one is asked for


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token ids of training and held-out text; window number s of either is a function of the seed s alone."""

    train: Tensor  # int64 [N]
    held_out: Tensor
    vocab: int
    length: int  # tokens of a window, the beginning included
    by: str
    begin: bool  # every window starts with token 0, as texts do for models with a BOS token

    def draw(self, size: int, seed: int, *, held_out: bool = False) -> Drawn:
        """Windows at random places [size, length], what follows each token, all of it counted."""
        ids = self.held_out if held_out else self.train
        own = self.length - self.begin
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(ids) - own, (size, 1), generator=generator)
        windows = ids[starts + torch.arange(own + 1)]
        if self.begin:
            windows = torch.nn.functional.pad(windows, (1, 0), value=BEGIN)
        return Drawn(windows[:, :-1], windows[:, 1:], torch.ones(size, self.length, dtype=torch.bool))

    def describe(self) -> str:
        """What tells this corpus from another, for a checkpoint to say."""
        digest = hashlib.sha256(self.train.numpy().tobytes() + self.held_out.numpy().tobytes()).hexdigest()[:16]
        return (
            f"{len(self.train):,} + {len(self.held_out):,} tokens by {self.by} {digest}, {self.length} a window, "
            + ("each begun" if self.begin else "not begun")
        )


def corpus(
    texts: Sequence[str],
    by: Any = "byte",
    *,
    length: int = 128,
    held_out: float = 0.1,
    begin: bool = False,
) -> Corpus:
    """Encode texts, one after the other with an end between, the last part held out.

    by: "byte" (256 values), "character" (those of the texts, the rarest beyond 1,000 as one), or a tokenizer as
        transformers has them; lab.models.load("minilm").tokenizer is the bundled one. Token 0 is kept for the
        beginning and for the end of a text.
    length: tokens of a window; begin: whether token 0 is its first, at every place in a text.
    held_out: the share of the texts, from the end, that training never draws.

    Raises ValueError for texts too short for a single window on either side, and a share outside (0, 1);
    TypeError for what is not text.
    """
    texts = list(texts)
    if not texts or not all(isinstance(text, str) for text in texts):
        odd = next((type(text).__name__ for text in texts if not isinstance(text, str)), "nothing")
        raise TypeError(f"expected strings to train on; got {odd} among {len(texts)}")
    if not 0 < held_out < 1 or length < 2:
        raise ValueError(f"got held_out={held_out}, length={length}; needed are a share in (0, 1) and two tokens")
    rows, vocab, name = _encoded(texts, by)
    cut = min(len(rows) - 1, max(1, round(len(rows) * (1 - held_out))))
    train, rest = (
        torch.from_numpy(np.concatenate(part)) if part else torch.empty(0) for part in (rows[:cut], rows[cut:])
    )
    if min(len(train), len(rest)) <= length:
        raise ValueError(
            f"{len(train):,} tokens to train on and {len(rest):,} held out do not fill a window of {length}; give more "
            "text, or a smaller length"
        )
    return Corpus(train, rest, vocab, length, name, begin)


def _encoded(texts: list[str], by: Any) -> tuple[list[np.ndarray], int, str]:
    """Ids from 1 on, each text ending in 0; how many ids there are; and what made them, in words."""
    if by == "byte":
        made = (np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + 1 for text in texts)
        return [np.append(row, BEGIN) for row in made], 257, "byte"
    if by == "character":
        letters, counts = np.unique(list("".join(texts)), return_counts=True)
        known = letters[np.argsort(-counts, kind="stable")][:1000]
        number = {letter: i + 2 for i, letter in enumerate(known)}  # 1 is every other letter
        return [np.array([*(number.get(c, 1) for c in text), BEGIN]) for text in texts], len(known) + 2, "character"
    if isinstance(by, str) or not callable(by):
        raise ValueError(f'no encoding {by!r}; there are "byte", "character", or a tokenizer')
    ids = [by(text, add_special_tokens=False)["input_ids"] for text in tqdm(texts, desc="encode", leave=False)]
    return [np.array([*(i + 1 for i in row), BEGIN]) for row in ids], len(by) + 1, type(by).__name__
