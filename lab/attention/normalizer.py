"""What turns a row of scores into weights, with what it says of itself: one contract for all of them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lab.attention.precision import exact
from lab.attention.stream import Blocks


@dataclass(frozen=True)
class Normalizer:
    """weights = normalizer(scores, mask): rows over the last axis, a key's weight exactly 0 where it may not be seen.

    Most need the scores alone, and `form` is all they are. What else one does in a layer stands in stages, each a
    function that is given the call (lab.attention.call.Call) and those of the parameters that it names:

        learned(call)         the parameters that training moves, {name: initial value}
        before(call)          the call with other queries, keys, values or scale
        rows(call)            {name: [B, H, Tq, 1]}, arguments of the form that differ from query to query
        form(scores, mask)    scores [..., Tq, Tk] to weights
        after(out, call)      the layer's output [B, Tq, H, D]

    so softmax is its form, gated attention softmax and an `after`, a length-scaled softplus a `before` and its form.
    Parameters broadcast against the scores: one number for each head is [H, 1, 1]. Without any, the form takes the
    initial ones.
    """

    form: Callable[..., Tensor]  # on finite wide scores, 0 where masked, and a mask of the same shape
    formula: str
    source: str
    mass: str  # what a row's weights sum to: "1", "at most 1" or "any"
    learned: Callable[..., dict[str, Tensor]] | None = None
    before: Callable[..., Any] | None = None
    rows: Callable[..., dict[str, Tensor]] | None = None
    after: Callable[..., Tensor] | None = None
    halo: Callable[..., int] | None = None  # how many queries in front of its own a row reads; None: none
    stream: Blocks | None = None  # the same in blocks of keys; None: a row must be seen whole
    aligned: bool = False  # row i must be token i: a lone query beside cached keys is refused

    def __post_init__(self) -> None:
        assert self.mass in {"1", "at most 1", "any"}

    def weights(self, scores: Tensor, mask: Tensor | None = None, **parameters: Any) -> Tensor:
        """As the call, but the arguments are not looked at: what runs inside a model."""
        x = scores.to(torch.promote_types(scores.dtype, torch.float32))
        seen = (x != -torch.inf).broadcast_to(x.shape)
        seen = seen if mask is None else seen & mask
        with exact(x):
            found = self.form(torch.where(seen, x, 0), seen, **parameters)
        return torch.where(seen, found, 0).to(scores.dtype)

    def __call__(self, scores: Any, mask: Any = None, **parameters: Any) -> Tensor:
        """Weights of the same shape and type as the scores [..., Tq, Tk].

        mask: bool, broadcastable to the scores, True = this key may be seen; None: all are. A score of -inf is a key
        that may not be seen either. A row that sees no key gives zeros with zero gradient; what stands in masked
        scores, NaN too, is never read. Half precision is evaluated in float32, under autocast too.

        TypeError: scores that are no float tensor, a mask that is not bool. ValueError: a mask that does not
        broadcast to the scores, a parameter that this normalizer does not have, or one out of its range.
        """
        self._check(scores, mask, parameters)
        return self.weights(scores, mask, **parameters)

    def _check(self, scores: object, mask: object, parameters: Mapping[str, object]) -> None:
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            kind = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(f"scores must be a tensor of a float type, [..., queries, keys]; got {kind}")
        if scores.ndim < 1:
            raise ValueError("scores must be [..., queries, keys], a row of keys at least; got a single number")
        if unknown := parameters.keys() - wants(self.form):
            raise ValueError(
                f"no parameter {sorted(unknown)}; scores become {self.formula} with {sorted(wants(self.form))}"
            )
        if mask is None:
            return
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask must be bool, True = this key may be seen; got {kind}: pass attention_mask.bool()")
        fits = mask.ndim <= scores.ndim and all(
            m in {1, s} for m, s in zip(reversed(mask.shape), reversed(scores.shape), strict=False)
        )
        if not fits:
            raise ValueError(
                f"mask must broadcast to the scores {tuple(scores.shape)}; got {tuple(mask.shape)}: a padding mask "
                "[B, Tk] is mask[:, None, None, :]"
            )


def wants(stage: Callable[..., Any] | None) -> set[str]:
    """The parameters that a stage names, beside what it is called on."""
    if stage is None:
        return set()
    named = inspect.signature(stage).parameters.values()
    return {p.name for p in named if p.default is not p.empty or p.kind is p.KEYWORD_ONLY}


def taken(stage: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the parameters that a stage names."""
    return {name: parameters[name] for name in wants(stage) if name in parameters}
