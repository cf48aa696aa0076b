"""A few segments at a time: what a formula makes between x and y stays in a CPU's cache, and only x is kept.

The segments of x do not see each other, so y = function(*tokens, mask, *parameters) can be made part by part. Done
whole, each step of the formula would write a tensor as large as x and read it again, from memory and not from the
cache; and to multiply or hide padding costs as much as an exponential, while a part of one segment has none. The
backward pass makes each part once more, with its graph. Where there is padding that is cheaper than to have stored
what torch would keep; without it nothing is left out, so there what is to have a gradient is made whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.kernels.layout import Segments, at_once, counts, is_full, is_padded

# of x in a part, unless one segment is larger: the copies that a formula makes then fit in a core's own cache of 1 MB,
# and in less the calls would cost more than the work; where x itself fits there is nothing to gain
BYTES = 2**18
FULL = 2**20  # of x in a part without padding: no segment need stand alone, so fewer calls, each for every core
FEWEST = 4  # parts


class Part(NamedTuple):
    """Some segments as padded [s, L] tokens: those at `at` in [B, T], or in ragged tokens as [1, N].

    Ragged segments of several lengths stand side by side in a copy, where `places` in [s L] are the real tokens'.
    """

    segments: slice
    at: tuple[slice, slice | Tensor]
    mask: Tensor
    places: Tensor | None = None

    def take(self, values: Tensor) -> Tensor:
        found = values[self.at]
        if self.places is None:
            return found
        padded = found.new_zeros(self.mask.numel(), *found.shape[2:])
        return padded.index_copy_(0, self.places, found[0]).unflatten(0, self.mask.shape)

    def put(self, values: Tensor, new: Tensor) -> None:
        """Write back what stands at real tokens."""
        if self.places is not None:
            new = new.flatten(0, 1).index_select(0, self.places)
        values[self.at] = new.to(values.dtype)


def plan(x: Tensor, mask: Segments) -> list[Part]:
    """Neighbouring segments in parts of at most BYTES of x (FULL without padding), or of one, which then has none."""
    width = x[(0,) * mask.ndim].nbytes
    return list(_padded(mask, width) if is_padded(mask) else _ragged(mask, width))


def _padded(mask: Tensor, width: int) -> Iterator[Part]:
    B, T = mask.shape
    rows = (FULL if is_full(mask) else BYTES) // (T * width)
    if rows > 1:
        for start in range(0, B, rows):
            some = slice(start, min(B, start + rows))
            yield Part(some, (some, slice(0, T)), mask[some])
        return
    first, real = mask.byte().argmax(1).tolist(), counts(mask).tolist()
    end = torch.where(mask, torch.arange(1, T + 1), 1).amax(1).tolist()  # an empty row keeps one token of padding
    for row in range(B):
        alone, tokens = slice(row, row + 1), slice(first[row], end[row])
        if 0 < real[row] < end[row] - first[row]:  # padding among the tokens
            tokens = mask[row].nonzero()[:, 0]
        yield Part(alone, (alone, tokens), mask[alone, tokens])


def _ragged(offsets: Tensor, width: int) -> Iterator[Part]:
    ends, lengths = offsets.tolist(), counts(offsets)
    for some, longest in _groups(lengths.clamp(min=1).tolist(), width):  # no part is without a place for a token
        mask = torch.arange(longest) < lengths[some, None]
        alone = some.stop - some.start == 1 and bool(lengths[some.start])
        places = None if alone else mask.flatten().nonzero()[:, 0]
        yield Part(some, (slice(0, 1), slice(ends[some.start], ends[some.stop])), mask, places)


def _groups(lengths: list[int], width: int) -> Iterator[tuple[slice, int]]:
    """Runs of segments of at most BYTES when padded to the longest of them, and its length."""
    start, longest = 0, 0
    for s, length in enumerate(lengths):
        if s > start and (s + 1 - start) * max(longest, length) * width > BYTES:
            yield slice(start, s), longest
            start, longest = s, 0
        longest = max(longest, length)
    yield slice(start, len(lengths)), longest


def by_parts(
    function: Callable[..., tuple[Tensor, ...]],
    tokens: tuple[Tensor, ...],
    mask: Segments,
    *parameters: Tensor,
    gradient: Callable[..., tuple[Tensor, ...]] | None = None,
) -> tuple[Tensor, ...]:
    """function(*tokens, mask, *parameters), some tensors [S, *]: in parts, on a CPU and where that is worth it.

    tokens: x, and what else there is of each token, in x's layout. function takes the padded layout as well, treats
    each segment by itself, and gives what stands in padding no gradient; every tensor with a gradient is an argument.
    gradient(dy, y, *tokens, mask, *parameters), padded, is a shorter way than torch's to the gradients of the tokens,
    dy and y tuples; those of parameters are torch's to find.
    """
    x = tokens[0]
    segments = len(mask) - (not is_padded(mask))
    graph = torch.is_grad_enabled() and any(v.requires_grad for v in (*tokens, *parameters))
    if segments < 2 or not at_once(x) or x.nbytes <= FEWEST * BYTES or (graph and is_full(mask)):
        return function(*tokens, mask, *parameters)
    return _InParts.apply(function, gradient, mask, plan(x, mask), len(tokens), *tokens, *parameters)


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(
        function: Callable[..., tuple[Tensor, ...]], _: Any, mask: Segments, parts: list[Part], k: int, *values: Tensor
    ) -> tuple[Tensor, ...]:
        tokens = _rows(values[:k], mask)
        pooled = [function(*map(part.take, tokens), part.mask, *values[k:]) for part in parts]
        return tuple(torch.cat(each) for each in zip(*pooled, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.function, ctx.gradient, ctx.mask, ctx.parts, ctx.k, *values = inputs
        ctx.save_for_backward(*values, *(output if ctx.gradient else ()))
        ctx.given = len(values)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor | None, ...]:
        k, wanted = ctx.k, ctx.needs_input_grad[5:]
        values, pooled = ctx.saved_tensors[: ctx.given], ctx.saved_tensors[ctx.given :]
        if torch.is_grad_enabled():  # what is to be differentiated again is left to torch, in one piece
            values = [v.view_as(v) for v in values]  # one may have been made from another
            y = ctx.function(*values[:k], ctx.mask, *values[k:])
            return *[None] * 5, *_gradients(y, values, wanted, dy, create_graph=True)
        sums = [torch.zeros_like(v) if want else None for v, want in zip(values, wanted, strict=True)]
        tokens, targets = _rows(values[:k], ctx.mask), _rows(sums[:k], ctx.mask)
        own = ctx.gradient is not None and not any(wanted[k:])
        for part in ctx.parts:
            mine = [*map(part.take, tokens), *values[k:]]
            some, made = ([v[part.segments] for v in each] for each in (dy, pooled))
            if own:
                found = ctx.gradient(some, made, *mine[:k], part.mask, *mine[k:])
            else:
                mine = [v.detach().requires_grad_(want) for v, want in zip(mine, wanted, strict=True)]
                with torch.enable_grad():
                    y = ctx.function(*mine[:k], part.mask, *mine[k:])
                found = _gradients(y, mine, wanted, some)
            for target, new in zip(targets, found[:k], strict=True):
                if target is not None:
                    part.put(target, new)
            for target, new in zip(sums[k:], found[k:], strict=not own):
                if target is not None:
                    target += new
        return *[None] * 5, *sums


def _rows(tokens: Iterable[Tensor | None], mask: Segments) -> list[Tensor | None]:
    """Ragged tokens as one long row."""
    return [v if v is None or is_padded(mask) else v[None] for v in tokens]


def _gradients(
    y: Sequence[Tensor],
    values: Sequence[Tensor],
    wanted: Sequence[bool],
    dy: Sequence[Tensor],
    create_graph: bool = False,
) -> list[Tensor | None]:
    """Of those y that have one."""
    has = [a.requires_grad for a in y]
    found = iter(
        torch.autograd.grad(
            list(compress(y, has)),
            list(compress(values, wanted)),
            list(compress(dy, has)),
            create_graph=create_graph,
            materialize_grads=True,
        )
    )
    return [next(found) if want else None for want in wanted]
