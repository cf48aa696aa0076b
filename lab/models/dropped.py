"""A model without some halves of its blocks: what attention or the feed-forward part adds is zero for a while."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lab.models.hooks import state_of
from lab.models.loaded import Loaded

PARTS = ("attention", "mlp")


@contextmanager
def without_parts(model: Any, parts: Mapping[str, Iterable[int]]) -> Iterator[Loaded]:
    """Inside the block these parts add nothing to the residual stream; yields the model.

        with lab.models.without_parts(model, {"attention": [3, 4], "mlp": [4]}) as shorter: ...

    Part i is the one inside the block whose output is layer i. The output of its last projection becomes zeros; the
    part is still evaluated, so this says what it is worth, and saves no time. A norm with a bias behind it, where a
    model has one, still adds that bias.

    TypeError: no model of lab.models. ValueError: an unknown part, a layer that has none that is known by structure
    (lab.capture.blocks shows what was found), and blocks that share their weights, where a part stands in several.
    """
    if not isinstance(model, Loaded):
        raise TypeError(f"expected a model from lab.models.load, tiny or wrap; got {type(model).__name__}")
    if unknown := parts.keys() - set(PARTS):
        raise ValueError(f"no part {sorted(unknown)}; there are {list(PARTS)}")
    places = [place for part, layers in parts.items() for place in model.places_of(list(layers), part)]
    runs = Counter(place.module for part in PARTS for place in model.places.get(part, ()))
    if shared := sorted({place.module for place in places if runs[place.module] > 1}):
        raise ValueError(f"{model.name} runs {shared} in several layers: a part of one cannot be left out alone")
    modules = dict(model.model.named_modules())
    with ExitStack() as hooks:
        for place in places:
            hooks.callback(modules[place.module].register_forward_hook(_nothing).remove)
        yield model


def _nothing(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
    zero = torch.zeros_like(state_of(output))
    return (zero, *output[1:]) if isinstance(output, tuple) else zero
