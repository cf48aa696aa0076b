"""A small input for any model, its main argument first, and one that differs from it in the last token alone."""

from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Any]


def tell_apart(model: nn.Module, example: Inputs | None) -> tuple[Inputs, Inputs | None]:
    """The example, and the same with another last token; None in its place where the input is not tokens."""
    if example is None:
        example = _made_up(model)
    example = {name: _on(model, value) for name, value in example.items()}
    main, ids = next(iter(example.items()))
    if not isinstance(ids, Tensor):
        raise ValueError(f"the example must begin with the main input, a tensor; got {main}: {type(ids).__name__}")
    if ids.is_floating_point():
        return example, None
    if ids.ndim != 2 or ids.shape[1] < 2 or bool((ids == ids[:, :1]).all()):
        raise ValueError(f"the example's {main} must be token ids [B, T] of at least two tokens that differ; got {ids}")
    flipped = ids.clone()
    flipped[:, -1] = torch.where(ids[:, -1] == ids[:, 0], ids[:, 1], ids[:, 0])
    return example, example | {main: flipped}


def _made_up(model: nn.Module) -> Inputs:
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", None)
    seq2seq = bool(getattr(config, "is_encoder_decoder", False))
    if config is None or seq2seq or main not in ("input_ids", "pixel_values"):
        takes = repr(main) if main else "an input of its own"
        raise ValueError(
            f"{type(model).__name__} takes {takes}{' and a decoder input' if seq2seq else ''}; say what a small input "
            "of it looks like with lab.models.wrap(model, example={...}), or load an encoder-decoder with part="
            '"encoder" or part="decoder"'
        )
    if main == "input_ids":
        return {main: torch.tensor([[5, 6, 7, 8]]) % config.vocab_size}
    side = getattr(config, "image_size", None) or 32  # what has no size of its own takes any
    height, width = side if isinstance(side, tuple | list) else (side, side)
    pixels = torch.linspace(0, 1, config.num_channels * height * width)
    return {main: pixels.view(1, config.num_channels, height, width)}


def _on(model: nn.Module, value: Any) -> Any:
    """The value where the model is; images in the model's own type."""
    if not isinstance(value, Tensor):
        return value
    weight = next(model.parameters())
    return value.to(weight.device, weight.dtype if value.is_floating_point() else None)
