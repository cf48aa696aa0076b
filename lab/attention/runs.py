"""Column sums and row spread of plain softmax attention: from its log-sum-exp, by two flash passes or tile by tile, or
together with its output."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lab.attention import flash, tiles, together
from lab.attention.call import Call
from lab.attention.chunks import SUMS, Found

ELEMENTS = 2**22  # of the queries of some heads at a time: 16 MiB in float32, and so their keys


def by_flash(call: Call, lse: Tensor | None, spread: bool) -> Found:
    """Sequence by sequence on its real run, or all at once where nothing is padded."""
    B, H, Tq, _ = call.query.shape
    Tk, causal = call.key.shape[2], _looks_back(call)
    kind = torch.promote_types(call.query.dtype, torch.float32)
    columns = call.query.new_zeros(B, H, Tk, dtype=kind)
    totals = call.query.new_zeros(B, H, len(SUMS), dtype=kind)
    tokens = call.tokens
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
    return columns, columns, even_shares(tokens, Tq, causal, kind), totals, not causal and Tq > 1


def by_tiles(call: Call, lse: Tensor | None, spread: bool) -> Found:
    """All sequences at once, as they stand beside their padding."""
    Tq, causal, tokens = call.query.shape[2], _looks_back(call), call.tokens
    lse = _log_sum_exp(call, tokens, lse)
    real = None if call.visible.padding is None else tokens
    got = tiles.received(call.query, call.key, lse, real, causal, call.scaling, spread)
    mass = tokens[:, -Tq:].sum(1, keepdim=True).to(lse.dtype).expand_as(got.entropy)
    none = torch.zeros_like(mass)
    totals = torch.stack([mass, got.entropy, got.effective, got.distance, none, none], -1)
    return got.columns, got.columns, even_shares(tokens, Tq, causal, lse.dtype), totals, not causal and Tq > 1


def with_output(call: Call, spread: bool) -> tuple[Tensor, Found]:
    """The output [B, H, Tq, Dv] as well; zeros for a query that is padding."""
    B, H, Tq, _ = call.query.shape
    Tk, causal, tokens = call.key.shape[2], _looks_back(call), call.tokens
    kind = torch.promote_types(call.query.dtype, torch.float32)
    out = call.query.new_zeros(B, H, Tq, call.value.shape[3])
    columns = call.query.new_zeros(B, H, Tk, dtype=kind)
    totals = call.query.new_zeros(B, H, len(SUMS), dtype=kind)
    for rows, queries, keys in _places(call, tokens):
        parts = call.query[rows, :, queries], call.key[rows, :, keys], call.value[rows, :, keys]
        out[rows, :, queries], got = together.attend(*parts, causal, call.scaling, spread)
        columns[rows, :, keys] = got.columns
        mass, none = torch.full_like(got.distance, parts[0].shape[2]), torch.zeros_like(got.distance)
        totals[rows] = torch.stack([mass, got.entropy, got.effective, got.distance, none, none], -1)
    return out, (columns, columns, even_shares(tokens, Tq, causal, kind), totals, not causal and Tq > 1)


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
    H, shared = call.query.shape[1], call.group
    for rows, queries, keys in _places(call, tokens):
        some = max(1, ELEMENTS // (call.query[rows, :shared, queries].numel() + 1))  # key heads at a time
        for k in range(0, H // shared, some):
            heads = slice(k * shared, (k + some) * shared)
            key = call.key[rows, k : k + some, keys].repeat_interleave(shared, 1)
            yield rows, heads, queries, keys, call.query[rows, heads, queries], key


def _places(call: Call, tokens: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Where sequences stand in the batch, and their run of real queries and keys; those without are left out."""
    Tq, Tk = call.query.shape[2], call.key.shape[2]
    for rows, keys in [(slice(None), slice(0, Tk))] if call.visible.padding is None else _runs(tokens):
        queries = slice(max(0, keys.start - (Tk - Tq)), max(0, keys.stop - (Tk - Tq)))
        if keys.start < keys.stop and queries.start < queries.stop:
            yield rows, queries, keys


def _runs(tokens: Tensor) -> list[tuple[slice, slice]]:
    """For each sequence where it stands in the batch, and its run of real tokens."""
    first, n = tokens.int().argmax(1).tolist(), tokens.sum(1).tolist()
    return [(slice(b, b + 1), slice(first[b], first[b] + n[b])) for b in range(len(tokens))]


def even_shares(tokens: Tensor, queries: int, causal: bool, kind: torch.dtype) -> Tensor:
    """[B, 1, Tk]: sums over real queries of 1 / n_i on the keys that each may see."""
    real = tokens.to(kind)
    asks = real.clone()
    asks[:, : tokens.shape[1] - queries] = 0
    if causal:
        return (real * (asks / real.cumsum(1).clamp(min=1)).flip(1).cumsum(1).flip(1))[:, None]
    return (real * asks.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1))[:, None]
