"""Every attention layer of a model, whatever its family, as one call that can be answered otherwise."""

import inspect
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.attention.precision import exact
from lab.attention.visible import Visible, asked, given
from lab.models import Loaded
from lab.models.hooks import evaluating

_numbers = itertools.count()


@dataclass(frozen=True, eq=False)
class Call:
    """What one attention layer asks for; whoever answers returns [B, Tq, H, D], as transformers' functions do."""

    module: nn.Module
    layer: int  # of the block it stands in, numbered as the layer it makes: 1 is the first, 0 is outside of the blocks
    cross: bool  # keys and values come from another sequence
    query: Float[Tensor, "B H Tq D"]
    key: Float[Tensor, "B K Tk D"]  # H is a multiple of K: query head h reads key head h // (H // K)
    value: Float[Tensor, "B K Tk Dv"]
    visible: Visible
    scaling: float
    softcap: float | None  # scores become softcap tanh(score / softcap)
    bias: Tensor | None  # added to the scaled scores, broadcastable to [B, H, Tq, Tk]
    sink: Float[Tensor, " H"] | None  # one more logit per head, of a key without a value
    dropout: float  # what the layer asks for while it trains
    hidden: Tensor | None  # what entered the attention module
    own: Callable[[], Tensor] = field(repr=False)  # the model's own answer
    inside: Callable[["Call"], Tensor] | None = None  # who gives that, where it is not the model but an inner block

    @property
    def tokens(self) -> Bool[Tensor, "B Tk"]:
        """The keys that are real; of those the last Tq are the queries."""
        if self.visible.padding is not None:
            return self.visible.padding.to(self.key.device)
        return torch.ones(self.key.shape[0], self.key.shape[2], dtype=torch.bool, device=self.key.device)

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.query.shape[1] // self.key.shape[1]

    def scores(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "B H rows Tk"]:
        """Of queries start to stop - 1: q k scaling, capped, biased, not masked; float32, or wider if they are."""
        wide = torch.promote_types(self.query.dtype, torch.float32)
        query = self.query[:, :, start:stop].to(wide).unflatten(1, (self.key.shape[1], -1))  # [B, K, G, rows, D]
        with exact(self.query):
            scores = torch.einsum("bkgtd,bksd->bkgts", query, self.key.to(wide)).flatten(1, 2) * self.scaling
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            rows = self.bias if self.bias.shape[-2] == 1 else self.bias[..., start:stop, :]
            scores = scores + rows.to(wide)
        return scores


@contextmanager
def attending(model: Any, attend: Callable[[Call], Tensor]) -> Iterator[Loaded]:
    """Inside the block every attention layer of the model gives attend(call) in place of its own answer.

    The switch is transformers' attention interface, function and mask function together: with the first alone a model
    gets no mask and looks at its padding. The model's example is run at once, with its own answers, to see that every
    block with attention in it really asks. Blocks may be nested: the outer `own` is then the inner answer's caller's.
    All is restored when the block is left, however it is left.

    Raises TypeError for what lab.models did not load, ValueError for a model without attention and for one that goes
    on with its own (in transformers 5: bloom, falcon, deberta ...), with the blocks that did not ask; and, from the
    model's pass, for more tokens than a table of positions has.
    """
    if not isinstance(model, Loaded):
        raise TypeError(f"expected a model from lab.models.load, tiny or wrap; got {type(model).__name__}")
    switch = _Switch(model, attend)
    with ExitStack() as hold:
        switch.enter(hold)
        switch.try_out()
        yield model


class _Switch:
    """One change of a model's attention: who answers, what stood there before, and where in the pass it is."""

    def __init__(self, model: Loaded, attend: Callable[[Call], Tensor]) -> None:
        self.model, self.attend = model, attend
        self.before: dict[int, tuple[Any, str]] = {}  # id of a config: it, and its attention before
        self.hidden: dict[int, tuple[Tensor | None, bool]] = {}  # id of a module: what entered, and whether crossed
        self.layers = _layers_of(model)
        self.turns: Counter[int] = Counter()  # how often a module has asked in this pass
        self.ahead: dict[
            int, tuple[Tensor, Visible]
        ] = {}  # id of a mask that was made before the pass: it, and what of
        self.running = self.trying = False
        self.table = any(_has_places(name, part) for name, part in model.model.named_modules())

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
        self.before = {key: (config, config._attn_implementation) for key, config in configs.items()}
        for config, was in self.before.values():
            hold.callback(setattr, config, "_attn_implementation_internal", was)
            config._attn_implementation_internal = name
        hold.callback(self.model.model.register_forward_pre_hook(self.begins, with_kwargs=True).remove)
        hold.callback(self.model.model.register_forward_hook(self.ends, always_call=True).remove)
        for module in self.model.model.modules():
            if _attends(module):
                hold.callback(module.register_forward_pre_hook(self.enters, with_kwargs=True).remove)

    @torch.inference_mode()
    def try_out(self) -> None:
        asked_from: set[int] = set()

        def listen(call: Call) -> Tensor:
            asked_from.add(call.layer)
            return call.own()

        attend, self.attend, self.trying = self.attend, listen, True
        try:
            with evaluating(self.model.model):
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
        ids, known = kwargs.get(self.model.reads, args[0] if args else None), self.model.window
        if self.table and known is not None and isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] > known:
            raise ValueError(
                f"{self.model.name} has a table of {known} positions; got {ids.shape[1]} tokens in a row: cut them, "
                f"max_length={known}, or take a model that rotates its queries and keys"
            )
        self.turns.clear()
        self.running = True

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
        shape = query.shape[0], query.shape[2], key.shape[2]
        _, visible = self.ahead.get(id(attention_mask), (None, attention_mask))
        added = None
        if not isinstance(visible, Visible):
            visible, added = given(attention_mask, shape, query.device)
        elif (visible.batch, visible.queries, visible.keys) != shape:
            raise ValueError(
                f"{type(module).__name__} asks for {shape} with a mask of another shape, {visible.keys} keys"
            )
        bias = kwargs.get("position_bias")
        within = getattr(self.own(module), "__self__", None)
        layers = self.layers.get(id(module), [0])
        turn = self.turns[id(module)]
        self.turns[id(module)] += 1
        hidden, crossed = self.hidden.get(id(module), (None, False))
        scaling = kwargs.get("scaling")
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
            own=lambda: self.own(module)(module, query, key, value, visible.own, **kwargs)[0],
            inside=within.attend if isinstance(within, _Switch) else None,
        )
        return self.attend(call), None

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


def _config(module: nn.Module) -> Any | None:
    config = getattr(module, "config", None)
    return config if hasattr(config, "_attn_implementation_internal") else None


def _has_places(name: str, module: nn.Module) -> bool:
    """Whether a part of a model is a table of positions; gpt2's is called wpe."""
    return isinstance(module, nn.Embedding) and ("position" in name or name.endswith("wpe"))


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
