"""Two layouts of one thing, segments of tokens: padded x [B, T, D] with a bool mask, ragged x [N, D] with int offsets.

Every function takes the second argument as it comes: bool means a mask (True = real token), integers mean offsets
(S + 1 of them: segment s is rows offsets[s] to offsets[s + 1]). Per-segment results have one row per segment in both.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

Tokens = Float[Tensor, "B T D"] | Float[Tensor, "N D"]
Segments = Bool[Tensor, "B T"] | Integer[Tensor, " _"]


def check(x: Tensor, mask: Tensor, dim: int | None = None) -> None:
    """Raise unless (x, mask) is one of the two layouts: [B, T, D] with bool [B, T], or [N, D] with offsets [S + 1].

    dim: the width that x must have, for pools whose weights have one.

    ValueError for shapes and for offsets that are not 0 .. N and non-decreasing; TypeError for a type of mask that
    is neither. The offsets' values are looked at in eager mode only: a compiled graph must not wait for them.
    """
    if not isinstance(x, Tensor) or not isinstance(mask, Tensor):
        raise TypeError(f"x and mask must be tensors; got {type(x).__name__} and {type(mask).__name__}")
    if x.ndim not in {2, 3} or not x.is_floating_point():
        raise ValueError(
            f"x must be [batch, tokens, dim] of a float type, or ragged [tokens, dim]; "
            f"got {tuple(x.shape)} of {x.dtype}"
        )
    if dim is not None and x.shape[-1] != dim:
        raise ValueError(f"x must be {dim} wide, as the pool was built; got {tuple(x.shape)}: build it for that width")
    if x.ndim == 3:
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be bool, True = real token; got {mask.dtype}: pass attention_mask.bool()")
        if mask.shape != x.shape[:2]:
            raise ValueError(f"mask must be {tuple(x.shape[:2])}, the first axes of x; got {tuple(mask.shape)}")
        return
    if mask.dtype == torch.bool:
        raise ValueError(f"x beside a mask must be [batch, tokens, dim]; got {tuple(x.shape)}: ragged x takes offsets")
    if mask.dtype not in {torch.int32, torch.int64}:
        raise TypeError(f"offsets must be int32 or int64, [0, n_1, n_1 + n_2, ...]; got {mask.dtype}")
    if mask.ndim != 1 or len(mask) < 1:
        raise ValueError(f"offsets must be [segments + 1], at least [0]; got {tuple(mask.shape)}")
    if torch.compiler.is_compiling():
        return
    first, last, steps = int(mask[0]), int(mask[-1]), mask.diff()
    if first != 0 or last != len(x) or bool((steps < 0).any()):
        raise ValueError(
            f"offsets must go from 0 to {len(x)}, the tokens of x, and never fall; got {first} to {last}"
            f"{', falling' if bool((steps < 0).any()) else ''}: offsets = [0, n_1, n_1 + n_2, ...]"
        )


def _check_layout(x: Tensor, mask: Tensor, padded: bool) -> None:
    """check for values of any type and any axes behind their tokens, in the one layout that is asked for."""
    if not isinstance(mask, Tensor) or is_padded(mask) != padded:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{'mask must be bool [B, T]' if padded else 'offsets must be int64 [S + 1]'}; got {got}")
    shape = x.shape[: 2 if padded else 1] if isinstance(x, Tensor) else ()
    check(torch.empty((*shape, 0), device=mask.device), mask)


def is_padded(mask: Tensor) -> bool:
    return mask.dtype == torch.bool


def at_once(x: Tensor) -> bool:
    """Whether a value may be looked at for nothing: on a CPU and outside of a graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def is_full(mask: Segments) -> bool:
    """Whether a mask is known to have no padding; False where to look would cost something."""
    return is_padded(mask) and at_once(mask) and bool(mask.all())


def counts(mask: Segments) -> Integer[Tensor, " S"]:
    """How many real tokens each segment has."""
    return mask.sum(1) if is_padded(mask) else mask.diff()


