"""Pooling over parts of a text: entity mentions, what stands between them, the path that joins them in a parse."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling.arguments import check_counts
from lab.pooling.functional import check, segment_pool
from lab.pooling.selection import check_choice, narrow


class SpanMaxPool(nn.Module):
    """The maximum over each span, side by side, y = [max_{t in span_1} x_t, ... max_{t in span_K} x_t].

    x (B, T, D), mask (B, T) -> (B, K * D), or ragged. `spans` is bool [*tokens, K], a mask for each span; without it
    the one span is the whole row. An empty span gives zeros. The forms of relation extraction are choices of spans: the
    entities, the entities and the sentence, the parts left, between and right of them (`piecewise`), the tokens near
    their dependency path (`dependency_path`). From the abstract of arXiv 1911.01055, the forms recalled.
    https://arxiv.org/abs/1911.01055"""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(
        self, x: Tokens, mask: Segments, spans: Bool[Tensor, "*tokens K"] | None = None
    ) -> Float[Tensor, "S KD"]:
        check(x, mask)
        if spans is None:
            return segment_pool(x, mask, "max")
        check_choice("spans", spans, x, axes=1)
        return torch.cat([segment_pool(*narrow(x, mask, span), "max") for span in spans.unbind(-1)], -1)


def piecewise(first: Bool[Tensor, "*rows T"], second: Bool[Tensor, "*rows T"]) -> Bool[Tensor, "*rows T 3"]:
    """The three parts of a text around two mentions: up to the end of the earlier one, up to the end of the later one,
    and the rest, as the spans of a piecewise max pool. The mask takes padding out.
    ValueError: mentions of other types or shapes."""
    if first.dtype != torch.bool or second.dtype != torch.bool or first.shape != second.shape:
        got = f"{tuple(first.shape)} of {first.dtype} and {tuple(second.shape)} of {second.dtype}"
        raise ValueError(f"both mentions must be bool and of one shape, [..., tokens]; got {got}")
    ends = torch.stack([_end(first), _end(second)], -1).sort(-1).values[..., None, :]
    at = torch.arange(first.shape[-1], device=first.device)[:, None]
    before = at <= ends  # [..., T, 2], in front of the end of the earlier, of the later
    return torch.stack([before[..., 0], before[..., 1] & ~before[..., 0], ~before[..., 1]], -1)


def _end(span: Bool[Tensor, "*rows T"]) -> Tensor:
    at = torch.arange(span.shape[-1], device=span.device)
    return torch.where(span, at, -1).amax(-1)


def dependency_path(
    heads: Sequence[int], source: Sequence[int], target: Sequence[int], distance: int = 0
) -> Bool[Tensor, " T"]:
    """The tokens at most `distance` arcs from the shortest path between two mentions in a dependency tree.

    heads[t] is the index of t's head, t itself or -1 at a root; source and target are token indices of the mentions.
    ValueError where an index is out of range, a mention is empty, distance negative, or no path joins the mentions.
    """
    n = len(heads)
    check_counts(0, distance=distance)
    if not source or not target:
        raise ValueError(f"each mention must have a token; got source {list(source)} and target {list(target)}")
    if outside := [t for t in (*source, *target, *heads) if not -1 <= t < n] + [t for t in (*source, *target) if t < 0]:
        raise ValueError(f"token indices must be in 0 .. {n - 1}; got {outside[0]}")
    near: list[set[int]] = [set() for _ in range(n)]
    for token, head in enumerate(heads):
        if head not in {-1, token}:
            near[token].add(head)
            near[head].add(token)
    from_source, from_target = _steps(near, source), _steps(near, target)
    joined = [from_source[t] + from_target[t] for t in range(n) if t in from_source and t in from_target]
    if not joined:
        raise ValueError(f"no path joins tokens {list(source)} and {list(target)}: they stand in different trees")
    path = [t for t in from_source if t in from_target and from_source[t] + from_target[t] == min(joined)]
    close = _steps(near, path)
    return torch.tensor([t in close and close[t] <= distance for t in range(n)])


def _steps(near: list[set[int]], start: Sequence[int]) -> dict[int, int]:
    """How many arcs each reachable token is from the nearest of `start`."""
    steps, edge = dict.fromkeys(start, 0), list(start)
    while edge:
        found = dict.fromkeys(t for token in edge for t in near[token] if t not in steps)
        steps |= dict.fromkeys(found, steps[edge[0]] + 1)
        edge = list(found)
    return steps
