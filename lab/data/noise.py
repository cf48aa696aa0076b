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


NEARBY = {"a": "4@", "b": "8", "e": "3", "g": "9", "i": "1!", "l": "1|", "o": "0", "s": "5$", "t": "7+", "z": "2"}


def attacked(texts: Iterable[str], rate: float | int, seed: int = 0) -> list[str]:
    """Each letter of each text spoilt with probability `rate`, in one of four ways: swapped with the next, left out,
    said twice, or put in a sign that looks like it (a random letter where there is none). 0 leaves texts as they are.

    People who want to get past a filter spell so. "User-intended adversarial attacks" on Korean text are the
    paper's (arXiv 2403.15467, number recalled; its kinds of attack are not known here): these four kinds are ours.
    Raises TypeError for one string in place of a list, ValueError for a rate outside [0, 1].
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings; got one string: put it in a list")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], the share of letters that are spoilt; got {rate}")
    generator = np.random.default_rng(seed)
    return [_spoilt(text, rate, generator) for text in texts]


def _spoilt(text: str, rate: float | int, generator: np.random.Generator) -> str:
    hit, pick = generator.random(len(text)) < rate, generator.random(len(text))
    way = generator.integers(4, size=len(text))
    letters, done, i = list(text), [], 0
    while i < len(letters):
        here = letters[i]
        if not (hit[i] and here.isalpha()):
            done.append(here)
        elif way[i] == 0 and i + 1 < len(letters) and letters[i + 1].isalpha():
            done += [letters[i + 1], here]
            i += 1
        elif way[i] == 1:
            pass  # left out
        elif way[i] == 2:
            done += [here, here]
        else:
            signs = NEARBY.get(here.lower(), LETTERS)
            done.append(signs[int(pick[i] * len(signs))])
        i += 1
    return "".join(done)
