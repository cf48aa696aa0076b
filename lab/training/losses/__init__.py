"""Contrastive losses by name: LOSSES[name](model) gives a module, forward(sentence_features, labels) -> loss.

Every one takes options by name as well: `partial(LOSSES["gist"], guide=other)` is a loss for
lab.training.contrastive. What sentence-transformers has is taken from there (standard); what it does not have has a
file of its own, imported when it is asked for:

contrast         InfoNCE with in-batch negatives on or off, which the others stand on
positive_aware   negatives below the positive's score: a miner, and a mask in the batch
focal            more weight for what is answered wrongly
mixing           harder negatives, mixed from those that are there
coupled          why has a document no label? Two models that weigh each other
agreement        a decoder's likelihood as the teacher of its embedding
grl              the same, and a preference loss that trains the teacher
hyperspherical   classes as directions (texts with labels, not pairs)
centroid         texts against means of classes (likewise)
layers           every layer's embedding in one pass; agreement with the last
starbucks        a fixed list of layers and widths
matryoshka2d     one layer and width drawn at each step
cached           any of them in mini-batches, the same gradient

GISTEmbed's is sentence-transformers' own.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from lab.training.losses import standard


def _ours(file: str, name: str) -> Callable[..., nn.Module]:
    return partial(_made, f"lab.training.losses.{file}", name)


def _made(file: str, name: str, model: nn.Module, *inner: Any, **options: Any) -> nn.Module:
    return getattr(import_module(file), name)(model, *inner, **options)


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "infonce": standard.infonce,
    "cached": standard.cached,
    "gist": standard.gist,
    "matryoshka": standard.matryoshka,
    "adaptive_layer": standard.adaptive_layer,
    "in_batch_or_own": _ours("contrast", "InfoNCE"),
    "positive_aware": _ours("positive_aware", "PositiveAware"),
    "focal": _ours("focal", "Focal"),
    "mixing": _ours("mixing", "Mixing"),
    "coupled": _ours("coupled", "Coupled"),
    "agreement": _ours("agreement", "Agreement"),
    "grl": _ours("grl", "GRL"),
    "normalized_softmax": _ours("hyperspherical", "NormalizedSoftmax"),
    "centroid_triplet": _ours("centroid", "CentroidTriplet"),
    "starbucks": _ours("starbucks", "Starbucks"),
    "matryoshka_2d": _ours("matryoshka2d", "Matryoshka2D"),
    "in_mini_batches": _ours("cached", "Cached"),
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
