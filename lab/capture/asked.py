"""What a model answers when a template asks it for a text in one word: the state that would say it."""

from collections.abc import Sequence
from typing import Any

import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.capture.states import states
from lab.models import Loaded
from lab.pooling import LastPool

ONE_WORD = 'This sentence : "{}" means in one word : "'


class TokenBefore(nn.Module):
    """The state of the real token that `behind` real tokens follow; behind = 0 is the last one.

    x (B, T, D), mask (B, T) True = real token -> (B, D). Rows with too few real tokens give zeros.
    """

    def __init__(self, behind: int) -> None:
        super().__init__()
        self.behind, self.last = behind, LastPool()

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        left = mask.flip(1).cumsum(1).flip(1)  # real tokens from here on, this one among them
        return self.last(x, mask & (left > self.behind))


def asked(
    model: Loaded,
    texts: Sequence[str],
    template: str = ONE_WORD,
    *,
    max_length: int | None = None,
    **options: Any,
) -> xr.Dataset:
    """h[layer, pool, example, dim] where a template reads each text, pool "asked"; nothing is trained.

    template: words with {} in the place of the text. Read is the mask token where the template has the tokenizer's
    behind the text, the template's last token otherwise; tokens that the tokenizer adds behind (an end) are not it.
    PromptEOL: a decoder asked 'This sentence : "X" means in one word:"', its last token read (Jiang et al., 2023; from
    the authors' code). PromptBERT: an encoder asked 'This sentence : "X" means [MASK] .' (Jiang et al., 2022,
    recalled). "{}" alone is the last token of the text.
    max_length: in tokens, the template among them; the model's window when not given. A longer text is cut, not the
    template. options: those of lab.capture.states, but for its pools.

    Raises ValueError for a template without {} or with two, or whose mask stands before the text, a window without
    room for a token of text, and a tokenizer that does not say where its tokens stand; TypeError and ValueError as
    lab.capture.states does.
    """
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ValueError(f"the template needs {{}} in the place of the text, once; got {template!r}")
    if not getattr(model.tokenizer, "is_fast", False):
        raise ValueError(f"{model.name} has no tokenizer that says where its tokens stand; asked needs a fast one")
    before, after = template.split("{}")
    behind, overhead = _place(model.tokenizer, before, after)
    window = max_length or model.window or model.tokenizer.model_max_length
    if window <= overhead:
        raise ValueError(f"{window} tokens have no room for a text: {template!r} alone takes {overhead}")
    whole = [before + _cut(model.tokenizer, text, before, after, window, overhead) + after for text in texts]
    pools = {"asked": TokenBefore(behind)}
    return states(model, whole, pools=pools, max_length=window, **options).assign_attrs(template=template)


def _place(tokenizer: Any, before: str, after: str) -> tuple[int, int]:
    """How many tokens follow the one that is read, and how many the template has without a text."""
    ids, sign = tokenizer(before + after)["input_ids"], tokenizer.mask_token
    if sign is None or sign not in before + after:
        special = set(tokenizer.all_special_ids)
        behind = next((i for i, token in enumerate(reversed(ids)) if token not in special), None)
        # without words of its own the template ends where the text does
        return (_ends(tokenizer) if behind is None else behind), len(ids)
    if sign in before or after.count(sign) != 1:
        raise ValueError(f"{sign} must stand behind the text, once: it is read as far from the end for every text")
    return len(ids) - 1 - ids.index(tokenizer.mask_token_id), len(ids)


def _ends(tokenizer: Any) -> int:
    """Special tokens that the tokenizer puts behind a text."""
    ids, special = tokenizer("a")["input_ids"], set(tokenizer.all_special_ids)
    return next(i for i, token in enumerate(reversed(ids)) if token not in special)


def _cut(tokenizer: Any, text: str, before: str, after: str, window: int, overhead: int) -> str:
    """As much of a text as the window has room for beside the template."""
    room = window - overhead
    while room > 0:
        places = tokenizer(
            text, add_special_tokens=False, truncation=True, max_length=room, return_offsets_mapping=True
        )["offset_mapping"]
        part = text[: places[-1][1]] if places else ""
        excess = len(tokenizer(before + part + after, verbose=False)["input_ids"]) - window
        if excess <= 0:
            return part
        room -= excess  # pieces that the seams made more
    return ""