def segment_ids(offsets: Integer[Tensor, " _"], n: int) -> Integer[Tensor, " N"]:
    """The segment of each of n ragged tokens."""
    if at_once(offsets):
        return torch.repeat_interleave(offsets.diff(), output_size=n)
    # a search, so that no shape depends on the offsets' values
    return (
        torch.searchsorted(
            offsets.contiguous(), torch.arange(n, dtype=offsets.dtype, device=offsets.device), right=True
        )
        - 1
    )


def positions(mask: Segments, n: int | None = None) -> Float[Tensor, "..."]:
    """1, 2, 3 ... along the real tokens of each segment, 0 at padding, wherever the padding stands. In float64.

    Ragged: n, the number of tokens, is read from the offsets when not given (one wait for the device).
    """
    if is_padded(mask):
        return (mask.cumsum(1) * mask).to(torch.float64)
    at = torch.arange(int(mask[-1]) if n is None else n, device=mask.device)
    return (at - mask[segment_ids(mask, len(at))] + 1).to(torch.float64)


def expand(y: Shaped[Tensor, " S *K"], mask: Segments, n: int) -> Shaped[Tensor, "..."]:
    """y of each segment at each of its tokens: [B, *K] -> [B, T, *K] (a view, with padding), [S, *K] -> [N, *K]."""
    if is_padded(mask):
        return y[:, None].expand(-1, n, *y.shape[1:])
    if len(y) == 0:
        return y.new_zeros(0, *y.shape[1:])
    return y.index_select(0, segment_ids(mask, n)) if y.device.type == "cpu" else Spread.apply(y, mask, n)


def total(x: Tensor, mask: Segments) -> Tensor:
    """Sum over each segment of x [B, T, *K] or [N, *K]; what stands in padding must have been cleared."""
    if is_padded(mask):
        return x.sum(1)
    if len(mask) == 1:
        return x[:0]  # no segments, so no tokens; still in the graph
    if x.device.type != "cpu":
        return Total.apply(x, mask)
    return x.new_zeros(len(mask) - 1, *x.shape[1:]).index_add(0, segment_ids(mask, len(x)), x)


class Total(torch.autograd.Function):
    """Ragged sums for a GPU, each in the order of its tokens: index_add is atomic there, and adds in any order.

    Spread is its gradient, and it is Spread's: torch's own for index_select is an index_add.
    """

    @staticmethod
    def forward(x: Tensor, offsets: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.segment_reduce(wide, "sum", offsets=offsets, initial=0, unsafe=True).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG004
        x, offsets = inputs
        ctx.n = len(x)
        ctx.save_for_backward(offsets)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return Spread.apply(dy, *ctx.saved_tensors, ctx.n), None


class Spread(torch.autograd.Function):
    """The row of each segment at each of its n tokens."""

    @staticmethod
    def forward(y: Tensor, offsets: Tensor, n: int) -> Tensor:
        return y.index_select(0, segment_ids(offsets, n))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None, None]:
        return Total.apply(dx, *ctx.saved_tensors), None, None


