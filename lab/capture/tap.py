"""Watching raw states go by: hooks that cannot outlive their `with` block."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pandas as pd
from torch import Tensor, nn

from lab.capture.checks import checked_model
from lab.models import SITES, Loaded
from lab.models.hooks import after
from lab.models.loaded import refuse_wrapped
from lab.models.places import Place


def blocks(model: Any) -> pd.DataFrame:
    """Which module gives which layer, one row per layer: look here before you believe what was found by structure.

    module and class: where the state is taken, in the module's n-th run of a pass where it has several. width,
    normed: of the state. chained: the block took the state before it untouched, as it should; a stack that was
    mistaken for the blocks rarely does. Then, by its name inside the block, the module of every other site
    (lab.models.SITES) the model has, empty where a block has none. How the blocks were found is in .attrs["found"].
    """
    modules, rows = dict(checked_model(model).model.named_modules()), []
    for place in model.places["layer"]:
        where = place.module or f"(what the model returns, after {model.blocks[-1]})"
        row = {"module": f"input of {where}" if place.entering else where}
        row["class"] = "" if place.entering else type(modules[place.module]).__name__
        rows.append(row | {"run": place.run, "width": model.widths[place.layer], "normed": model.normed[place.layer]})
    table = pd.DataFrame(rows, index=pd.RangeIndex(model.depth + 1, name="layer"))
    table["chained"] = [True, *model.chained]
    for site, places in model.places.items():
        if site != "layer":
            shown = {place.layer: _shown(place, model.blocks[place.layer - 1]) for place in places}
            table[site] = pd.Series(shown)
            table[site] = table[site].fillna("")
    table.attrs["found"] = model.found
    return table


def _shown(place: Place, block: str) -> str:
    """The module's name inside its block, and which columns of what it returns."""
    name = place.module.removeprefix(block)
    return name if place.columns is None else f"{name}[{place.columns.start}:{place.columns.stop}]"


@contextmanager
def tap(model: Any, names: Any) -> Iterator[dict[str, Tensor]]:
    """Yield {name: its latest state, detached}, refilled by every forward pass made inside the `with` block.

    model: a Loaded one, or any nn.Module.
    names: for a Loaded model "layer.0" .. "layer.<depth>" (0 = embeddings, the last after the final norm) and the
    other sites of lab.models.SITES likewise ("query.3" is inside the block whose output is layer 3); for any model the
    dotted name of a submodule, whose (first) output is taken. States are not copied: a module that works in place
    later in the pass would change them.

    Raises TypeError for names that are not a list of strings and for what is no model, ValueError for unknown names
    and for compiled or data-parallel models, before any hook is set. Hooks are gone when the block is left, however.
    """
    if not isinstance(model, Loaded | nn.Module):
        raise TypeError(f"model must be what lab.models gives, or an nn.Module; got {type(model).__name__}")
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f'names must be a list of strings, such as ["layer.3"]; got {names!r}')
    module = model.model if isinstance(model, Loaded) else model
    refuse_wrapped(module)
    known = dict(module.named_modules())
    at = {name: parts for name in names if isinstance(model, Loaded) and (parts := _site(name))}
    if unknown := [name for name in names if name not in at and name not in known]:
        has = f"layer.0 .. layer.{model.depth}, " if isinstance(model, Loaded) else ""
        raise ValueError(f"no layer or submodule {unknown}; there are {has}submodules {[*known][1:9]} ...")
    for site, layer in at.values():
        model.places_of([layer], site)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda state: seen.__setitem__(name, state.detach())

    with ExitStack() as hooks:
        for name in names:
            if name in at:
                site, layer = at[name]
                see = keep(name)
                hooks.enter_context(model.watching(lambda _, state, see=see: see(state), [layer], site))
            else:
                hooks.callback(after(known[name], keep(name)).remove)
        yield seen


def _site(name: str) -> tuple[str, int] | None:
    """("query", 3) for "query.3"."""
    site, _, layer = name.partition(".")
    return (site, int(layer)) if site in SITES and layer.isdecimal() else None
