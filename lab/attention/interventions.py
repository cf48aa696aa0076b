"""What happens without the sink: hide its keys, set its massive activations, or let heads look at nothing."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import xarray as xr
from torch import Tensor, nn

from lab.attention.call import Call
from lab.attention.calls import attending
from lab.attention.chunks import weights_of
from lab.attention.precision import dtype_asked, exact
from lab.models import Loaded

ELEMENTS = 2**20  # weights in memory at a time, 4 MiB in float32


@contextmanager
def without_keys(
    model: Loaded, positions: Sequence[int] = (1,), layers: Sequence[int] | None = None
) -> Iterator[Loaded]:
    """Inside the block no query sees the keys at these positions, which count from 1 at the first real token.

    Weights are made whole over the remaining keys; a query that sees none but those keeps them, as the first token
    keeps itself, or it would have nothing to say. layers: 1 is the first; None: all. Not with a cache.
    Raises ValueError for positions or layers that are not there, and as lab.attention.calls.attending.
    """
    if not positions or min(positions) < 1:
        raise ValueError(f"positions count from 1, the first real token; got {tuple(positions)}")
    chosen = _layers(model, layers)

    def without(call: Call) -> Call:
        _refuse_cache(call)
        real = call.visible.real(call.query.device)
        number = real.int().cumsum(1).masked_fill(~real, 0)
        hidden = torch.isin(number, torch.tensor(positions, device=number.device))
        return replace(call, visible=call.visible.without(hidden))

    with attending(model, Changed(chosen, without)):
        yield model


@contextmanager
def with_sink_logit(model: Loaded, logit: float | Tensor, layers: Sequence[int] | None = None) -> Iterator[Loaded]:
    """Inside the block every head has one more key, with this logit and no value: e^s_k / (e^logit + sum_j e^s_j).

    logit: a number, or one for each head [H]; 0 is softmax1, -inf changes nothing. gpt-oss learns it; for any model
    its output is multiplied by sigma(lse - logit). Raises ValueError as `without_keys`.
    """
    chosen = _layers(model, layers)

    def beside(call: Call) -> Call:
        wide = torch.promote_types(call.query.dtype, torch.float32)
        sink = torch.as_tensor(logit, device=call.query.device).to(wide)
        heads = call.query.shape[1]
        if sink.ndim and sink.shape != (heads,):
            raise ValueError(f"logit must be a number or one for each of {heads} heads; got {tuple(sink.shape)}")
        sink = sink.expand(heads)  # with the model's own, two keys without a value are as one
        return replace(call, sink=sink if call.sink is None else torch.logaddexp(call.sink.to(wide), sink))

    with attending(model, Changed(chosen, beside)):
        yield model


@contextmanager
def activations_set(
    model: Loaded, layer: int, places: Mapping[int, float] | xr.DataArray, position: int | None = None
) -> Iterator[Loaded]:
    """Inside the block these coordinates of a layer's states are a constant: {dim: value}, 0 for "set to zero".

    position: only at this token, from 1 at the first real one; None: at all. A cached token is set in the pass that
    brings it, and counted on from those before. Set to their mean, massive activations
    can be told from what they carry: LLaMA2-7B's perplexity stays, and is lost when they are set to zero (Sun et al.,
    2024, table 3, from third parties' notes). places may be lab.capture.moments(...)["mean"].sel(layer=..., dim=[...]).
    Raises ValueError for a layer or dims that are not there, or a layer after the final norm, which nothing reads; and,
    from the model's pass, for a mask that does not say which tokens are real.
    """
    if isinstance(places, xr.DataArray):
        places = dict(zip(places["dim"].values.tolist(), places.values.tolist(), strict=True))
    if not 1 <= layer < model.depth:
        raise ValueError(f"layer must be one that a block reads, 1 to {model.depth - 1}; got {layer}")
    if not places or not all(0 <= dim < model.widths[layer] for dim in places):
        raise ValueError(f"needed are dims from 0 to {model.widths[layer] - 1}; got {sorted(places)}")
    if position is not None and position < 1:
        raise ValueError(f"position counts from 1, the first real token; got {position}")
    name = model.blocks[layer - 1]
    if model.blocks.count(name) > 1:
        raise ValueError(f"{name} is run for several layers, and would be changed in all of them")
    mask, before = None, 0
    names = tuple(inspect.signature(model.model.forward).parameters)

    def begin(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        nonlocal mask, before
        given = dict(zip(names, args, strict=False)) | kwargs
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        before = 0 if cache is None else int(cache.get_seq_length())  # read now: the pass adds its own

    def change(_: nn.Module, args: tuple[object, ...], output: object) -> object:  # noqa: ARG001
        state = output[0] if isinstance(output, tuple) else output
        changed = state.clone()
        at = _at(state, mask, before, position)
        for dim, value in places.items():
            changed[..., dim] = torch.where(at, torch.as_tensor(value, dtype=state.dtype), state[..., dim])
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    block = dict(model.model.named_modules())[name]
    handles = [
        model.model.register_forward_pre_hook(begin, with_kwargs=True),
        block.register_forward_hook(change),
    ]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _at(state: Tensor, mask: object, before: int, position: int | None) -> Tensor:
    """bool [B, T]: the tokens whose coordinates are set; `before` them stand those of a cache."""
    B, T = state.shape[:2]
    real = torch.ones(B, before + T, dtype=torch.bool, device=state.device)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.shape != real.shape:
            got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(
                f"which tokens are real is read from attention_mask [B, tokens so far], here {[B, before + T]}; got "
                f"{got}: pass that, or none where nothing is padded"
            )
        real = mask.to(state.device).bool()
    chosen = real if position is None else real & (real.int().cumsum(1) == position)
    return chosen[:, before:]


def _layers(model: Loaded, layers: Sequence[int] | None) -> set[int]:
    chosen = set(range(1, model.depth + 1) if layers is None else layers)
    if unknown := chosen - set(range(1, model.depth + 1)):
        raise ValueError(f"no attention in layer {sorted(unknown)}; blocks make the layers 1 to {model.depth}")
    return chosen


def _refuse_cache(call: Call) -> None:
    if call.query.shape[2] != call.key.shape[2]:
        raise ValueError("positions are counted in a pass over the whole text: pass use_cache=False")


class Changed:
    """Answers the calls of some layers by the softmax of a changed one; `computed` is for who wants the weights."""

    def __init__(self, layers: set[int], change: Callable[[Call], Call]) -> None:
        self.layers, self.change = layers, change

    def __call__(self, call: Call) -> Tensor:
        if call.cross or call.layer not in self.layers:
            return call.own()
        return _answer(self.change(call))

    def computed(self, call: Call) -> tuple[Call, None]:
        return self.change(call), None


def _answer(call: Call) -> Tensor:
    """The softmax of a call's scores times values, some rows at a time, in float32 inside: [B, Tq, H, Dv]."""
    asked = dtype_asked(call.query)
    with exact(call.query):
        return _rows_of(call).to(asked)


def _rows_of(call: Call) -> Tensor:
    (B, H, Tq, _), Tk = call.query.shape, call.key.shape[2]
    wide = torch.promote_types(call.value.dtype, torch.float32)
    values = call.value.to(wide).repeat_interleave(H // call.value.shape[1], 1)
    values = torch.where(_kept(call, values), values, 0)
    step, outs = max(1, ELEMENTS // max(1, B * H * Tk)), []
    for start in range(0, Tq, step):
        stop = min(start + step, Tq)
        visible = call.visible.rows(start, stop).to(call.query.device)
        weights, _ = weights_of(call, None, start, stop, visible.expand(-1, H, -1, -1))
        weights = nn.functional.dropout(weights.to(values.dtype), call.dropout, call.module.training)
        outs.append(weights @ values)
    return torch.cat(outs, 2).transpose(1, 2).contiguous()


def _kept(call: Call, values: Tensor) -> Tensor:
    """Values that are tokens': what stands in padding may be anything."""
    padding = call.visible.padding
    return torch.ones_like(values[..., :1], dtype=torch.bool) if padding is None else padding[:, None, :, None]
