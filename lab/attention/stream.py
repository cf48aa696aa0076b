"""A row of attention in blocks of keys: what is kept does not grow with the row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.attention.precision import exact


class Sums(NamedTuple):
    """What is kept between two blocks, times e^-top: neither sum can overflow."""

    top: Tensor  # [..., 1]
    over: Tensor  # [..., D]
    under: Tensor  # [..., 1]


@runtime_checkable
class Blocks(Protocol):
    """What takes a row in blocks of keys: sums = take(sums, ...), None at first, and finish(sums)."""

    def take(self, sums: Any, scores: Tensor, mask: Tensor, values: Tensor, n: Tensor, **parameters: Any) -> Any: ...

    def finish(self, sums: Any) -> Tensor: ...


@dataclass(frozen=True)
class Stream:
    """sum_j w_j v_j for w_j = over(x_j) / (rest + sum_k under(x_k)), the keys coming block after block.

        sums = None
        for each block of keys:
            sums = stream.take(sums, scores, mask, values, n)     # [..., Tq, J], [..., J, D], n [..., Tq, 1]
        out = stream.finish(sums)                                  # [..., Tq, D]

    n is the number of keys that the whole row may see, known before the first block. The terms are evaluated times
    e^-top, `top` being the greatest `level` met so far, so an exponential never overflows; without `level` it is 0.
    Equal to the whole row for every size of block, up to rounding. Rows that see no key give zeros.
    """

    over: Callable[..., Tensor]  # over(x, top, n, **parameters), times e^-top
    under: Callable[..., Tensor] | None = None  # likewise; None: nothing is divided by
    level: Callable[..., Tensor] | None = None  # level(x, n, **parameters): the logarithm of a term's size
    rest: Callable[..., tuple[float | Tensor, float]] | None = None  # (level, e^-level rest), of what is no key

    def take(
        self,
        sums: Sums | None,
        scores: Float[Tensor, "*rows J"],
        mask: Bool[Tensor, "*rows J"],
        values: Float[Tensor, "*some J D"],
        n: Tensor,
        **parameters: object,
    ) -> Sums:
        """The sums with one more block of keys; None in front of the first."""
        wide = torch.promote_types(scores.dtype, torch.float32)
        x = torch.where(mask, scores, 0).to(wide)
        v = values.to(wide)
        n = n.to(wide)
        if sums is None:
            sums = self._begin(x, v, **parameters)
        top = sums.top
        if self.level is not None:
            level = torch.where(mask, self.level(x, n, **parameters), torch.finfo(wide).min)
            top = torch.maximum(top, level.detach().amax(-1, keepdim=True))
        kept = (sums.top - top).exp()
        over = torch.where(mask, self.over(x, top, n, **parameters), 0)
        under = sums.under
        if self.under is not None:
            term = over if self.under is self.over else torch.where(mask, self.under(x, top, n, **parameters), 0)
            under = under * kept + term.sum(-1, keepdim=True)
        with exact(x):
            return Sums(top, sums.over * kept + over @ v, under)

    def finish(self, sums: Sums) -> Tensor:
        """[..., Tq, D]; in float32, or float64 where the scores were."""
        if self.under is None:
            return sums.over
        return sums.over / torch.where(sums.under > 0, sums.under, 1)

    def _begin(self, x: Tensor, v: Tensor, **parameters: object) -> Sums:
        level, size = (torch.finfo(x.dtype).min if self.level is not None else 0.0), 0.0
        if self.rest is not None:
            level, size = self.rest(**parameters)
        one = x.new_ones(*x.shape[:-1], 1)
        return Sums(level * one, x.new_zeros(*x.shape[:-1], v.shape[-1]), size * one)


def exponential(
    logit: Callable[..., Tensor], rest: Callable[..., tuple[float | Tensor, float]] | None = None
) -> Stream:
    """The stream of softmax(logit(x, n, **parameters)), beside a rest where there is one."""

    def term(x: Tensor, top: Tensor, n: Tensor, **parameters: object) -> Tensor:
        return (logit(x, n, **parameters) - top).clamp(max=0).exp()  # a masked score may stand above the top

    return Stream(over=term, under=term, level=logit, rest=rest)


def shares(term: Callable[..., Tensor]) -> Stream:
    """The stream of term(x, n) / sum term(x, n), for terms that are never negative and need no scale."""

    def scaled(x: Tensor, top: Tensor, n: Tensor, **parameters: object) -> Tensor:  # noqa: ARG001
        return term(x, n, **parameters)

    return Stream(over=scaled, under=scaled)


def pointwise(term: Callable[..., Tensor]) -> Stream:
    """The stream of term(x, n), which nothing is divided by."""
    return Stream(over=lambda x, top, n, **parameters: term(x, n, **parameters))  # noqa: ARG005
