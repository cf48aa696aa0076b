"""Checksums that tell one model, or one tokenizer, from another."""

import hashlib
import json
from typing import Any

import torch

from lab.models.loaded import Loaded


def fingerprint(model: Loaded) -> str:
    """SHA-256 over the names, types, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.model.state_dict().items()):
        value = value.detach().contiguous().cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer says of itself: a fast one's whole description, else its class and vocabulary."""
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
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
