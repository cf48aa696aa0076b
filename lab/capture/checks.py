"""What was asked of a capture, checked before the model runs: what came, what was expected, and the way out."""

import re
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.models import Loaded

# of any type in a signature, because what is wrong is refused here, in words
Examples = Any  # strings; or one tensor [N, ...] for a model that reads images
Layers = Any  # "all", or whole numbers
Count = Any  # a whole number, from 1

SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, as a broken decoding leaves it


def checked_model(model: Any) -> Loaded:
    if not isinstance(model, Loaded):
        raise TypeError(f"model must come from lab.models.load, tiny or wrap; got {type(model).__name__}")
    return model


def checked_count(name: str, value: Count, most: int | None = None) -> int:
    """A whole number from 1 (to `most`)."""
    bounds = "at least 1" if most is None else f"from 1 to {most}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, {bounds}; got {value!r}")
    if value < 1 or (most is not None and value > most):
        raise ValueError(f"{name} must be {bounds}; got {value}")
    return int(value)


def checked_texts(texts: Any) -> Any:
    """What may hold strings: not one string, not a table or a mapping, going through which gives the names in it."""
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings; got one string: put it in a list")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise TypeError(f"texts must be a list of strings; got a {type(texts).__name__}: pass one of its columns")
    if not isinstance(texts, Iterable) and not (hasattr(texts, "__len__") and hasattr(texts, "__getitem__")):
        raise TypeError(f"texts must be a list of strings; got {texts!r}")
    return texts


def checked_examples(model: Loaded, examples: Examples) -> list[str] | Tensor:
    """Texts as a list, images as a tensor; TypeError or ValueError for what this model cannot read."""
    if isinstance(examples, Tensor) or (isinstance(examples, np.ndarray) and examples.dtype.kind in "fiub"):
        if model.reads_tokens:
            raise TypeError(f"{model.name} reads texts; got an array of {examples.dtype}: pass a list of strings")
        values = torch.as_tensor(examples)
        want = model.example[model.reads].ndim
        if values.ndim != want or not len(values):
            raise ValueError(
                f"{model.name} takes {model.reads} of {want} axes, examples first; got {tuple(values.shape)}: at least "
                "one example, and an axis for them also where there is one"
            )
        return values if values.is_floating_point() else values.float()
    texts = list(checked_texts(examples))
    if not texts:
        raise ValueError("texts is empty; at least one text is needed")
    if model.tokenizer is None:
        raise ValueError(
            f"{model.name} has no tokenizer; it reads {model.reads}: pass one tensor of them, examples first; got "
            f"{len(texts)} of {type(texts[0]).__name__}"
        )
    wrong = [(i, type(text).__name__) for i, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise TypeError(
            f"every text must be a string; {len(wrong)} are not, the first at (index, type) {wrong[:3]}: leave them "
            "out, or put strings in their place"
        )
    if torn := [i for i, text in enumerate(texts) if not text.isascii() and SURROGATE.search(text)]:
        raise ValueError(
            f"every text must be whole unicode; {len(torn)} have lone surrogates, the first at {torn[:3]}: mend them "
            'with text.encode("utf-8", "replace").decode()'
        )
    return texts


def checked_layers(model: Loaded, layers: Layers, site: str) -> tuple[int, ...]:
    """Layer numbers from 0, in the order asked for."""
    depth, first = model.depth, 0 if site == "layer" else 1
    if isinstance(layers, str) and layers == "all":
        numbers = tuple(place.layer for place in model.places.get(site, ()))
        model.places_of(numbers or (depth,), site)  # a site that is not there
        return numbers
    given = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else None
    if given is None or any(not isinstance(layer, Integral) or isinstance(layer, bool) for layer in given):
        raise TypeError(f"layers must be 'all' or a list of whole numbers from {first} to {depth}; got {layers!r}")
    if wrong := [layer for layer in given if not -depth - 1 <= layer <= depth]:
        raise ValueError(f"no layer {wrong}; there are 0 (embeddings) to {depth}, and -1 for the last")
    numbers = tuple(int(layer) % (depth + 1) for layer in given)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"layers must be at least one and differ; got {given}")
    model.places_of(numbers, site)
    return numbers


def checked_autocast(autocast: Any) -> None:
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None; got {autocast!r}")
