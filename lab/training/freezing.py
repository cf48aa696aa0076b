"""Fine-tuning the upper part of a model: what stands below is held as it is for a while."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lab.models import Loaded, describe
from lab.models.hooks import evaluating


@dataclass(frozen=True)
class Frozen:
    """How many parameters are held, and how many are left to train."""

    held: int
    trained: int


@contextmanager
def frozen(model: Any, layers: Any) -> Iterator[Frozen]:
    """Inside the block the embeddings and the first `layers` blocks are not trained; afterwards all is as it was.

        with lab.training.frozen(model, 4) as left:
            lab.training.contrastive(pairs, model)  # left.trained parameters learn

    model: a SentenceTransformer of a transformers model, or what lab.models gives. layers counts as everywhere in the
    lab: what makes layer 0 (all that has run when the first block begins, found by running it) is held with every
    number, 0 blocks with 0 alone. Nothing is computed differently: a held part still runs forward, and gradients end at
    its top, so that the backward pass through it is saved. A weight that stands both below and above (an embedding
    that is the output layer too) is held.

    Freezing the lower layers in fine-tuning: Shi et al., "Towards Efficient Fine-tuning of Pre-trained Code Models: An
    Experimental Study and Beyond", ISSTA 2023 (Telly, from the abstract). https://arxiv.org/abs/2304.05216
    TypeError for another model; ValueError for more blocks than there are, and where nothing is left to train.
    """
    described, whole = _described(model)
    if isinstance(layers, bool) or not isinstance(layers, int) or not 0 <= layers <= described.depth:
        raise ValueError(
            f"layers must be 0 (the embeddings) to {described.depth}, the blocks there are; got {layers!r}"
        )
    modules = dict(described.model.named_modules())
    below = [*_before(described), *(modules[name] for name in described.blocks[:layers])]
    held = {id(p): p for part in below for p in part.parameters() if p.requires_grad}
    trained = sum(p.numel() for p in whole.parameters() if p.requires_grad and id(p) not in held)
    if not trained:
        raise ValueError(f"with the embeddings and {layers} blocks held, nothing that can be trained is left")
    try:
        for weight in held.values():
            weight.requires_grad_(False)
        yield Frozen(sum(p.numel() for p in held.values()), trained)
    finally:
        for weight in held.values():
            weight.requires_grad_(True)


def _described(model: Any) -> tuple[Loaded, nn.Module]:
    """The model in the lab's words, and all that is trained with it."""
    if isinstance(model, Loaded):
        return model, model.model
    inner = getattr(model[0], "model", None) if isinstance(model, nn.Sequential) and len(model) else None
    if not isinstance(inner, nn.Module):
        raise TypeError(
            f"expected a SentenceTransformer of a transformers model, or a model of lab.models; got "
            f"{type(model).__name__}"
        )
    with evaluating(inner):
        return describe("to be frozen", "a model to train", inner, None, None), model


@torch.no_grad()
def _before(model: Loaded) -> list[nn.Module]:
    """The modules that have run when the first block begins."""
    done: list[nn.Module] = []
    begins: list[int] = []  # one for each run of the first block: ALBERT runs one block many times
    with ExitStack() as hooks:
        hooks.enter_context(evaluating(model.model))
        for module in model.model.modules():
            hooks.callback(module.register_forward_hook(lambda part, *_: done.append(part)).remove)
        first = dict(model.model.named_modules())[model.blocks[0]]
        hooks.callback(first.register_forward_pre_hook(lambda *_: begins.append(len(done))).remove)
        model.model(**model.example)
    return done[: begins[0]]
