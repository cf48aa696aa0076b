"""Forward passes over many examples, with a look at chosen states of each: what all of capture stands on."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from lab.capture.batches import Arrays, Batch, Plan, Tokens
from lab.models import Loaded
from lab.models.hooks import evaluating


@torch.inference_mode()
def read(
    model: Loaded,
    source: Tokens | Arrays,
    layers: Sequence[int],
    see: Callable[[int, Tensor, Tensor], None],
    done: Callable[[Batch], None],
    *,
    budget: int | None,
    site: str = "layer",
    autocast: torch.dtype | None = None,
    progress: bool = False,
) -> int:
    """see(layer, state, segments) for each state of each batch, then done(batch). Returns the padded tokens read.

    budget: padded tokens, or images, in a batch; None for what suits the device.
    state is [B, T, D] with segments bool [B, T], or of packed texts [N, D] with offsets [B + 1].
    A batch that does not fit the memory of a GPU is read again in halves, and no later one is larger; a warning says
    so. Its states are seen again then, so `see` must overwrite what it kept of a batch that was never done.
    """
    segments: Tensor | None = None  # of the batch under way

    def pass_on(layer: int, state: Tensor) -> None:
        tokens, here = as_tokens(state, segments), segments
        if here is None:
            here = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        see(layer, tokens, here)

    plan = Plan(source.lengths, budget or default_budget(model, source), equal=source.layout == "equal")
    padded = 0
    with ExitStack() as hold:
        bar = tqdm(total=len(plan.order), unit="example", desc=model.name, leave=False, disable=not progress)
        hold.enter_context(bar)
        hold.enter_context(evaluating(model.model))
        hold.enter_context(nullcontext() if autocast is None else torch.autocast(model.device.type, autocast))
        hold.enter_context(model.watching(pass_on, layers, site))
        for index in plan:
            batch = source.batch(index)
            segments = None if batch.segments is None else batch.segments.to(model.device)
            try:
                model.model(**placed(model, batch.inputs))
            except torch.OutOfMemoryError:
                if len(index) == 1:
                    raise
                torch.cuda.empty_cache()
                warnings.warn(f"out of memory: from here on {plan.shrink()} tokens a batch", stacklevel=2)
                continue
            done(batch)
            padded += batch.size
            bar.update(len(index))
    return padded


def default_budget(model: Loaded, source: Tokens | Arrays) -> int:
    gpu = model.device.type == "cuda"
    if isinstance(source, Arrays):
        return 256 if gpu else 32
    return 65_536 if gpu else 2_048


def as_tokens(state: Tensor, segments: Tensor | None) -> Float[Tensor, "*B T D"]:
    """[B, T, D], or [N, D] where texts are packed, of whatever a layer's states are.

    Maps [B, C, H, W] are H W places of width C, vectors [B, D] one token each, and a router's [B T, E] what they say.
    """
    if segments is not None and segments.dtype != torch.bool:
        return state if state.ndim == 2 else state[0]
    match state.ndim:
        case 3:
            return state
        case 4:
            return state.flatten(2).transpose(1, 2)
        case 2 if segments is not None and len(state) == segments.numel():
            return state.unflatten(0, segments.shape)
        case 2:
            return state[:, None]
    raise ValueError(f"states must be [B, T, D], maps [B, C, H, W] or vectors [B, D]; got {tuple(state.shape)}")


def placed(model: Loaded, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The inputs where the model is, images in its own type, beside whatever else its example holds."""
    weight = next(model.model.parameters())
    given = {name: value for name, value in model.example.items() if name != model.reads}
    if model.takes("use_cache"):
        given["use_cache"] = False  # what generation would need; with it texts packed into one row run into each other
    return given | {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
