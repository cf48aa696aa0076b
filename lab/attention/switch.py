"""One change of a model's attention: from the interface of transformers to a `Call`, and who answers it."""

import inspect
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lab.attention.call import Asked, Call
from lab.attention.visible import Visible, asked, given
from lab.models import Loaded
from lab.models.hooks import evaluating

_numbers = itertools.count()


class Switch:
    """One change of a model's attention: who answers, what stood there before, and where in the pass it is."""

    def __init__(self, model: Loaded, attend: Callable[[Call], Tensor], listens: bool) -> None:
        self.model, self.attend, self.listens = model, attend, listens
        self.before: dict[int, tuple[Any, str]] = {}  # id of a config: it, and its attention before
        self.hidden: dict[int, tuple[Tensor | None, bool]] = {}  # id of a module: what entered, and whether crossed
        self.layers = _layers_of(model)
        self.turns: Counter[int] = Counter()  # how often a module has asked in this pass
        self.ahead: dict[
            int, tuple[Tensor, Visible]
        ] = {}  # id of a mask that was made before the pass: it, and what of
        self.running = self.trying = False
        self.table = any(_has_places(name, part) for name, part in model.model.named_modules())

    def __deepcopy__(self, memo: dict[int, Any]) -> "Switch":
        raise TypeError(
            f"{self.model.name} cannot be copied inside a block that changes or watches its attention, which the copy "
            "would never leave: copy it before the block or behind it"
        )

    def enter(self, hold: ExitStack) -> None:
        from transformers.masking_utils import AttentionMaskInterface
        from transformers.modeling_utils import AttentionInterface

        configs = {id(c): c for m in self.model.model.modules() if (c := _config(m)) is not None}
        if not configs:
            raise ValueError(f"{self.model.name} is no transformers model: it has no attention that can be exchanged")
        name = f"lab_attention_{next(_numbers)}"  # transformers gives "flash", "sdpa" and "/" in a name a meaning
        for interface, function in ((AttentionInterface, self.answer), (AttentionMaskInterface, self.mask)):
            interface._global_mapping[name] = function
            hold.callback(interface._global_mapping.pop, name)
        hold.callback(self.leave, name)
        for key, config in configs.items():
            first = None if self.listens else [s for s in _switches(config) if s.listens]
            self.before[key] = (config, first[-1].before[key][1] if first else config._attn_implementation)
            _put(config, first[-1] if first else None, name)
        hold.callback(self.model.model.register_forward_pre_hook(self.begins, with_kwargs=True).remove)
        hold.callback(self.model.model.register_forward_hook(self.ends, always_call=True).remove)
        for module in self.model.model.modules():
            if _attends(module):
                hold.callback(module.register_forward_pre_hook(self.enters, with_kwargs=True).remove)

    def leave(self, name: str) -> None:
        from transformers.modeling_utils import AttentionInterface

        for key, (config, was) in self.before.items():
            # of all blocks: whoever set the model's attention otherwise inside has cut it from the config
            known = [switch for other in AttentionInterface._global_mapping if (switch := _switch(other))]
            above = [switch for switch in known if key in switch.before and switch.before[key][1] == name]
            _put(config, above[0] if above else None, was)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the block the example may be run: no other block is asked, or hears that this one is."""
        others = {id(s): s for config, _ in self.before.values() for s in _switches(config) if s is not self}
        kept = [(switch, switch.attend) for switch in others.values()]
        for switch in others.values():
            switch.attend = _pass_on
        try:
            with torch.inference_mode(), evaluating(self.model.model):
                yield
        finally:
            for switch, attend in kept:
                switch.attend = attend

    def try_out(self) -> None:
        asked_from: set[int] = set()

        def listen(call: Call) -> Tensor:
            asked_from.add(call.layer)
            return call.own()

        attend, self.attend, self.trying = self.attend, listen, True
        try:
            with self.alone():
                self.model.model(**self.model.example)
        finally:
            self.attend, self.trying = attend, False
        modules = dict(self.model.model.named_modules())
        holds = [any(_attends(part) for part in modules[name].modules()) for name in self.model.blocks]
        silent = [name for i, name in enumerate(self.model.blocks) if holds[i] and i + 1 not in asked_from]
        if silent or not asked_from:
            kind = type(self.model.model).__name__
            raise ValueError(
                f"{kind} does not ask transformers' attention interface in {silent or 'any of its blocks'}, so its "
                "attention cannot be exchanged or watched; llama, gpt2, bert, vit and most families of transformers can"
            )

    def begins(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.refuse(args, kwargs)
        self.turns.clear()
        self.running = True

    def refuse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What this pass cannot be: too long for a table of positions, or one whose attention is not asked here."""
        ids, known = kwargs.get(self.model.reads, args[0] if args else None), self.model.window
        states = kwargs.get("inputs_embeds")
        given = [x.shape[1] for x, axes in ((ids, 2), (states, 3)) if isinstance(x, Tensor) and x.ndim == axes]
        if self.table and known is not None and given and max(given) > known:
            raise ValueError(
                f"{self.model.name} has a table of {known} positions; got {max(given)} tokens in a row: cut them, "
                f"max_length={known}, or take a model that rotates its queries and keys"
            )
        for config, _ in self.before.values():
            if self not in _switches(config):
                raise ValueError(
                    f"the attention of {self.model.name} was set to {config._attn_implementation!r} inside a block "
                    "that changes or watches it: call set_attn_implementation before the block is opened"
                )
        asked = kwargs.get("output_attentions")
        if asked or (asked is None and any(config.output_attentions for config, _ in self.before.values())):
            raise ValueError(
                "output_attentions=True has no matrices to give inside a block that changes or watches attention: "
                "lab.attention.pattern returns those of a layer, lab.attention.watch their statistics"
            )

    def ends(self, *_: Any) -> None:
        self.ahead.clear()
        self.running = False

    def enters(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs
        state = next(iter(named.values()), None)
        own = inspect.signature(module.forward).parameters
        crossed = any(named.get(key) is not None for key in ("key_value_states", "encoder_hidden_states") if key in own)
        self.hidden[id(module)] = (state if isinstance(state, Tensor) else None), crossed

    def mask(self, **request: Any) -> Any:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

        own = ALL_MASK_ATTENTION_FUNCTIONS[self.before[id(request["config"])][1]]
        # a model that never asks would add a Visible to its scores, and fail before it is seen to be one
        if self.trying:
            return own(**request)
        visible = asked(own, **request)
        if self.running:
            return visible
        # generation with a cache of fixed size asks before the pass, and hands the model what must be a tensor
        made = visible.rows(0, visible.queries).contiguous()
        self.ahead[id(made)] = made, visible
        return made

    def answer(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        path: list[Asked | None] = []
        try:
            return self.respond(path, module, query, key, value, attention_mask, kwargs), None
        finally:
            path.clear()  # its calls know it: they would hold their keys until garbage is collected

    def respond(
        self,
        path: list[Asked | None],
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        kwargs: dict[str, Any],
    ) -> Tensor:
        shape = query.shape[0], query.shape[2], key.shape[2]
        _, visible = self.ahead.get(id(attention_mask), (None, attention_mask))
        added = None
        if not isinstance(visible, Visible):
            visible, added = given(attention_mask, shape, query.device)
        elif (visible.batch, visible.queries, visible.keys) != shape:
            raise ValueError(
                f"{type(module).__name__} asks for {shape} with a mask of another shape, {visible.keys} keys"
            )
        function = self.own(module)
        within = getattr(function, "__self__", None)
        within = within if isinstance(within, Switch) else None
        if self.implementation(module) != "eager":  # the others look which way to see, where they get no mask
            visible = visible.towards(getattr(module, "is_causal", True), kwargs.get("is_causal"))
        bias = kwargs.get("position_bias")
        layers = self.layers.get(id(module), [0])
        turn = self.turns[id(module)]
        self.turns[id(module)] += 1
        hidden, crossed = self.hidden.get(id(module), (None, False))
        scaling = kwargs.get("scaling")

        def own() -> Tensor:
            if within is not None:
                return within.respond(path, module, query, key, value, visible.own, kwargs)
            path.append(None)
            return function(module, query, key, value, visible.own, **kwargs)[0]

        call = Call(
            module=module,
            layer=layers[turn % len(layers)],
            cross=crossed,
            query=query,
            key=key,
            value=value,
            visible=visible,
            scaling=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
            softcap=kwargs.get("softcap"),
            bias=added if bias is None else bias if added is None else bias + added,
            sink=kwargs.get("s_aux"),
            dropout=kwargs.get("dropout", 0.0),
            hidden=hidden,
            own=own,
            inside=None if within is None else within.attend,
            path=path,
        )
        path.append(Asked(self.attend, call))
        return self.attend(call)

    def own(self, module: nn.Module) -> Callable[..., tuple[Tensor, Any]]:
        """The function this module would have called."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        was = self.before[id(_config(module))][1]
        if was != "eager":
            return ALL_ATTENTION_FUNCTIONS[was]
        for kind in type(module).__mro__:  # a family's eager function stands beside its attention class
            if found := getattr(sys.modules[kind.__module__], "eager_attention_forward", None):
                return found
        raise ValueError(f"no eager_attention_forward beside {type(module).__name__}, which asks for it")

    def implementation(self, module: nn.Module) -> str:
        """What the model computes with by itself, behind all blocks: "sdpa", "eager" ..."""
        config = _config(module)
        return ([*_switches(config)][-1]).before[id(config)][1]


def _switches(config: Any) -> Iterator[Switch]:
    """The blocks that a config's attention goes through, the first asked first."""
    name = config._attn_implementation
    while (switch := _switch(name)) is not None:
        yield switch
        name = switch.before[id(config)][1]


def _switch(name: str) -> Switch | None:
    from transformers.modeling_utils import AttentionInterface

    switch = getattr(AttentionInterface._global_mapping.get(name), "__self__", None)
    return switch if isinstance(switch, Switch) else None


def _put(config: Any, above: Switch | None, name: str) -> None:
    """Lets this name be asked next: by a block that stands above it, or by the model."""
    if above is None:
        config._attn_implementation_internal = name
    else:
        above.before[id(config)] = (config, name)


def _pass_on(call: Call) -> Tensor:
    return call.own()


def _config(module: nn.Module) -> Any | None:
    config = getattr(module, "config", None)
    return config if hasattr(config, "_attn_implementation_internal") else None


def _has_places(name: str, module: nn.Module) -> bool:
    """Whether a part of a model is a table of positions; gpt2's is called wpe, the lab's own decoder's places."""
    return isinstance(module, nn.Embedding) and ("position" in name or name.endswith(("wpe", "places")))


def _attends(module: nn.Module) -> bool:
    """Whether a module is attention itself: it is called so and knows its config, where the switch lies."""
    return "attention" in type(module).__name__.lower() and not isinstance(module, nn.MultiheadAttention)


def _layers_of(model: Loaded) -> dict[int, list[int]]:
    """For each module inside a block, the layers that block makes: more than one where a block is run again."""
    layers: dict[int, list[int]] = {}
    modules = dict(model.model.named_modules())
    for i, name in enumerate(model.blocks):
        for part in modules[name].modules():
            layers.setdefault(id(part), []).append(i + 1)
    return layers
