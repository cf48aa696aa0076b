"""Where in a model each hidden state is to be seen: one small vocabulary of sites, found by structure."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from lab.blocks import stated_class
from lab.models.examples import Inputs

SITES = {
    "layer": "the hidden states: what enters the first block (layer 0) and what leaves each",
    "attention": "what attention adds to the residual stream: the output of its last projection",
    "mlp": "what the feed-forward part adds: its output, or that of its last projection",
    "query": "queries, heads side by side, as projected: before rotary positions and norms",
    "key": "keys, likewise",
    "value": "values, likewise",
    "router": "a mixture of experts' router logits [B T, experts]",
}
NAMES = {
    "query": {"q", "query", "q_proj", "query_proj", "q_lin", "wq"},
    "key": {"k", "key", "k_proj", "key_proj", "k_lin", "wk"},
    "value": {"v", "value", "v_proj", "value_proj", "v_lin", "wv"},
}
FUSED = {"c_attn", "Wqkv", "qkv_proj", "qkv"}  # queries, then keys, then values; other orders are not guessed at
MLPS = {"mlp", "ffn", "feed_forward", "feedforward", "block_sparse_moe", "moe"}
CROSS = re.compile(r"cross|enc(oder)?_?(dec|attn)", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """The n-th run of a module in a forward pass, and what of it is the state of a layer."""

    layer: int
    module: str  # its dotted name, "" for the model itself
    run: int = 0
    entering: bool = False  # its first argument, not its output
    columns: slice | None = None  # of a projection that makes several things at once


def layer_places(blocks: Sequence[str], returns_state: bool) -> tuple[Place, ...]:
    """Layer 0 is what enters the first block, layer i what leaves block i - 1, the last what the model returns."""
    left = [Place(i + 1, name, blocks[:i].count(name)) for i, name in enumerate(blocks)]
    if returns_state:
        left[-1] = Place(len(blocks), "")
    return (Place(0, blocks[0], entering=True), *left)


def site_places(model: nn.Module, blocks: Sequence[str], example: Inputs) -> dict[str, tuple[Place, ...]]:
    """For each site but the layers themselves, its place in every block; a site no block has is left out.

    Layer i's place is inside block i - 1. What a block holds twice, or under a name not known here, is not guessed.
    """
    modules, order = dict(model.named_modules()), _projections(model, example)
    found: dict[str, list[Place]] = {}
    for i, block in enumerate(blocks):
        inside = [name for name in order if name.startswith(f"{block}.")]
        for site, (module, columns) in _sites(model, modules, block, inside).items():
            found.setdefault(site, []).append(Place(i + 1, module, blocks[:i].count(block), columns=columns))
    return {site: tuple(places) for site, places in found.items()}


def _projections(model: nn.Module, example: Inputs) -> list[str]:
    """The names of all linear modules, in the order of their first run."""
    ran: list[str] = []
    with ExitStack() as hooks, torch.inference_mode():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                hooks.callback(module.register_forward_hook(lambda *_, name=name: ran.append(name)).remove)
        model(**example)
    return list(dict.fromkeys(ran))


def _sites(
    model: nn.Module, modules: dict[str, nn.Module], block: str, inside: list[str]
) -> dict[str, tuple[str, slice | None]]:
    """{site: (module, columns)} of one block, from its projections in the order they run."""
    found: dict[str, tuple[str, slice | None]] = {}
    attentions = _outermost(modules, block, "attention") or _outermost(modules, block, "attn")
    own = [name for name in attentions if not CROSS.search(name.removeprefix(block) + type(modules[name]).__name__)]
    if len(own) == 1:
        projections = [name for name in inside if name.startswith(f"{own[0]}.")]
        if projections:
            found["attention"] = projections[-1], None
            found |= _heads(modules, projections)
    stated = stated_class(model, "router_logits")
    routers = [
        name for name in modules if name.startswith(f"{block}.") and stated and isinstance(modules[name], stated)
    ]
    if len(routers) == 1:
        found["router"] = routers[0], None
    mlps = [name for name, part in modules.items() if name.startswith(f"{block}.") and _is_mlp(name, part)]
    rest = [name for name in inside if not any(name.startswith(f"{attention}.") for attention in attentions)]
    if len(mlps) == 1:
        own_rest = [name for name in rest if name.startswith(f"{mlps[0]}.")]
        # experts' outputs are mixed by the module around them; elsewhere that may add the stream already (bloom)
        found["mlp"] = (own_rest[-1] if own_rest and not routers else mlps[0]), None
    elif not mlps and len(own) == 1 and rest:
        found["mlp"] = rest[-1], None
    return found


def _is_mlp(name: str, part: nn.Module) -> bool:
    return name.rsplit(".", 1)[-1].lower() in MLPS and any(True for _ in part.children())


def _outermost(modules: dict[str, nn.Module], block: str, word: str) -> list[str]:
    """The modules in a block whose class has this word in its name, but none that stands inside another."""
    hits = [
        name for name, part in modules.items() if name.startswith(f"{block}.") and word in type(part).__name__.lower()
    ]
    return [name for name in hits if not any(name.startswith(f"{other}.") for other in hits)]


def _heads(modules: dict[str, nn.Module], projections: list[str]) -> dict[str, tuple[str, slice | None]]:
    """Queries, keys and values: of modules of their own, or columns of one that makes all three."""
    last = {name: name.rsplit(".", 1)[-1] for name in projections}
    own = {site: [name for name in projections if last[name] in names] for site, names in NAMES.items()}
    if all(len(names) == 1 for names in own.values()):
        return {site: (names[0], None) for site, names in own.items()}
    fused = [name for name in projections if last[name] in FUSED]
    if len(fused) != 1:
        return {}
    width, queries = _width(modules[fused[0]], "out"), _width(modules[projections[-1]], "in")
    keys = (width - queries) // 2  # fewer than queries where heads share them
    bounds = {"query": slice(0, queries), "key": slice(queries, queries + keys), "value": slice(queries + keys, width)}
    return {site: (fused[0], columns) for site, columns in bounds.items()}


def _width(projection: nn.Module, side: str) -> int:
    if isinstance(projection, nn.Linear):
        return projection.out_features if side == "out" else projection.in_features
    return projection.weight.shape[1 if side == "out" else 0]  # GPT-2's Conv1D keeps its weight the other way round
