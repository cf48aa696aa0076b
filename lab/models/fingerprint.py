"""Checksums that tell one model, or one tokenizer, from another."""

import hashlib
import json
from types import FunctionType
from typing import Any

import torch

from lab.models.identity import checksum
from lab.models.loaded import Loaded


def fingerprint(model: Loaded) -> str:
    """SHA-256 over the names, types, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.model.state_dict().items()):
        value = value.detach().contiguous().cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.inference_mode()
def answer(model: Loaded) -> list[float]:
    """Up to 16 numbers of the last state of the model's example, to 6 digits: what its weights do not tell.

    Weights are the same where attention is exchanged, positions are turned by other angles, or a hook changes a state.
    """
    state = model.last_state(**model.example).float().flatten()
    some = state[:: max(1, len(state) // 16)][:16]
    return [float(f"{number:.6g}") for number in some.tolist()]


def same_answer(model: Loaded, one: Any, other: Any) -> bool:
    """Whether two answers of a model of this type are one: to half the digits that its type has."""
    if one is None or other is None or len(one) != len(other):
        return False
    a, b = (torch.tensor(numbers, dtype=torch.float64) for numbers in (one, other))
    near = torch.finfo(next(model.model.parameters()).dtype).eps ** 0.5 * float(a.abs().max())
    return bool(((a - b).abs() <= near).all())


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer says of itself: a fast one's whole description, else its class and vocabulary.

    And the side from which it cuts; of a function its code.
    """
    if tokenizer is None:
        return "none"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # a fast tokenizer remembers how it last cut and padded, which is not what it is
        said = {
            name: part for name, part in json.loads(backend.to_str()).items() if name not in ("truncation", "padding")
        }
    else:
        said = {"class": type(tokenizer).__qualname__, "vocabulary": getattr(tokenizer, "get_vocab", dict)()}
        if isinstance(tokenizer, FunctionType):
            said["function"] = checksum(tokenizer)
    said["cuts"] = getattr(tokenizer, "truncation_side", "")
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
