"""What a toy of pictures and words is asked: scikit-learn's digits, words spelled letter by letter, and a table.

The table says which question has which answer, so that the right one is known for every query.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FORMS = ("image>word", "word>image", "image>image", "word>word", "both>word")
LETTERS = " " + string.ascii_lowercase  # 0 is no letter, the last number ends a text
END = len(LETTERS) + 1
PATCH = 4  # pixels a side; 8 x 8 pictures have 4 patches


@dataclass(frozen=True)
class Instruction:
    """What is asked of a digit d, and in which forms, "given>sought", it is trained and held out.

    answers[d], a word; where it is a digit's, a picture of that digit answers as well. In the form "both>word" a
    picture of d comes with the word of w, and the answer is answers[(d - w) mod 10].
    """

    answers: tuple[str, ...]
    trained: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        forms = (*self.trained, *self.held_out)
        if len(self.answers) != 10 or not forms or not set(forms) <= set(FORMS) or len(set(forms)) < len(forms):
            raise ValueError(f"needed are ten answers and different forms of {FORMS}; got {self.answers} and {forms}")
        if any(form.endswith(">image") for form in forms) and not set(self.answers) <= set(WORDS):
            raise ValueError(f"a picture answers with a digit; got the answers {self.answers}")


INSTRUCTIONS = {
    "name": Instruction(WORDS, ("image>word", "word>image"), ("image>image",)),
    "mirror": Instruction(WORDS[::-1], ("image>word", "word>image"), ("image>image", "word>word")),
    "swap": Instruction(
        tuple(WORDS[d ^ 1] for d in range(10)), ("image>word", "word>word"), ("image>image", "word>image")
    ),
    "parity": Instruction(("even", "odd") * 5, ("image>word",), ("word>word",)),
    "size": Instruction(("small",) * 5 + ("large",) * 5, ("word>word",), ("image>word",)),
    "is it": Instruction(("yes",) + ("no",) * 9, ("both>word",)),
}


def tasks(instructions: Mapping[str, Instruction] = INSTRUCTIONS) -> list[tuple[str, str]]:
    """(instruction, form) of everything that is asked, trained forms before those held out."""
    return [(name, form) for name, one in instructions.items() for form in (*one.trained, *one.held_out)]


def asked(
    name: str, one: Instruction, form: str, images: Tensor, labels: Tensor, n: int, generator: np.random.Generator
) -> tuple[dict[str, Tensor], list[str]]:
    """n queries of this form, and their answers."""
    rows = torch.from_numpy(generator.integers(len(images), size=n))
    digits = labels[rows].numpy()
    match form.partition(">")[0]:
        case "image":
            return features(name, images[rows], None), [one.answers[d] for d in digits]
        case "word":
            return features(name, None, [WORDS[d] for d in digits]), [one.answers[d] for d in digits]
    # half of the words are those of their pictures
    words = np.where(generator.random(n) < 0.5, digits, generator.integers(10, size=n))
    return features(name, images[rows], [WORDS[w] for w in words]), [one.answers[d] for d in (digits - words) % 10]


def answering(
    form: str, answer: list[str], images: Tensor, labels: Tensor, generator: np.random.Generator
) -> dict[str, Tensor]:
    if form.endswith(">word"):
        return features("", None, answer)
    rows = [generator.choice(np.flatnonzero(labels.numpy() == WORDS.index(word))) for word in answer]
    return features("", images[torch.tensor(rows, dtype=torch.long)], None)


def features(instruction: str, pictures: Tensor | None, words: list[str] | None) -> dict[str, Tensor]:
    """Patches and letters as the towers read them: the picture, the instruction, the word, the end."""
    n = len(pictures) if pictures is not None else len(words or [])
    texts = [" ".join(part for part in (instruction, word) if part) for word in (words or [""] * n)]
    rows = [_spelled(text) for text in texts]
    longest = max(map(len, rows), default=1)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows]).view(n, longest)
    if pictures is None:
        patches = torch.zeros(n, 64 // PATCH**2, PATCH**2)
    else:
        patches = pictures.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).reshape(n, 64 // PATCH**2, PATCH**2)
    pictured = torch.full((n,), pictures is not None, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": patches, "pictured": pictured}


@cache
def _spelled(text: str) -> list[int]:
    return [LETTERS.index(letter) + 1 for letter in text] + [END]


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several lots of inputs as one, the shorter texts filled up on the right."""
    longest = max(part["input_ids"].shape[1] for part in parts)

    def filled(name: str, value: Tensor) -> Tensor:
        short = longest - value.shape[1] if name in ("input_ids", "attention_mask") else 0
        return nn.functional.pad(value, (0, short)) if short else value

    return {name: torch.cat([filled(name, part[name]) for part in parts]) for name in parts[0]}


def check(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or images.shape[1:] != (1, 8, 8) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"needed are pictures [N, 1, 8, 8] and a label for each, as lab.data.digits() gives; got "
            f"{tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if sorted(set(labels.tolist())) != list(range(10)):
        raise ValueError(f"labels must be the digits 0 to 9, each of them there; got {sorted(set(labels.tolist()))}")
