"""Contrastive losses by name: LOSSES[name](model) gives a module, forward(sentence_features, labels) -> loss.

Every one takes options by name as well: `partial(LOSSES["gist"], guide=other)` is a loss for
lab.training.contrastive. What sentence-transformers has is taken from there.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from lab.training.losses import standard

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "infonce": standard.infonce,
    "cached": standard.cached,
    "gist": standard.gist,
    "matryoshka": standard.matryoshka,
    "adaptive_layer": standard.adaptive_layer,
}

__all__ = ["LOSSES", "named"]


def named(loss: Any) -> Callable[..., nn.Module]:
    """The loss of this name, or the callable itself; ValueError for an unknown name, TypeError for anything else."""
    if callable(loss) and not isinstance(loss, nn.Module):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss must be a name or a callable loss(model); got {type(loss).__name__}")
    if loss not in LOSSES:
        raise ValueError(f"no loss {loss!r}; there are {list(LOSSES)}, or give a callable loss(model)")
    return LOSSES[loss]
