"""One call of an attention layer under one normalizer, exact, some rows of queries at a time."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lab.attention.call import Call
from lab.attention.normalizer import Normalizer, taken, wants
from lab.attention.precision import dtype_asked, exact

SCORES_AT_ONCE = 2**22  # numbers in a block of rows: 16 MiB of float32, and a few times that inside a normalizer


@dataclass(frozen=True, eq=False)
class Answer:
    """What a layer answers, out[b, t, h] = sum_j weights_j v_j, with weights(start, stop) for whoever looks at them.

    `parameters` are the normalizer's own, learned or fixed. The model's sink logits go into a form that has a place for
    them. ValueError for what this normalizer cannot do in this layer, with what would do.
    """

    normalizer: Normalizer
    call: Call
    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        own, call, kind = wants(self.normalizer.form), self.call, type(self.call.module).__name__
        if call.sink is not None and ("sink" not in own or "sink" in self.parameters):
            raise ValueError(
                f"{kind} has sink logits of its own, which have no place in {self.normalizer.formula}; softmax and "
                "gated take them"
            )
        if self.normalizer.aligned and (call.cross or call.query.shape[2] != call.key.shape[2]):
            raise ValueError(
                f"{kind} asks {call.query.shape[2]} queries of {call.key.shape[2]} keys, and this normalizer reads the "
                "rows of all earlier queries: pass use_cache=False; over another sequence's keys it cannot be used"
            )
        if "positions" in own and call.cross:
            raise ValueError(f"{kind} attends to another sequence: its keys stand at no distance from its queries")

    @property
    def has_sink(self) -> bool:
        """Whether a sink logit, the model's or a learned one, takes a share of each row."""
        return "sink" in wants(self.normalizer.form) and (self.call.sink is not None or "sink" in self.parameters)

    @cached_property
    def asked(self) -> Call:
        """The call with the queries, keys, values and scale that this normalizer makes of them."""
        stage = self.normalizer.before
        return self.call if stage is None else stage(self.call, **taken(stage, self.parameters))

    @cached_property
    def by_row(self) -> dict[str, Tensor]:
        stage = self.normalizer.rows
        return {} if stage is None else stage(self.call, **taken(stage, self.parameters))

    @cached_property
    def _halo(self) -> int:
        stage = self.normalizer.halo
        return 0 if stage is None else stage(**taken(stage, self.parameters))

    def weights(self, start: int, stop: int) -> Float[Tensor, "B H rows Tk"]:
        """Of queries start to stop - 1, float32 or wider, under autocast too."""
        with exact(self.call.query):
            return self._weights(start, stop)

    def _weights(self, start: int, stop: int) -> Tensor:
        call, first = self.asked, max(0, start - self._halo)
        seen = call.visible.rows(first, stop)
        if self._halo:  # a padded query is none, whatever it sees: the next ones must not read it
            seen = seen & call.visible.real(call.query.device)[:, None, first:stop, None]
        given = taken(self.normalizer.form, self.parameters)
        given |= {name: value[:, :, first:stop] for name, value in self.by_row.items()}
        if call.sink is not None:
            given["sink"] = call.sink[:, None, None]
        if "positions" in wants(self.normalizer.form):
            given["positions"] = self._positions(first, stop, seen)
        return self.normalizer.weights(call.scores(first, stop), seen, **given)[:, :, start - first :]

    def _positions(self, start: int, stop: int, seen: Tensor) -> tuple[Tensor, Tensor]:
        keys = torch.arange(seen.shape[-1], device=seen.device)
        if self.call.query.shape[2] == len(keys):
            return keys[start:stop], keys
        # beside a cache, which may be longer than what is in it, a query stands on the last key that it may see
        return torch.where(seen.flatten(0, 1).any(0), keys, 0).amax(-1), keys

    def output(self) -> Float[Tensor, "B Tq H D"]:
        """The layer's answer; of a long sequence no more than a block of rows is held, for the gradient neither.

        It is computed in float32 or wider, and given back in the type of the queries, or autocast's where that is on.
        """
        asked = dtype_asked(self.call.query)
        with exact(self.call.query):
            return self._output().to(asked).contiguous()

    def _output(self) -> Tensor:
        call, _ = self.asked, self.by_row  # made here: a block that is evaluated again must find what it found
        (B, H, Tq, _), (_, K, Tk, _) = call.query.shape, call.key.shape
        step = max(1, SCORES_AT_ONCE // max(1, B * H * Tk))
        values = call.value.to(torch.promote_types(call.value.dtype, torch.float32))

        def block(start: int, stop: int) -> Tensor:
            weights = self.weights(start, stop)
            if call.dropout and call.module.training:
                weights = functional.dropout(weights, call.dropout)
            shared = weights.to(values.dtype).unflatten(1, (K, H // K))
            return torch.einsum("bkgts,bksd->btkgd", shared, values).flatten(2, 3)

        ends = [(start, min(start + step, Tq)) for start in range(0, Tq, step)]
        if len(ends) > 1 and torch.is_grad_enabled():  # evaluated again in the backward pass, a block at a time
            parts = [checkpoint(block, *end, use_reentrant=False) for end in ends]
        else:
            parts = [block(*end) for end in ends]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        stage = self.normalizer.after
        return out if stage is None else stage(out, self.call, **taken(stage, self.parameters))
