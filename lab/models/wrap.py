"""Any module of one's own, and the two halves of an encoder-decoder, as something the lab can look at."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lab.blocks import find_blocks
from lab.models.examples import Inputs
from lab.models.loaded import Loaded, describe


def wrap(
    model: nn.Module,
    example: Inputs | Tensor,
    *,
    blocks: Iterable[str] | None = None,
    tokenizer: Any = None,
    name: str | None = None,
    window: int | None = None,
) -> Loaded:
    """Any nn.Module, one from timm say, with a small input that shows what it reads.

    example: its main argument, a tensor (token ids [B, T], images [B, C, H, W], ...), or a dict of all its arguments,
        the main one first. Of token ids the batch and the length may change later, of all else only the batch.
    blocks: dotted names of the modules whose outputs are its layers; found by structure when not given. Look at what
        was found: lab.capture.blocks(wrapped).
    tokenizer: called as transformers' are, for a model that reads text.

    Raises ValueError as lab.models.describe does, TypeError for a model without a forward argument to give.
    """
    if isinstance(example, Tensor):
        arguments = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind != p.VAR_KEYWORD]
        if not arguments:
            raise TypeError(f"{type(model).__name__}.forward names no argument; give the example as a dict")
        example = {arguments[0]: example}
    name = name or type(model).__name__
    return describe(
        name, f"a {type(model).__name__} in memory", model, tokenizer, window, blocks=blocks, example=example
    )


def half(model: nn.Module, part: str) -> tuple[nn.Module, tuple[str, ...], Inputs]:
    """The encoder of an encoder-decoder, or its decoder reading along; its blocks, and an example for it."""
    if part not in ("encoder", "decoder"):
        raise ValueError(f'part must be "encoder" or "decoder"; got {part!r}')
    example = {"input_ids": torch.tensor([[5, 6, 7, 8]]) % model.config.vocab_size}
    if part == "encoder":
        return model.get_encoder(), find_blocks(model.get_encoder())[0], example
    blocks, _ = find_blocks(model.get_decoder())
    return ReadingDecoder(model), tuple(f"decoder.{name}" for name in blocks), example


class ReadingDecoder(nn.Module):
    """A decoder that is given, shifted by one place, the text its encoder reads: position t has seen tokens < t.

    Through the encoder it has seen the whole text, so it is not causal as a whole.
    """

    main_input_name = "input_ids"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.decoder = model.get_decoder()  # first, so that its modules go by these names and not by model.decoder
        self.model = model
        self.start = model.config.decoder_start_token_id
        if self.start is None:
            raise ValueError(f"the config of {type(model).__name__} has no decoder_start_token_id")

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        shifted = torch.cat([torch.full_like(input_ids[:, :1], self.start), input_ids[:, :-1]], dim=1)
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=shifted,
            decoder_attention_mask=attention_mask,
            use_cache=False,
        )
        return {"last_hidden_state": out.last_hidden_state}
