"""A model together with the facts every measurement needs to know about it."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lab.blocks import find_blocks
from lab.models.hooks import after, before


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode and what was found out about it.

    Hidden states are numbered as everywhere in the lab: layer 0 is the embedding output (what enters the first
    block), layer i the output of block i - 1, and the last layer is taken after the model's final norm.
    """

    name: str  # as the user asked for it
    source: str  # the folder, the hub id with its commit, or how the random weights were drawn
    model: nn.Module
    tokenizer: Any  # None for models that take images
    blocks: tuple[str, ...]  # dotted names, in forward order
    dim: int  # width of the hidden states
    causal: bool  # found by running it: a later token never moves an earlier one
    normed: tuple[bool, ...]  # one per layer, embeddings first: was this state returned by a norm module?
    window: int | None  # the longest sequence in tokens, None where nothing limits it

    @property
    def depth(self) -> int:
        """The number of blocks; there are depth + 1 layers of hidden states."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __repr__(self) -> str:
        sight = "causal" if self.causal else "bidirectional"
        size = sum(p.numel() for p in self.model.parameters()) / 1e6
        return (
            f"{self.name}: {type(self.model).__name__}, {size:.1f} M parameters on {self.device}\n"
            f"{self.depth} blocks {self.blocks[0]} .. {self.blocks[-1]}, {self.dim} wide, {sight}, window {self.window}"
        )


def describe(name: str, source: str, model: nn.Module, tokenizer: Any, window: int | None) -> Loaded:
    """Find the blocks and, by running the model on a few tokens, whether it is causal and which layers are normed.

    Raises ValueError for a model that takes neither `input_ids` nor `pixel_values` alone.
    """
    model = model.eval()
    blocks = find_blocks(model)
    first, flipped = _examples(model)
    states, normed = _layers(model, blocks, first)
    moved = (_layers(model, blocks, flipped)[0][-1] - states[-1])[0, 0].abs().max()
    # a mixture of experts may regroup tokens and round differently, hence not exactly zero
    causal = bool(moved <= 4 * torch.finfo(states[-1].dtype).eps * states[-1].abs().max())
    return Loaded(name, source, model, tokenizer, blocks, states[-1].shape[-1], causal, normed, window)


def _examples(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two inputs that differ in their last token (or their last patch) alone."""
    config, main = model.config, model.main_input_name
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    if config.is_encoder_decoder or main not in ("input_ids", "pixel_values"):
        raise ValueError(
            f"{type(model).__name__} takes {main!r}{' and a decoder input' if config.is_encoder_decoder else ''}; "
            "lab.models.load describes models that take input_ids or pixel_values alone, and lab.capture.tap "
            "works on any module you run yourself"
        )
    if main == "input_ids":
        first = torch.tensor([[5, 6, 7, 8]], device=device) % config.vocab_size
        flipped = first.clone()
        flipped[0, -1] = 9 % config.vocab_size
    else:
        side = config.image_size
        first = torch.linspace(0, 1, config.num_channels * side**2, device=device, dtype=dtype)
        first = first.view(1, config.num_channels, side, side)
        flipped = first.clone()
        flipped[..., -1, -1] += 1
    return {main: first}, {main: flipped}


@torch.inference_mode()
def _layers(
    model: nn.Module, blocks: tuple[str, ...], example: dict[str, Tensor]
) -> tuple[list[Tensor], tuple[bool, ...]]:
    """All hidden states of one small input, and for each whether a norm module returned that very tensor."""
    modules = dict(model.named_modules())
    states: list[Tensor] = []
    norms: list[Tensor] = []  # held, so that no address is used twice during the pass
    with ExitStack() as hooks:
        for module in modules.values():
            if "norm" in type(module).__name__.lower():
                hooks.callback(after(module, norms.append).remove)
        hooks.callback(before(modules[blocks[0]], states.append).remove)
        for name in blocks[:-1]:
            hooks.callback(after(modules[name], states.append).remove)
        hooks.callback(after(model, states.append).remove)
        model(**example)
    returned = {tensor.data_ptr() for tensor in norms}
    return states, tuple(state.data_ptr() in returned for state in states)
