"""What one attention layer of a model asks for, whatever its family."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.attention.precision import exact
from lab.attention.visible import Visible


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
    path: list["Asked | None"] = field(default_factory=list, repr=False)  # who was asked so far; None: the model itself

    @property
    def answered(self) -> "Asked | None":
        """Once `own` was called: the block that gave the answer in the end, None where it was the model itself."""
        return self.path[-1]

    @property
    def held(self) -> "Call":
        """The same without the places of a cache of fixed size that no token has come to: the last keys ask."""
        if self.visible.held is self.visible:
            return self
        n = self.visible.held.keys
        bias = self.bias if self.bias is None or self.bias.shape[-1] == 1 else self.bias[..., :n]
        return replace(self, key=self.key[:, :, :n], value=self.value[:, :, :n], bias=bias, visible=self.visible.held)

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


class Asked(NamedTuple):
    """A block, and what it was asked."""

    attend: Callable[[Call], Tensor]
    call: Call
