"""Attention's output together with its statistics on a CPU: a few rows of weights are made once and read for both.

For some queries the scores S = scale q . k and the weights P = softmax(S) of complete rows stand in the cache, and give

    out = P V          columns_k = sum_i P_ik          sum_k P_ik^2, row by row
    sum_i H_i = sum_i lse_i - sum_ik P_ik S_ik          lse_i = max_k S_ik - log max_k P_ik

with two products and one exponential of each pair, as attention has without any statistics. Rows are as long as the
text, so memory is linear in it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lab.attention.tiles import NEVER, Received, looked_back

ROWS = 128  # of scores for each key head at a time: fewer make slow products, more leave the cache at 8,192 keys
AT_ONCE = 2**20  # scores for each thread, where texts are short: 4 MiB, and 4 for what they become


def attend(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, spread: bool = True
) -> tuple[Tensor, Received]:
    """query [B, H, Tq, D], key [B, K, Tk, D], value [B, K, Tk, Dv], all of them tokens -> out [B, H, Tq, Dv], the sums.

    causal: Tq = Tk. spread: whether entropy and effective are wanted; else they are NaN. Float32, or wider, inside.
    """
    (B, H, Tq, _), (K, Tk) = query.shape, key.shape[1:3]
    wide = torch.promote_types(query.dtype, torch.float32)
    out = query.new_empty(B, H, Tq, value.shape[3])
    columns = query.new_zeros(B, H, Tk, dtype=wide)
    entropy, effective = (columns.new_full((B, H), 0 if spread else torch.nan) for _ in range(2))
    step = max(1, min(Tq, ROWS // (H // K)))
    block = step * (H // K) * Tk
    pairs = max(torch.get_num_threads(), AT_ONCE * torch.get_num_threads() // max(1, block))
    room = columns.new_empty(2, min(pairs, B * K) * block)
    later = columns.new_full((step, step), NEVER).triu_(1)
    heads = (x.unflatten(1, (K, H // K)).flatten(0, 1) for x in (query, out, columns, entropy, effective))
    q, o, c, h, e = heads  # [B K, H / K, ...], views of what they were but for q
    k, v = key.flatten(0, 1), value.flatten(0, 1)
    for some in (slice(i, i + pairs) for i in range(0, B * K, pairs)):
        keys, values = k[some].to(wide).mT, v[some].to(wide)
        queries = q[some].to(wide) * scale
        for start, scores, weights in _blocks(queries, keys, later if causal else None, step, room):
            rows, end = slice(start, start + scores.shape[2]), scores.shape[3]
            o[some, :, rows] = torch.bmm(weights.flatten(1, 2), values[:, :end]).view_as(o[some, :, rows])
            c[some, :, :end] += weights.sum(2)
            if spread:
                e[some] += torch.linalg.vector_norm(weights, dim=-1).pow_(-2).sum(-1)
                lse = scores.amax(-1) - weights.amax(-1).log_()
                h[some] += (lse - scores.mul_(weights).sum(-1)).sum(-1)  # row by row: a longer sum would lose digits
    return out, Received(columns, entropy.clamp_(min=0), effective, looked_back(columns, Tq))


def _blocks(
    q: Tensor, k: Tensor, later: Tensor | None, step: int, room: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Where some rows begin, and their scores and weights [N, G, rows, keys] in `room`; what is later is not made."""
    (N, G, Tq, _), Tk = q.shape, k.shape[2]
    for start in range(0, Tq, step):
        stop = min(start + step, Tq)
        end = Tk if later is None else stop
        rows = stop - start
        scores, weights = (part[: N * G * rows * end].view(N, G * rows, end) for part in room)
        torch.bmm(q[:, :, start:stop].flatten(1, 2), k[:, :, :end], out=scores)
        if later is not None:
            scores.view(N, G, rows, end)[..., start:] += later[:rows, :rows]
        torch.softmax(scores, -1, out=weights)
        yield start, scores.view(N, G, rows, end), weights.view(N, G, rows, end)
