"""What the keys of one attention call received, and how its rows spread: five ways to the same numbers.

None but "eager" holds the weights A [T x T]; all are sums over the queries that are tokens, so that a cached
generation's steps add up. The rows' spread is that of p = |A| / sum_k |A|, which is A itself for a softmax.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.attention import runs
from lab.attention.call import Call
from lab.attention.chunks import SUMS, Found, Rows, Weigh, by_rows
from lab.kernels import attention_columns as fused
from lab.kernels.segment_pool import by_kernel

ELEMENTS = 2**20  # weights in memory at a time: 4 MiB in float32, and eight times that with what they become


@dataclass(frozen=True, eq=False)
class Seen:
    """Sums over the real queries of one call."""

    columns: Tensor  # [B, H, Tk] of A_ik
    shares: Tensor  # [B, H, Tk] of |A_ik| / sum_k |A_ik|
    even: Tensor  # [B, H or 1, Tk] of 1 / n_i, the weight had all n_i visible keys the same
    totals: Tensor  # [B, H, 6] of SUMS
    value_norm: Tensor  # [B, H, Tk] not a sum: |v_k|
    tokens: Tensor  # bool [B, Tk], the keys that are real
    queries: int  # the last so many keys are the queries
    ahead: bool  # some query saw a later key
    backend: str


MOST_THREADS = 2  # for tiles: each more waits for the others seven times a tile, and more than two were not measured


def choose(call: Call, weigh: Weigh | Rows | str | None) -> str:
    """The backend of "auto": "tiles" on a CPU's one or two threads, else "flash", where they apply, or "chunked"."""
    if _why_not_flash(call, weigh):
        return "chunked"
    # quiet, both threads take 2.1 x the model's own call where flash takes 3.6; with other work beside them 17 and 5
    return "flash" if call.query.is_cuda or torch.get_num_threads() > MOST_THREADS else "tiles"


def measure(
    call: Call,
    backend: str,
    weigh: Weigh | Rows | str | None = None,
    lse: Tensor | None = None,
    spread: bool = True,
) -> Seen:
    """The statistics of one call by one backend. lse [B, H, Tq]: of its rows, if the model's own attention told it.

    spread: whether entropy and effective_keys are wanted; else they are NaN.

    Raises ValueError where the backend cannot take the call, with the reason.
    """
    if backend == "auto":
        backend = choose(call, weigh)
    _check(call, backend, weigh)
    with torch.no_grad(), torch.autocast(call.query.device.type, enabled=False):
        return _seen(call, BACKENDS[backend](call, weigh, lse, spread), backend)


def answered(call: Call, spread: bool = True) -> tuple[Tensor, Seen]:
    """The output of softmax attention [B, Tq, H, Dv], without a graph, and its statistics, by "fused" in one go.

    Raises ValueError where that cannot take the call, with the reason.
    """
    _check(call, "fused", None)
    with torch.no_grad(), torch.autocast(call.query.device.type, enabled=False):
        out, found = _fused(call, "softmax", spread)
        return out.transpose(1, 2), _seen(call, found, "fused")


def _check(call: Call, backend: str, weigh: Weigh | Rows | str | None) -> None:
    if reason := REFUSALS[backend](call, weigh):
        able = [name for name, refuses in REFUSALS.items() if not refuses(call, weigh)]
        raise ValueError(f'backend "{backend}" cannot take layer {call.layer}: {reason}; {able} can, or "auto"')


def _seen(call: Call, found: Found, backend: str) -> Seen:
    columns, shares, even, totals, ahead = found
    tokens = call.tokens
    norm = call.value.to(torch.promote_types(call.value.dtype, torch.float32)).norm(dim=-1)
    norm = norm.masked_fill(~tokens[:, None], 0).repeat_interleave(call.group, 1)
    return Seen(columns, shares, even, totals, norm, tokens, call.query.shape[2], ahead, backend)


# --- which backend


def _why_not_flash(call: Call, weigh: Weigh | Rows | str | None) -> str:
    reasons = {
        "a normalizer other than softmax": weigh is not None,
        "a softcap": call.softcap is not None,
        "a position bias": call.bias is not None,
        "a sink logit": call.sink is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "") or _why_not_runs(call)


def _why_not_fused(call: Call, weigh: Weigh | Rows | str | None) -> str:
    if weigh is not None and not (isinstance(weigh, str) and weigh in fused.WEIGHTS):
        return f"its kernel knows the normalizers {list(fused.WEIGHTS)} by name, and no other"
    if call.value.shape != call.key.shape:
        return "its kernel wants keys and values of one width"
    return _why_not_flash(call, None) or _why_not_runs(call)


def _why_not_runs(call: Call) -> str:
    """The mask must be full or causal beside padding at the ends."""
    if call.visible.pattern is None:
        return "a mask that is neither full nor causal"
    if call.query.shape[2] not in {1, call.key.shape[2]}:
        return "several queries beside cached keys"
    if call.visible.padding is not None:
        rises = torch.nn.functional.pad(call.visible.padding.int(), (1, 0)).diff(dim=1) == 1
        if bool((rises.sum(1) > 1).any()):
            return "padding between tokens"
    return ""


REFUSALS: dict[str, Callable[[Call, Weigh | Rows | str | None], str]] = {
    "flash": _why_not_flash,
    "tiles": _why_not_flash,
    "chunked": lambda call, weigh: "",  # noqa: ARG005
    "fused": _why_not_fused,
    "eager": lambda call, weigh: "",  # noqa: ARG005
}


# --- how


def _by_flash(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    return runs.by_flash(call, lse, spread)


def _by_tiles(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    return runs.by_tiles(call, lse, spread)


def _by_chunks(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    B, H, _, _ = call.query.shape
    return by_rows(call, weigh, spread, max(1, ELEMENTS // max(1, B * H * call.key.shape[2])))


def _by_matrix(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    return by_rows(call, weigh, spread, max(1, call.query.shape[2]))


def _by_kernel(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    return _fused(call, weigh or "softmax", spread)[1]


def _fused(call: Call, name: str, spread: bool) -> tuple[Tensor, Found]:
    """The output [B, H, Tq, Dv] as well. The kernel tells column sums and row mass; how rows spread is NaN then."""
    if name == "softmax" and not by_kernel(call.query):
        return runs.with_output(call, spread)
    Tq, causal = call.query.shape[2], call.visible.pattern == "causal"
    tokens = call.tokens
    out, columns = fused.attention_columns(
        call.query, call.key, call.value, tokens, normalizer=name, causal=causal, scale=call.scaling
    )
    totals = columns.new_full((*columns.shape[:2], len(SUMS)), math.nan)
    totals[..., 0], totals[..., SUMS.index("sink_logit")] = columns.sum(-1), 0
    if name in {"softmax", "softmax1", "sigmoid"}:
        totals[..., SUMS.index("zeros")] = 0
    shares = columns if name == "softmax" else torch.full_like(columns, math.nan)
    even = runs.even_shares(tokens, Tq, causal and Tq > 1, columns.dtype)
    return out, (columns, shares, even, totals, not causal and Tq > 1)


BACKENDS: dict[str, Callable[[Call, Weigh | Rows | str | None, Tensor | None, bool], Found]] = {
    "flash": _by_flash,
    "tiles": _by_tiles,
    "chunked": _by_chunks,
    "fused": _by_kernel,
    "eager": _by_matrix,
}
