"""How much a model's output moves when its numbers are rounded to few bits: what outliers cost, without a GPU."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from lab.models import Loaded
from lab.models.hooks import evaluating, state_of
from lab.models.quantized import rounded

BITS = (8, 6, 4, 3, 2)
WHAT = ("weights", "activations", "both")


@contextmanager
def rounding(model: Loaded, *, weights: int | None = None, activations: int | None = None) -> Iterator[Loaded]:
    """Inside the block every linear layer (transformers' Conv1D too) computes with rounded numbers; restored after it.

    weights: bits, absmax for each output channel. activations: bits of what enters each linear layer, one absmax for
    the tensor: padding should hold numbers no larger than the tokens'. A weight that two modules share is rounded once.
    Raises ValueError for bits outside 2 to 16, or when there is nothing to round.
    """
    for bits in (weights, activations):
        if bits is not None:
            rounded(torch.zeros(1), bits)
    layers = _linear(model.model)
    if not layers or (weights is None and activations is None):
        raise ValueError(f"nothing to round: {len(layers)} linear layers, weights={weights}, activations={activations}")
    with ExitStack() as hold:
        kept: set[int] = set()
        for layer, axis in layers:
            if weights is not None and id(layer.weight) not in kept:
                kept.add(id(layer.weight))
                hold.callback(layer.weight.data.copy_, layer.weight.data.clone())
                layer.weight.data.copy_(rounded(layer.weight.data, weights, axis))
            if activations is not None:
                hook = layer.register_forward_pre_hook(lambda _, args: (rounded(args[0], activations), *args[1:]))
                hold.callback(hook.remove)
        yield model


def rounding_loss(
    model: Loaded,
    batches: Sequence[dict[str, Tensor]],
    *,
    bits: Sequence[int] = BITS,
    loss: Callable[[object, dict[str, Tensor]], Tensor] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """What rounding does to the model, at [what, bits]; `what` is weights, activations or both.

    change      |y' - y| / |y| of the last hidden states (or the logits) of the real tokens, L2 over all batches
    loss        mean over batches of loss(output, batch), if a loss was given, and plain, the same without rounding

    batches: keyword arguments of the model; attention_mask in them says which tokens are real.
    The measure is this lab's proxy for sensitivity to quantization; published ones use other quantizers.
    """
    if not len(batches):
        raise ValueError("no batches to run the model on")
    cases = [("none", 16)] + [(what, b) for what in WHAT for b in bits]
    found: dict[tuple[str, int], tuple[float, float]] = {}
    plain: list[Tensor] = []
    size = 0.0
    with torch.no_grad(), evaluating(model.model):
        for what, b in tqdm(cases, desc="rounding", unit="case", leave=False, disable=not progress):
            given = {"weights": b if what in ("weights", "both") else None}
            given["activations"] = b if what in ("activations", "both") else None
            far, losses = 0.0, []
            with ExitStack() as hold:
                if what != "none":
                    hold.enter_context(rounding(model, **given))
                for i, batch in enumerate(batches):
                    out = model.model(**batch)
                    state = _tokens(state_of(out), batch.get("attention_mask")).float().cpu()
                    if what == "none":
                        plain.append(state)
                        size += float(state.double().square().sum())
                    far += float((state - plain[i]).double().square().sum())
                    losses.append(float("nan") if loss is None else float(loss(out, batch)))
            found[what, b] = ((far / size) ** 0.5, sum(losses) / len(losses))
    data = {
        name: (("what", "bits"), [[found[what, b][i] for b in bits] for what in WHAT])
        for i, name in enumerate(("change", "loss"))
    }
    result = xr.Dataset(data, {"what": list(WHAT), "bits": list(bits)}).assign_attrs(model=model.name)
    result["plain"] = found["none", 16][1]
    return result if loss is not None else result.drop_vars(["loss", "plain"])


def _tokens(state: Tensor, mask: Tensor | None) -> Tensor:
    return state.flatten(0, 1) if mask is None or mask.shape != state.shape[:2] else state[mask.bool()]


def _linear(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """Linear layers, each with the axis of its weight that counts outputs."""
    from transformers.pytorch_utils import Conv1D

    return [(part, int(isinstance(part, Conv1D))) for part in model.modules() if isinstance(part, nn.Linear | Conv1D)]
