"""Attention statistics tile by tile on a CPU core: one product of queries and keys, read while it is in the cache.

With the log-sum-exp lse_i of each row known, which the model's own flash kernel leaves, the logarithm of a weight is
log A_ik = scale q_i . k_k - lse_i: one more coordinate, q' = [scale q, -lse] and k' = [k, 1]. So one product and one
exponential of each tile give all there is to know of it,

    columns_k = sum_i A_ik          sum_i H_i = -sum_ik A_ik log A_ik          sum_k A_ik^2, row by row

and since a row sums to 1 how far back it looks needs nothing but the columns, sum_ik A_ik (i - k) = sum_i i -
sum_k k columns_k. An lse that is off, in half precision by 2e-5, shows in all of them. Two flash passes
(lab.attention.flash) compute four such products: the second of each pass is an output with values as wide as a head,
from which the sums above are taken. On a GPU, where a tile would go through memory, they are the faster ones.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

TILE = 256  # queries, and keys, of a tile
AT_ONCE = 2**17  # scores for each thread: they and what they become take 1 MiB, half of a core's cache or all of it
NEVER = -1e9  # the logarithm of a weight of padding: its exponential is 0, and 0 times it is 0


class Received(NamedTuple):
    """Of each head: what each key received, and sums over queries; NaN what was not asked for."""

    columns: Tensor  # [B, H, Tk] sum_i A_ik
    entropy: Tensor  # [B, H] sum_i -sum_k A_ik log A_ik, nats
    effective: Tensor  # [B, H] sum_i 1 / sum_k A_ik^2
    distance: Tensor  # [B, H] sum_ik A_ik (i - k), tokens


def received(
    query: Tensor, key: Tensor, lse: Tensor, tokens: Tensor | None, causal: bool, scale: float, spread: bool = True
) -> Received:
    """query [B, H, Tq, D], key [B, K, Tk, D], lse [B, H, Tq] -> the sums, in the type of lse; causal: Tq = Tk.

    tokens: bool [B, Tk], the keys that are real, of which the last Tq are the queries; None: all are. spread: whether
    entropy and effective are wanted, which are a third of the work.
    """
    (B, H, Tq, _), Tk = query.shape, key.shape[2]
    columns, entropy, effective = lse.new_zeros(B, H, Tk), lse.new_zeros(B, H), lse.new_zeros(B, H)
    tile = min(TILE, Tq) * min(TILE, Tk)
    heads = min(B * H, max(1, AT_ONCE * torch.get_num_threads() // max(1, tile)))
    room = lse.new_empty(2, heads * tile)
    for some in _shares(B, H, heads):
        q, k = _logarithmic(query, key, lse, tokens, scale, *some)
        got = lse.new_zeros(len(q), Tk), lse.new_zeros(len(q)), lse.new_zeros(len(q))
        _add(*got, q, k, room, causal, spread)
        for all_of_them, part in zip((columns, entropy, effective), got, strict=True):
            all_of_them[some] = part.view_as(all_of_them[some])
    if not spread:
        entropy, effective = entropy.fill_(torch.nan), effective.fill_(torch.nan)
    return Received(columns, entropy.clamp(min=0), effective, looked_back(columns, Tq, tokens))


def looked_back(columns: Tensor, queries: int, tokens: Tensor | None = None) -> Tensor:
    """[B, H] sum_ik A_ik (i - k) of rows that sum to 1, from columns [B, H, Tk]; the last keys are the queries."""
    Tk = columns.shape[2]
    place = torch.arange(Tk, device=columns.device, dtype=torch.float64)
    asks = place[None] >= Tk - queries if tokens is None else tokens & (place >= Tk - queries)
    middle = (place * asks).sum(1) / asks.sum(1).clamp(min=1)  # of the queries; around it an lse that is off scales all
    return (columns * (middle[:, None, None] - place)).sum(-1).to(columns.dtype)


def _shares(B: int, H: int, heads: int) -> Iterator[tuple[slice, slice]]:
    """Sequences and their heads, about so many heads at a time: whole sequences, or a part of one."""
    rows, some = max(1, heads // H), min(heads, H)
    for b in range(0, B, rows):
        for h in range(0, H, some):
            yield slice(b, min(b + rows, B)), slice(h, min(h + some, H))


def _logarithmic(
    query: Tensor, key: Tensor, lse: Tensor, tokens: Tensor | None, scale: float, rows: slice, heads: slice
) -> tuple[Tensor, Tensor]:
    """q' [N, Tq, D'] and k' [N, D', Tk] of N heads, whose product is the logarithm of their weights."""
    shared = query.shape[1] // key.shape[1]
    reads = torch.arange(heads.start, heads.stop, device=key.device) // shared
    q = query[rows, heads].to(lse.dtype) * scale
    k = key[rows, reads].to(lse.dtype)
    more, ones = [-lse[rows, heads, :, None]], [torch.ones_like(k[..., :1])]
    if tokens is not None:  # one coordinate hides a padded key, and what else a padded row holds is not read
        real = tokens[rows, None, :, None]
        asks = real[:, :, tokens.shape[1] - q.shape[2] :]
        q, k = q.masked_fill(~asks, 0), k.masked_fill(~real, 0)
        more = [more[0].masked_fill(~asks, NEVER), torch.ones_like(more[0])]
        ones.append((~real).to(k.dtype).expand_as(ones[0]) * NEVER)
    return torch.cat([q, *more], -1).flatten(0, 1), torch.cat([k, *ones], -1).flatten(0, 1).mT


def _add(
    columns: Tensor, entropy: Tensor, effective: Tensor, q: Tensor, k: Tensor, room: Tensor, causal: bool, spread: bool
) -> None:
    """Adds what all tiles of these heads hold; columns [N, Tk], entropy and effective [N]."""
    N, Tq, Tk = len(q), q.shape[1], k.shape[2]
    for start in range(0, Tq, TILE):
        stop = min(start + TILE, Tq)
        squares = columns.new_zeros(N, stop - start)
        for left in range(0, stop if causal else Tk, TILE):  # what is above the diagonal is not computed
            right = min(left + TILE, Tk)
            shape = N, stop - start, right - left
            score, weight = (part[: math.prod(shape)].view(shape) for part in room)
            torch.bmm(q[:, start:stop], k[:, :, left:right], out=score)
            torch.exp(score, out=weight)
            if causal and left == start:
                weight.tril_()
            columns[:, left:right] += weight.sum(1)
            if spread:
                squares += torch.linalg.vector_norm(weight, dim=-1).square_()
                entropy -= score.mul_(weight).view(N, -1).sum(-1)
        if spread:
            effective += torch.where(squares > 0, squares.reciprocal(), 0).sum(-1)