def token_at(end: int, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
    """The first (end = 0) or the last (-1) real token of each segment, nothing else of x read; zeros for none."""
    if x.shape[-2] == 0:
        return total(x, mask)  # zeros, in the graph
    if is_padded(mask):
        if end == 0 and at_once(mask) and bool(mask[:, 0].all()):  # padding behind, as is usual: a column
            return x[:, 0].clone()
        T = mask.shape[1]
        ends = (T, 0, -1) if end == 0 else (1, T + 1)
        some = (mask * torch.arange(*ends, dtype=torch.int32, device=x.device)).amax(1)  # 0: no real token
        at = T - some if end == 0 else some - 1
    else:
        some, at = counts(mask), mask[:-1] if end == 0 else mask[1:] - 1
    if at_once(mask) and bool(some.all()):
        return _rows(x, at)
    return torch.where((some > 0)[:, None], _rows(x, at.clamp(0, x.shape[-2] - 1)), 0)


def _rows(x: Tokens, at: Integer[Tensor, " S"]) -> Float[Tensor, "S D"]:
    """x[at], or x[b, at[b]] of padded x; by a list of rows, whose gradient takes half the time of an index's."""
    if x.ndim == 2:
        return x.index_select(0, at)
    B, T, _ = x.shape
    if x.is_contiguous():
        return x.flatten(0, 1).index_select(0, at + torch.arange(0, B * T, T, device=x.device))
    return x[torch.arange(B, device=x.device), at]


def keep(values: Tensor, mask: Segments, fill: float = 0.0) -> Tensor:
    """The same values with `fill` at padding, whatever stood there; ragged tokens are all real."""
    if not is_padded(mask) or is_full(mask):
        return values
    real = mask.reshape(*mask.shape, *[1] * (values.ndim - 2))
    if values.ndim == 2 or fill not in {0.0, torch.inf, -torch.inf} or not all_finite(values):
        return torch.where(real, values, fill)
    if values.requires_grad and torch.is_grad_enabled():
        return _Filled.apply(values, mask, fill)
    return _filled(values, real, fill)


def _filled(values: Tensor, real: Tensor, fill: float) -> Tensor:
    """For finite values: a broadcast `where` takes eight times as long on a CPU, but lets no NaN through."""
    return values * real if fill == 0 else values + torch.where(real, 0, fill).to(values.dtype)


class _Filled(torch.autograd.Function):
    """With a gradient of zero at padding also where what comes back to it is NaN."""

    @staticmethod
    def forward(values: Tensor, mask: Tensor, fill: float) -> Tensor:
        return _filled(values, mask.reshape(*mask.shape, *[1] * (values.ndim - 2)), fill)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG004
        ctx.mask = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return keep(dy, ctx.mask), None, None


def finite(x: Tokens, mask: Segments) -> Tokens:
    """x without NaN and Inf in padding, for steps that multiply what stands there by 0: x itself if it has none."""
    return x if not is_padded(mask) or is_full(mask) or all_finite(x) else keep(x, mask)


def all_finite(values: Tensor) -> bool:
    """Whether values are known to hold no NaN and no Inf; a sum says so on a CPU, for the price of one read."""
    if not values.is_floating_point() or not at_once(values):
        return False  # not known
    return math.isfinite(values.detach().sum(dtype=torch.float32).item())


def to_padded(
    x: Float[Tensor, " N *D"], offsets: Integer[Tensor, " _"]
) -> tuple[Float[Tensor, "S T *D"], Bool[Tensor, "S T"]]:
    """Ragged to padded, tokens to the left, zeros behind; T is the longest segment's length."""
    _check_layout(x, offsets, padded=False)
    lengths = counts(offsets)
    longest = _longest(lengths)
    at = torch.arange(longest, device=x.device)
    mask = at < lengths[:, None]
    if len(x) == 0:
        return x.new_zeros(*mask.shape, *x.shape[1:]), mask
    # padding reads token 0 and is then cleared, so its gradient is zero
    rows = torch.where(mask, offsets[:-1, None] + at, 0)
    return keep(x[rows], mask), mask


def _longest(lengths: Integer[Tensor, " S"]) -> int:
    """In a graph a size that is known when it runs, and 1 at the least: no branch may hang on whether it is 0."""
    if not len(lengths):
        return 0
    if not torch.compiler.is_compiling():
        return int(lengths.max())
    longest = int(lengths.max().clamp(min=1))
    torch._check(longest >= 1)
    return longest


def to_ragged(
    x: Float[Tensor, "B T *D"], mask: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, " N *D"], Integer[Tensor, " _"]]:
    """Padded to ragged: the real tokens in their order, and the offsets of the rows."""
    _check_layout(x, mask, padded=True)
    return x[mask], torch.nn.functional.pad(counts(mask).cumsum(0), (1, 0))
