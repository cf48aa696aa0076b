"""A model together with the facts every measurement needs to know about it."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lab.blocks import find_blocks, named_blocks
from lab.models.examples import Inputs, tell_apart
from lab.models.hooks import after, before
from lab.models.layers import watching
from lab.models.places import SITES, Place, layer_places, site_places


@dataclass(frozen=True, eq=False)  # a model is itself, and no other of equal facts
class Loaded:
    """A model in eval mode and what was found out about it.

    Hidden states are numbered as everywhere in the lab: layer 0 is the embedding output (what enters the first
    block), layer i the output of block i - 1, and the last layer is taken after the model's final norm, if the model
    returns that state.
    """

    name: str  # as the user asked for it
    source: str  # the folder, the hub id with its commit, or how the random weights were drawn
    model: nn.Module
    tokenizer: Any  # None for models that do not read text
    blocks: tuple[str, ...]  # dotted names in forward order; one that runs n times stands here n times
    found: str  # how the blocks were found
    chained: tuple[bool, ...]  # one per block: did the state it took come, untouched, from the one before it?
    widths: tuple[int, ...]  # of each layer's states, embeddings first
    causal: bool  # found by running it: a later token never moves an earlier one
    normed: tuple[bool, ...]  # one per layer: was this state returned by a norm module?
    window: int | None  # the longest sequence in tokens, None where nothing limits it
    example: Inputs  # the small input these facts were found on
    places: dict[str, tuple[Place, ...]]  # where the states of each site are seen; of SITES those that were found
    recipe: Callable[[], "Loaded"] | None = None  # gives it again in another process, if it was loaded or drawn

    @property
    def depth(self) -> int:
        """The number of blocks; there are depth + 1 layers of hidden states."""
        return len(self.blocks)

    @property
    def dim(self) -> int:
        """The width of the hidden states, the last layer's where they differ."""
        return self.widths[-1]

    @property
    def reads(self) -> str:
        """The name of the model's main argument."""
        return next(iter(self.example))

    def takes(self, argument: str) -> bool:
        """Whether the model has an argument of this name; one that takes any, as adapters do, is believed to."""
        arguments = inspect.signature(self.model.forward).parameters
        return argument in arguments or any(p.kind == p.VAR_KEYWORD for p in arguments.values())

    @property
    def reads_tokens(self) -> bool:
        return not self.example[self.reads].is_floating_point()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def watching(
        self, see: Callable[[int, Tensor], None], layers: Sequence[int], site: str = "layer"
    ) -> AbstractContextManager[None]:
        """see(layer, state) for these layers, at a site of each, in every forward pass inside the `with` block."""
        refuse_wrapped(self.model)  # it may have been compiled since
        return watching(self.model, self.places_of(layers, site), see)

    def last_state(self, **inputs: Any) -> Tensor:
        """The last layer's state of one forward pass."""
        seen: dict[int, Tensor] = {}
        with self.watching(seen.__setitem__, [self.depth]):
            self.model(**inputs)
        return seen[self.depth]

    def widths_at(self, site: str = "layer") -> dict[int, int]:
        """The width of each layer's states at a site, found by running the example."""
        if site == "layer":
            return dict(enumerate(self.widths))
        found: dict[int, int] = {}
        layers = [place.layer for place in self.places.get(site, ())]
        with torch.inference_mode(), self.watching(lambda i, state: found.update({i: _width(state)}), layers, site):
            self.model(**self.example)
        return found

    def places_of(self, layers: Sequence[int], site: str = "layer") -> list[Place]:
        """The places of these layers; ValueError for a site or a layer that is not there."""
        if site not in SITES:
            raise ValueError(f"no site {site!r}; there are {list(SITES)}")
        there = {place.layer: place for place in self.places.get(site, ())}
        if missing := [layer for layer in layers if layer not in there]:
            raise ValueError(
                f"{self.name} has no site {site!r} that is known by structure in layer {missing}; in "
                f"{list(there)} it has. lab.capture.blocks shows what was found, and lab.capture.tap takes any module "
                "by its own name"
            )
        return [there[layer] for layer in layers]

    def __repr__(self) -> str:
        sight = "causal" if self.causal else "bidirectional"
        size = sum(p.numel() for p in self.model.parameters()) / 1e6
        width = self.dim if len(set(self.widths)) == 1 else "-".join(map(str, self.widths))
        return (
            f"{self.name}: {type(self.model).__name__}, {size:.1f} M parameters on {self.device}\n"
            f"{self.depth} blocks {self.blocks[0]} .. {self.blocks[-1]}, {width} wide, {sight}, window {self.window}"
        )


