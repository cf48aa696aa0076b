"""Texts with noise before them: what of a layer's knowledge hangs on a clean input."""

from collections.abc import Iterable

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def noisy(texts: Iterable[str], words: int = 3, seed: int = 0) -> list[str]:
    """Each text with `words` words of 3 to 8 random letters before it, other ones for each; 0 leaves them as they are.

    Random strings before a question are the input noise of Jin et al., 2025, Concept Depth (from notes, recalled):
    https://arxiv.org/abs/2404.07066. Raises TypeError for one string in place of a list, ValueError for words below 0.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings; got one string: put it in a list")
    if words < 0:
        raise ValueError(f"words must be 0 or more; got {words}")
    generator = np.random.default_rng(seed)
    found = []
    for text in texts:
        drawn = ("".join(generator.choice(list(LETTERS), size=size)) for size in generator.integers(3, 9, size=words))
        found.append(" ".join([*drawn, text]))
    return found
