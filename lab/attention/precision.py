"""Attention in float32 inside a model under autocast, which would take every product back to half precision."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def exact(like: Tensor) -> AbstractContextManager[None]:
    """Inside the block products are of the types that they are given, on this tensor's device."""
    return torch.autocast(like.device.type, enabled=False)


def dtype_asked(query: Tensor) -> torch.dtype:
    """What a model's own attention gives back: autocast's type where it is on and would touch the query, or its own."""
    kind = query.device.type
    if query.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return query.dtype