def describe(
    name: str,
    source: str,
    model: nn.Module,
    tokenizer: Any,
    window: int | None,
    *,
    blocks: Iterable[str] | None = None,
    example: Inputs | None = None,
) -> Loaded:
    """Find the blocks and, by running the model on a small input, what its layers are.

    blocks: dotted names, where the user knows better. example: the model's keyword arguments; made up from the
    config of a transformers model that takes `input_ids` or `pixel_values` alone.

    Raises ValueError for a model whose input cannot be made up, whose blocks cannot be found or never run, or whose
    config states another number of layers; and for a compiled or a data-parallel one.
    """
    refuse_wrapped(model)
    model = model.eval()
    names, found = find_blocks(model) if blocks is None else named_blocks(model, blocks)
    first, flipped = tell_apart(model, example)
    ran, output = _order(model, names, first)
    if silent := [name for name in names if name not in ran]:
        raise ValueError(f"the blocks {silent} never ran; name those that do with blocks=[...] ({found})")
    stated = getattr(getattr(model, "config", None), "num_hidden_layers", len(ran))
    if blocks is None and isinstance(stated, int) and stated != len(ran):
        raise ValueError(
            f"{len(ran)} blocks ran, {names[0]} to {names[-1]} ({found}), where the config of {type(model).__name__} "
            f"states {stated} layers; name them with blocks=[...]"
        )
    returns_state = isinstance(output, dict) and "last_hidden_state" in output
    states, normed, chained = _layers(model, ran, returns_state, first)
    causal = flipped is not None and _causal(states, _layers(model, ran, returns_state, flipped)[0])
    widths = tuple(map(_width, states))
    places = {"layer": layer_places(ran, returns_state)} | site_places(model, ran, first)
    return Loaded(name, source, model, tokenizer, ran, found, chained, widths, causal, normed, window, first, places)


def refuse_wrapped(model: nn.Module) -> None:
    """ValueError for modules whose hooks would not run, or only for a part of the batch."""
    if isinstance(model, torch._dynamo.OptimizedModule) or model._compiled_call_impl is not None:
        raise ValueError(
            "this model was compiled, and compiled graphs pass hooks by: capture from the model it was compiled from "
            "(model._orig_mod), which shares its weights"
        )
    if parts := [name for name, part in model.named_modules() if _is_compiled(part)]:
        raise ValueError(
            f"{len(parts)} parts of this model were compiled, the first {parts[0] or 'its forward'!r}, and compiled "
            "graphs pass hooks by: capture before they are compiled, or from a model loaded anew"
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"{type(model).__name__} splits its batches among replicas: pass the model inside, .module")


def _is_compiled(part: nn.Module) -> bool:
    """Compiled in place, wrapped, or with a compiled function for its forward."""
    wrapped = isinstance(part, torch._dynamo.OptimizedModule) or part._compiled_call_impl is not None
    return wrapped or hasattr(vars(part).get("forward"), "_torchdynamo_orig_callable")


def _order(model: nn.Module, names: tuple[str, ...], example: Inputs) -> tuple[tuple[str, ...], Any]:
    """The names in the order in which the modules run, each as often as it does; and what the model returned."""
    ran: list[str] = []
    modules = dict(model.named_modules())
    with ExitStack() as hooks, torch.inference_mode():
        for name in names:
            hooks.callback(modules[name].register_forward_hook(lambda *_, name=name: ran.append(name)).remove)
        output = model(**example)
    return tuple(ran), output


@torch.inference_mode()
def _layers(
    model: nn.Module, blocks: tuple[str, ...], returns_state: bool, example: Inputs
) -> tuple[list[Tensor], tuple[bool, ...], tuple[bool, ...]]:
    """All states of one small input; which a norm module returned; which blocks took the state before them as it was.

    States are told apart by identity of memory: they are held, so no address is used twice during the pass.
    """
    states: dict[int, Tensor] = {}
    taken: list[Tensor] = []
    norms: list[Tensor] = []
    modules = dict(model.named_modules())
    with ExitStack() as hooks:
        for module in modules.values():
            if "norm" in type(module).__name__.lower():
                hooks.callback(after(module, norms.append).remove)
        for name in dict.fromkeys(blocks):
            hooks.callback(before(modules[name], taken.append).remove)
        hooks.enter_context(
            watching(model, layer_places(blocks, returns_state), lambda i, state: states.update({i: state}))
        )
        model(**example)
    found = [states[i] for i in range(len(blocks) + 1)]
    returned = {tensor.data_ptr() for tensor in norms}
    chained = tuple(a.data_ptr() == b.data_ptr() for a, b in zip(taken, found[:-1], strict=True))
    return found, tuple(state.data_ptr() in returned for state in found), chained


def _width(state: Tensor) -> int:
    """The channels of a map [B, C, H, W], the last axis of everything else."""
    return state.shape[1 if state.ndim == 4 else -1]


def _causal(states: list[Tensor], moved: list[Tensor]) -> bool:
    """Whether the first token stayed where it was when the last one was another."""
    far = (states[-1] - moved[-1])[0, 0].abs().max()
    # a mixture of experts may regroup tokens and round differently, hence not exactly zero
    return bool(far <= 4 * torch.finfo(states[-1].dtype).eps * states[-1].abs().max())
