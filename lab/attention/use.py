"""Another normalizer in each attention layer of a model, for as long as a block runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from lab.attention.answer import Answer
from lab.attention.call import Call
from lab.attention.calls import attending
from lab.attention.chunks import Rows
from lab.attention.normalizer import Normalizer, taken, wants
from lab.attention.normalizers import NORMALIZERS
from lab.models import Loaded

PLACE = "normalizer"  # the name that a layer's parameters have in its attention module


@contextmanager
def use(model: Any, name: str, **options: Any) -> Iterator[Loaded]:
    """Inside the block every attention layer of the model weighs its keys by NORMALIZERS[name]; yields the model.

        with lab.attention.use(model, "ssmax", s=0.5) as sharper:
            sharper.model(**inputs)

    options: the normalizer's parameters, as `alpha=1.2` for entmax. For one that training moves, a number is its
    initial value. Complete rows are evaluated, some queries at a time, so memory grows with the length and not with its
    square, for the gradient too; it is exact, and slower than a fused softmax. Shared keys, padding, windows, caps,
    position biases and the model's own mask are the model's; sink logits go where a normalizer has a place for them.

    What training moves stands in each attention module as `normalizer.<parameter>`, float32 or wider, one number for
    each head [H, 1, 1] unless the normalizer says otherwise, and is in model.parameters() and state_dict() inside the
    block. Behind it the model is as it was: to keep the parameters, take model.state_dict() inside, and load it inside
    a later block of the same normalizer. A block inside another one stands in the inner one's place.

    The example is run once when the block is entered, so refusals come at once. TypeError: no model of lab.models, a
    name that is no string.
    ValueError: an unknown name or option; a model without attention or outside transformers' interface, as bloom and
    falcon; a model that this normalizer does not fit: sink logits with any but softmax and gated, a bias or a cap with
    linear attention, cached keys or cross-attention with multi-token attention.
    """
    normalizer = _known(name, options)
    with ExitStack() as hold:
        hold.enter_context(attending(model, Using(normalizer, options, hold), rehearse=True))
        yield model


class Using:
    """Answers a call by one normalizer; `answer` and `computed` are for who wants the weights behind it."""

    def __init__(self, normalizer: Normalizer, options: dict[str, Any], hold: ExitStack) -> None:
        self.normalizer, self.options, self.hold = normalizer, options, hold
        self.made: dict[int, nn.ParameterDict] = {}  # id of a module: what it learns

    def __call__(self, call: Call) -> Tensor:
        return self.answer(call).output()

    def computed(self, call: Call) -> tuple[Call, Rows]:
        answer = self.answer(call)
        return call, Rows(answer.weights, to_one=answer.has_sink)

    def answer(self, call: Call) -> Answer:
        if self.normalizer.learned is None:
            return Answer(self.normalizer, call, self.options)
        if id(call.module) not in self.made:
            self.made[id(call.module)] = _attached(self.hold, call, self.normalizer, self.options)
        return Answer(self.normalizer, call, self.options | dict(self.made[id(call.module)]))


def _known(name: str, options: dict[str, Any]) -> Normalizer:
    if not isinstance(name, str):
        raise TypeError(f"a normalizer is called by its name, one of {', '.join(NORMALIZERS)}; got {name!r}")
    if name not in NORMALIZERS:
        near = get_close_matches(name, NORMALIZERS, n=1)
        hint = f"did you mean {near[0]!r}? There" if near else "there"
        raise ValueError(f"no normalizer {name!r}; {hint} are {', '.join(NORMALIZERS)}")
    normalizer = NORMALIZERS[name]
    stages = (normalizer.form, normalizer.learned, normalizer.before, normalizer.rows, normalizer.after)
    known = set().union(*map(wants, stages)) - {"positions"}  # the layer knows them
    if normalizer.learned is None:
        known -= {"sink"}  # the model's own; sink_logit learns one
    if unknown := options.keys() - known:
        raise ValueError(f"{name} has no option {sorted(unknown)}; it has {sorted(known) or 'none'}")
    return normalizer


def _attached(hold: ExitStack, call: Call, normalizer: Normalizer, options: dict[str, Any]) -> nn.ParameterDict:
    """The layer's parameters at their initial values, in the attention module until the block is left."""
    wide = torch.promote_types(call.query.dtype, torch.float32)
    with torch.inference_mode(False):
        first = normalizer.learned(call, **taken(normalizer.learned, options))
        for key in first.keys() & options.keys():
            first[key] = torch.as_tensor(options[key]).expand_as(first[key]).clone()
        placed = {k: nn.Parameter(v.to(call.query.device, wide)) for k, v in first.items()}
        parameters = nn.ParameterDict(placed)
    module = call.module
    before = module._modules.get(PLACE)
    if before is None and hasattr(module, PLACE):
        raise ValueError(f"{type(module).__name__} has something else under the name {PLACE!r}")
    module.add_module(PLACE, parameters)
    hold.callback(_restore, module, before)
    return parameters


def _restore(module: nn.Module, before: nn.Module | None) -> None:
    if before is None:
        del module._modules[PLACE]
    else:
        module._modules[PLACE] = before
