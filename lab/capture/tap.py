"""Watching hidden states go by: hooks that cannot outlive their `with` block."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pandas as pd
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lab.models import Loaded
from lab.models.hooks import after, before


def blocks(model: Loaded) -> pd.DataFrame:
    """Which module gives which layer: one row per layer with the module's name, its class and whether it is normed."""
    modules = dict(model.model.named_modules())
    names = [*model.blocks[:-1], ""]  # the last layer is what the whole model returns
    rows = [(f"input of {model.blocks[0]}", "")] + [
        (name or f"output of the model, after {model.blocks[-1]}", type(modules[name]).__name__) for name in names
    ]
    table = pd.DataFrame(rows, columns=["module", "class"]).rename_axis("layer")
    return table.assign(normed=model.normed)


@contextmanager
def tap(model: Loaded | nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield {name: its latest state, detached}, refilled by every forward pass made inside the `with` block.

    names: for a Loaded model "layer.0" .. "layer.<depth>" (0 = embeddings, the last after the final norm), and for
    any model the dotted name of a submodule, whose (first) output is taken. States are not copied: a module that
    works in place later in the pass would change them.

    Raises ValueError for unknown names, before any hook is set. Hooks are gone when the block is left, however.
    """
    module = model.model if isinstance(model, Loaded) else model
    known = dict(module.named_modules())
    layers = {f"layer.{i}": i for i in range(model.depth + 1)} if isinstance(model, Loaded) else {}
    if unknown := [name for name in names if name not in layers and name not in known]:
        has = f"layer.0 .. layer.{len(layers) - 1}, " if layers else ""
        raise ValueError(f"no layer or submodule {unknown}; there are {has}submodules {[*known][1:9]} ...")
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda state: seen.__setitem__(name, state.detach())

    with ExitStack() as hooks:
        for name in names:
            handle = watch(model, layers[name], keep(name)) if name in layers else after(known[name], keep(name))
            hooks.callback(handle.remove)
        yield seen


def watch(model: Loaded, layer: int, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Call see(state) with the [B, T, D] state of a layer, 0 to depth, in every forward pass of model.model."""
    modules = dict(model.model.named_modules())
    if layer == 0:
        return before(modules[model.blocks[0]], see)
    if layer == model.depth:  # the model returns it after its final norm, whatever that is called
        return after(model.model, see)
    return after(modules[model.blocks[layer - 1]], see)
