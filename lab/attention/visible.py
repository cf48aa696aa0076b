"""Which keys each query may see, told for a few rows at a time, so that no mask needs T x T."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Pattern = Literal["full", "causal"]


class Visible:
    """The mask of one forward pass, shared by the layers that asked for the same one.

    rows(start, stop) says it for these queries; the whole is never held. `pattern` is what the mask is beside its
    padding: "full", "causal" with the last query on the last key, or None for anything else, a window, packed texts,
    a user's own mask. `kind` is the same with the padding: "full" and "causal" only where nothing is padded.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rows: Callable[[int, int], Tensor],
        pattern: Pattern | None,
        padding: Tensor | None = None,
        own: Callable[[], Any] = lambda: None,
        held: "Callable[[], Visible | None]" = lambda: None,
        whole: "Visible | None" = None,
    ) -> None:
        self.batch, self.queries, self.keys = shape
        self.pattern, self.padding = pattern, padding
        self.whole = whole  # before keys were hidden, if any were
        self._rows, self._own, self._held = rows, own, held

    @cached_property
    def kind(self) -> Literal["full", "causal", "pattern"]:
        return "pattern" if self.pattern is None or self.padding is not None else self.pattern

    @cached_property
    def own(self) -> Any:
        """The mask as the model's own attention wants it, made when first asked for."""
        return self._own()

    @cached_property
    def held(self) -> "Visible":
        """The same of the keys that a cache holds, where it has free places behind the last query.

        ValueError where the queries see those too.
        """
        return self._held() or self

    def towards(self, causal: bool, told: bool | None) -> "Visible":
        """The same, or its opposite: without any mask a model's own attention sees all or nothing ahead as it is told.

        causal: what its module says; told: what this pass says instead, if it does. ValueError where that is not the
        mask's and there are not as many queries as keys.
        """
        if self.queries == 1 or (told is None and self.kind == "pattern"):
            return self
        causal = causal if told is None else told
        bare = self if causal == (self.kind != "full") else self.own
        while isinstance(bare, Visible) and bare is not self:
            bare = bare.own
        if bare is not None or (told is None and self.queries != self.keys):
            return self
        if self.queries != self.keys:
            raise ValueError(
                f"which of {self.keys} keys {self.queries} queries see with is_causal={causal} and no mask is not "
                "known here: leave is_causal to the model"
            )
        place = torch.arange(self.keys, device=self.rows(0, 1).device)

        def rows(start: int, stop: int) -> Tensor:
            seen = (place <= place[start:stop, None]) | (not causal)
            return seen.expand(self.batch, 1, -1, -1)

        shape = self.batch, self.queries, self.keys
        return Visible(shape, rows, "causal" if causal else "full", None, lambda: self.own)

    def without(self, hidden: Bool[Tensor, "B Tk"]) -> "Visible":
        """The same without these keys, but for queries that see no other."""

        def rows(start: int, stop: int) -> Tensor:
            seen = self.rows(start, stop)
            left = seen & ~hidden.to(seen.device)[:, None, None]
            return torch.where(left.any(-1, keepdim=True), left, seen)

        shape = self.batch, self.queries, self.keys
        return Visible(shape, rows, None, self.padding, lambda: self.own, whole=self.whole or self)

    def rows(self, start: int, stop: int) -> Bool[Tensor, "B Heads rows Tk"]:
        """The keys that queries start to stop - 1 may see; Heads is 1 where all heads see the same."""
        return self._rows(start, stop)

    def real(self, device: torch.device) -> Bool[Tensor, "B Tq"]:
        """The queries that are tokens. Queries are the last of the keys, so a padded key is a padded query."""
        if self.padding is None:
            return torch.ones(self.batch, self.queries, dtype=torch.bool, device=device)
        return self.padding[:, -self.queries :]


def asked(own: Callable[..., Any], **request: Any) -> Visible:
    """What transformers' masking asks a mask function for, as a Visible; `own` is the function asked otherwise."""
    from transformers.masking_utils import prepare_padding_mask, sdpa_mask

    queries, keys, before = request["q_length"], request["kv_length"], request.get("q_offset", 0)
    if isinstance(
        before, Tensor
    ):  # a static cache counts its tokens in this very tensor, before the rows are asked for
        request["q_offset"] = before = before.clone()
    first = request.get("kv_offset", 0)
    padding = prepare_padding_mask(request.get("attention_mask"), keys, first)
    padding = None if padding is None else padding[:, first : first + keys].bool()
    if padding is not None and padding.all():
        padding = None
    simple = request.get("local_size") is None or keys < request["local_size"]  # a window wider than the text
    end = int(before + queries) - first  # behind the last query; a cache of fixed size has free places there
    pattern: Pattern | None = None
    if simple and end == keys and request.get("allow_is_causal_skip", True):
        pattern = "causal" if queries > 1 else "full"  # the last query sees every key
    elif simple and request.get("allow_is_bidirectional_skip", False):
        pattern = "full"

    def rows(start: int, stop: int) -> Tensor:
        part = {"q_length": stop - start, "q_offset": before + start, "local_size": None}
        return sdpa_mask(**request | part | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})

    def held() -> Visible | None:
        if end >= keys and (queries > 1 or pattern is not None):
            return None
        last = rows(queries - 1, queries)
        if bool(last[..., end:].any()):
            raise ValueError(
                f"the queries see {keys - end} free places of a cache, which no token has come to yet: pass "
                "use_cache=False, or let no query see what comes after it"
            )
        if end < keys:
            return asked(own, **request | {"kv_length": end}).held
        real = True if padding is None else padding.to(last.device)[:, None, None]
        if queries == 1 and bool((last == real).all()):  # asked to be made whole for a compiler's sake
            return Visible(shape, rows, "full", padding)
        return None

    shape = request["batch_size"], queries, keys
    return Visible(shape, rows, pattern, padding, lambda: own(**request), held)


def given(mask: Tensor | None, shape: tuple[int, int, int], device: torch.device) -> tuple[Visible, Tensor | None]:
    """A mask that was not asked for: none at all, [B, Tk] padding, or a user's [B, 1 or H, Tq, Tk], bool or additive.

    Returns with it what an additive mask adds to the scores it leaves visible, None where that is nothing.
    Raises ValueError for a mask of another shape.
    """
    batch, queries, keys = shape
    if mask is None:
        everything = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        return Visible(shape, lambda i, j: everything.expand(batch, 1, j - i, keys), "full"), None
    if mask.ndim == 2 and mask.shape == (batch, keys):
        real = mask.bool()
        padding = None if real.all() else real
        return Visible(
            shape, lambda i, j: real[:, None, None].expand(-1, 1, j - i, -1), "full", padding, lambda: mask
        ), None
    if mask.ndim != 4 or mask.shape[-2:] != (queries, keys):
        raise ValueError(
            f"an attention mask must be [B, {keys}] or [B, 1 or H, {queries}, {keys}]; got {[*mask.shape]}"
        )
    added: Float[Tensor, "B Heads Tq Tk"] | None = None
    seen = mask
    if mask.dtype != torch.bool:
        seen = mask > torch.finfo(mask.dtype).min / 2  # what is hidden holds the lowest number or -inf
        added = mask.masked_fill(~seen, 0)
        added = added if added.any() else None
    return Visible(shape, lambda i, j: seen[:, :, i:j].expand(batch, -1, -1, -1), None, None, lambda: mask), added
