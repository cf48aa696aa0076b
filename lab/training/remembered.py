"""Texts cut into tokens once, where training after training reads the same ones with the same tokenizer."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

MOST = 50_000  # texts kept of a tokenizer; those beyond are cut each time


@dataclass(eq=False)
class Kept:
    """What a tokenizer made: of each text, name -> its row without padding; and what a batch has beside its rows."""

    rows: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)


@contextmanager
def remembered(model: Any) -> Iterator[None]:
    """Inside, a SentenceTransformer cuts each text into tokens once, and so do later ones of this process like it.

    Alike are models whose tokenizers are the same by content, padding and window. Cutting byte pairs takes an eighth
    to a fifth of a short training on one core, and a comparison trains on the same pairs again and again. Features are
    the same to the bit; what is not a plain text without a prompt goes the usual way.
    """
    alike = None if "preprocess" in vars(model) else _alike(model)
    if alike is None:
        yield
        return
    model.preprocess = _Reader(model.preprocess, model.tokenizer, _kept(alike))
    try:
        yield
    finally:
        del model.preprocess  # the class has it again


@lru_cache(maxsize=2)  # a model, and the base it is compared with
def _kept(alike: str) -> Kept:  # noqa: ARG001 (what it is kept by)
    return Kept()


def _alike(model: Any) -> str | None:
    """A checksum of all that features depend on, None where that is more than a tokenizer and a window."""
    from sentence_transformers.base.modules import Transformer

    first = model[0]
    if type(first) is not Transformer or first.processing_kwargs or "message" in first.modality_config:
        return None
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    made = {key: part for key, part in json.loads(backend.to_str()).items() if key not in ("truncation", "padding")}
    said = [made, model.max_seq_length, tokenizer.model_max_length, tokenizer.truncation_side, tokenizer.padding_side,
            tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.model_input_names]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


class _Reader:
    """Stands in the place of a model's `preprocess`."""

    def __init__(self, usual: Any, tokenizer: Any, kept: Kept) -> None:
        self.usual, self.kept, self.side = usual, kept, tokenizer.padding_side
        self.padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}

    def __call__(self, inputs: Sequence[Any], prompt: str | None = None, **options: Any) -> Any:
        plain = all(type(text) is str for text in inputs) and not prompt
        if not plain or not inputs or any(value is not None for value in options.values()):
            return self.usual(inputs, prompt=prompt, **options)
        rows = self.kept.rows
        new = [text for text in dict.fromkeys(inputs) if text not in rows]
        if new:
            made = self.usual(new)
            if len(rows) + len(new) > MOST or not _rows_alone(made):
                return made if new == list(inputs) else self.usual(inputs)
            mask = made["attention_mask"].bool()
            tensors = {name: value for name, value in made.items() if isinstance(value, Tensor)}
            self.kept.beside.update({name: value for name, value in made.items() if name not in tensors})
            for i, text in enumerate(new):
                rows[text] = {name: value[i][mask[i]] for name, value in tensors.items()}
        asked = [rows[text] for text in inputs]
        batch = {
            name: torch.nn.utils.rnn.pad_sequence(
                [row[name] for row in asked], True, self.padding.get(name, 0), self.side
            )
            for name in asked[0]
        }
        return batch | self.kept.beside


def _rows_alone(made: Any) -> bool:
    """Whether features are rows of tokens with a mask, and nothing that belongs to the batch as a whole."""
    mask = made.get("attention_mask")
    tensors = [value for value in made.values() if isinstance(value, Tensor)]
    return isinstance(mask, Tensor) and mask.ndim == 2 and all(value.shape == mask.shape for value in tensors)
