"""What the keys of one attention call received, and how its rows spread: five ways to the same numbers.

None but "eager" holds the weights A [T x T]; all are sums over the queries that are tokens, so that a cached
generation's steps add up. The rows' spread is that of p = |A| / sum_k |A|, which is A itself for a softmax.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.attention import flash, tiles
from lab.attention.calls import Call
from lab.kernels import attention_columns as fused

Weigh = Callable[[Tensor, Tensor], Tensor]  # (scores, mask) -> weights: a NORMALIZERS entry, or a function of one's own

ELEMENTS = 2**20  # weights in memory at a time: 4 MiB in float32, and eight times that with what they become
SUMS = ("row_mass", "entropy", "effective_keys", "distance", "sink_logit", "zeros")  # of each row, in this order


@dataclass(frozen=True, eq=False)
class Rows:
    """Weights that are known for any rows of a call: what an inner `use` computes with."""

    weights: Callable[[int, int], Tensor]  # of queries start to stop - 1, [B, H, rows, Tk]


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


def choose(call: Call, weigh: Weigh | Rows | str | None) -> str:
    """The backend of "auto": "flash", or on a CPU "tiles", where they apply, "chunked" elsewhere."""
    if _why_not_flash(call, weigh):
        return "chunked"
    return "flash" if call.query.is_cuda else "tiles"


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
    if reason := REFUSALS[backend](call, weigh):
        able = [name for name, refuses in REFUSALS.items() if not refuses(call, weigh)]
        raise ValueError(f'backend "{backend}" cannot take layer {call.layer}: {reason}; {able} can, or "auto"')
    tokens = _tokens(call)
    with torch.no_grad(), torch.autocast(call.query.device.type, enabled=False):
        columns, shares, even, totals, ahead = BACKENDS[backend](call, weigh, lse, spread)
        norm = call.value.to(torch.promote_types(call.value.dtype, torch.float32)).norm(dim=-1)
        norm = norm.masked_fill(~tokens[:, None], 0).repeat_interleave(_group(call), 1)
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
Found = tuple[Tensor, Tensor, Tensor, Tensor, bool]


# --- flash, and tiles


def _by_flash(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    """Sequence by sequence on its real run, or all at once where nothing is padded."""
    B, H, Tq, _ = call.query.shape
    Tk, causal = call.key.shape[2], _looks_back(call)
    kind = torch.promote_types(call.query.dtype, torch.float32)
    columns = call.query.new_zeros(B, H, Tk, dtype=kind)
    totals = call.query.new_zeros(B, H, len(SUMS), dtype=kind)
    tokens = _tokens(call)
    lse = _log_sum_exp(call, tokens, lse)
    for rows, heads, queries, keys, q, key in _parts(call, tokens):
        first = lse[rows, heads, queries]
        got = flash.received(q, key, first, causal, call.scaling)
        columns[rows, heads, keys] = got.columns
        mass, none = torch.full_like(got.entropy, q.shape[2]), torch.zeros_like(got.entropy)
        entropy, even = torch.full_like(none, torch.nan), torch.full_like(none, torch.nan)
        if spread:
            entropy, even = got.entropy, flash.effective(q, key, first, causal, call.scaling).sum(-1)
        totals[rows, heads] = torch.stack([mass, entropy, even, got.distance, none, none], -1)
    return columns, columns, _even(tokens, Tq, causal, kind), totals, not causal and Tq > 1


def _by_tiles(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    """All sequences at once, as they stand beside their padding."""
    Tq, causal, tokens = call.query.shape[2], _looks_back(call), _tokens(call)
    lse = _log_sum_exp(call, tokens, lse)
    real = None if call.visible.padding is None else tokens
    got = tiles.received(call.query, call.key, lse, real, causal, call.scaling, spread)
    mass = tokens[:, -Tq:].sum(1, keepdim=True).to(lse.dtype).expand_as(got.entropy)
    none = torch.zeros_like(mass)
    totals = torch.stack([mass, got.entropy, got.effective, got.distance, none, none], -1)
    return got.columns, got.columns, _even(tokens, Tq, causal, lse.dtype), totals, not causal and Tq > 1


def _looks_back(call: Call) -> bool:
    return call.visible.pattern == "causal" and call.query.shape[2] > 1


def _log_sum_exp(call: Call, tokens: Tensor, heard: Tensor | None) -> Tensor:
    """lse [B, H, Tq] of the rows that are tokens: what was heard, or by a flash pass of their own."""
    asks = tokens[:, None, -call.query.shape[2] :]
    # a mask is added to scores, which does not keep out what is not finite in padding
    if heard is not None and bool((heard.isfinite() | ~asks).all()):
        return heard
    lse = call.query.new_zeros(call.query.shape[:3], dtype=torch.promote_types(call.query.dtype, torch.float32))
    for rows, heads, queries, _, q, key in _parts(call, tokens):
        lse[rows, heads, queries] = flash.log_sum_exp(q, key, _looks_back(call), call.scaling)
    return lse


def _parts(call: Call, tokens: Tensor) -> Iterator[tuple[slice, slice, slice, slice, Tensor, Tensor]]:
    """Runs of real tokens, some heads at a time: where they stand, their queries, and keys for each head."""
    H, Tq, Tk, shared = call.query.shape[1], call.query.shape[2], call.key.shape[2], _group(call)
    for rows, keys in [(slice(None), slice(0, Tk))] if call.visible.padding is None else _runs(tokens):
        queries = slice(max(0, keys.start - (Tk - Tq)), max(0, keys.stop - (Tk - Tq)))
        if keys.start == keys.stop or queries.start == queries.stop:
            continue
        some = max(1, 4 * ELEMENTS // (call.query[rows, :shared, queries].numel() + 1))  # key heads at a time
        for k in range(0, H // shared, some):
            heads = slice(k * shared, (k + some) * shared)
            key = call.key[rows, k : k + some, keys].repeat_interleave(shared, 1)
            yield rows, heads, queries, keys, call.query[rows, heads, queries], key


def _runs(tokens: Tensor) -> list[tuple[slice, slice]]:
    """For each sequence where it stands in the batch, and its run of real tokens."""
    first, n = tokens.int().argmax(1).tolist(), tokens.sum(1).tolist()
    return [(slice(b, b + 1), slice(first[b], first[b] + n[b])) for b in range(len(tokens))]


def _even(tokens: Tensor, queries: int, causal: bool, kind: torch.dtype) -> Tensor:
    """[B, 1, Tk]: sums over real queries of 1 / n_i on the keys that each may see."""
    real = tokens.to(kind)
    asks = real.clone()
    asks[:, : tokens.shape[1] - queries] = 0
    if causal:
        return (real * (asks / real.cumsum(1).clamp(min=1)).flip(1).cumsum(1).flip(1))[:, None]
    return (real * asks.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1))[:, None]


# --- rows in parts


def _by_rows(call: Call, weigh: Weigh | Rows | str | None, spread: bool, step: int) -> Found:
    (B, H, Tq, _), Tk = call.query.shape, call.key.shape[2]
    kind, device = torch.promote_types(call.query.dtype, torch.float32), call.query.device
    columns, shares, even = (torch.zeros(B, heads, Tk, dtype=kind, device=device) for heads in (H, H, 1))
    totals = torch.zeros(B, H, len(SUMS), dtype=kind, device=device)
    tokens = _tokens(call)
    asks, ahead = tokens[:, Tk - Tq :], False
    first = torch.where(tokens.any(1), tokens.int().argmax(1), Tk)
    place = torch.arange(Tk, device=device)
    for start in range(0, Tq, step):
        stop = min(start + step, Tq)
        real = asks[:, None, start:stop, None]
        here = place[Tk - Tq + start : Tk - Tq + stop, None]
        # what a padded query sees is nobody's, and no query that is a token sees padding
        visible = call.visible.rows(start, stop).to(device) & real & tokens[:, None, None]
        alone = real[:, 0, :, 0] & (here[:, 0] > first[:, None]) & ~(visible & (place < here)).any(-1).any(1)
        if bool(alone.any()):
            raise ValueError(
                f"in layer {call.layer} a token that is not the first sees none before it: texts were packed into one "
                "row. Watch them as a padded batch"
            )
        ahead |= bool((visible & (place > here)).any())
        weight, logit = weights_of(call, weigh, start, stop, visible.expand(-1, H, -1, -1))
        weight = torch.where(real, weight, 0)
        mass = weight.sum(-1)
        share = weight.abs()
        share = share / share.sum(-1, keepdim=True).clamp(min=torch.finfo(kind).tiny)
        columns += weight.sum(-2)
        shares += share.sum(-2)
        n = visible.sum(-1, keepdim=True).clamp(min=1)
        evenly = (visible / n).sum(-2)
        even = even + evenly
        entropy = squares = torch.full_like(mass, torch.nan)
        if spread:
            entropy, squares = torch.special.entr(share).sum(-1), share.square().sum(-1)
        totals += torch.stack(
            [
                mass,
                entropy,
                torch.where(squares == 0, 0, 1 / squares.clamp(min=torch.finfo(kind).tiny)),
                here[:, 0] * share.sum(-1) - (share * place).sum(-1),
                torch.where(real[..., 0], logit, 0).expand_as(mass),
                ((weight == 0) & visible).sum(-1) / n[..., 0] if weigh is not None else torch.zeros_like(mass),
            ],
            -1,
        ).sum(-2)
    return columns, shares, even, totals, ahead


def weights_of(
    call: Call, weigh: Weigh | Rows | str | None, start: int, stop: int, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """A [B, H, rows, Tk], zeros where not visible, and the weight of the sink logit [B, H, rows] (or 0)."""
    if isinstance(weigh, Rows):
        weights = weigh.weights(start, stop)
        return torch.where(visible, weights, 0), weights.new_zeros(())
    scores = call.scores(start, stop)
    if weigh is not None:
        return weigh(scores.masked_fill(~visible, 0), visible), scores.new_zeros(())
    scores = scores.masked_fill(~visible, -torch.inf)
    sink = None if call.sink is None else call.sink.to(scores.dtype)[None, :, None, None]
    top = scores.amax(-1, keepdim=True)
    top = top if sink is None else torch.maximum(top, sink)
    powers = (scores - torch.where(top == -torch.inf, 0, top)).exp()
    rest = torch.zeros_like(top) if sink is None else (sink - top).exp()
    total = powers.sum(-1, keepdim=True) + rest
    some = torch.where(total > 0, total, 1)
    return powers / some, (rest / some)[..., 0]


def _by_chunks(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    B, H, _, _ = call.query.shape
    return _by_rows(call, weigh, spread, max(1, ELEMENTS // max(1, B * H * call.key.shape[2])))


def _by_matrix(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    return _by_rows(call, weigh, spread, max(1, call.query.shape[2]))


# --- the fused kernel


def _by_kernel(call: Call, weigh: Weigh | Rows | str | None, lse: Tensor | None, spread: bool) -> Found:  # noqa: ARG001
    """Column sums and row mass; what the rows spread to is not known to it, and NaN."""
    Tq, causal = call.query.shape[2], call.visible.pattern == "causal"
    tokens = _tokens(call)
    name = weigh or "softmax"
    columns = fused.attention_columns(
        call.query, call.key, call.value, tokens, normalizer=name, causal=causal, scale=call.scaling
    ).columns
    totals = columns.new_full((*columns.shape[:2], len(SUMS)), math.nan)
    totals[..., 0], totals[..., SUMS.index("sink_logit")] = columns.sum(-1), 0
    if name in {"softmax", "softmax1", "sigmoid"}:
        totals[..., SUMS.index("zeros")] = 0
    shares = columns if name == "softmax" else torch.full_like(columns, math.nan)
    return columns, shares, _even(tokens, Tq, causal and Tq > 1, columns.dtype), totals, not causal and Tq > 1


BACKENDS: dict[str, Callable[[Call, Weigh | Rows | str | None, Tensor | None, bool], Found]] = {
    "flash": _by_flash,
    "tiles": _by_tiles,
    "chunked": _by_chunks,
    "fused": _by_kernel,
    "eager": _by_matrix,
}


def _tokens(call: Call) -> Tensor:
    """bool [B, Tk]: the keys that are tokens."""
    if call.visible.padding is not None:
        return call.visible.padding.to(call.key.device)
    return torch.ones(call.key.shape[0], call.key.shape[2], dtype=torch.bool, device=call.key.device)


def _group(call: Call) -> int:
    """How many query heads share a key head."""
    return call.query.shape[1] // call.key.shape[1]
