"""Windows over 1, 2 or 3 spatial axes: their geometry, for torch by slices and for Triton by strides.

Everything is three-dimensional inside: x [B, C, L] and [B, C, H, W] are lifted by axes of length 1, as views. A window
is clipped to the input, so padding is never read, never counted, and need not exist in memory.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

Ints = int | Sequence[int]
TILE = 512  # elements of one program: 4 a thread in 4 warps


class Windows(NamedTuple):
    """Window o of an axis covers the positions o * stride - padding + (0 .. kernel - 1) that lie in the input."""

    kernel: tuple
    stride: tuple
    padding: tuple
    out: tuple

    @property
    def size(self) -> int:
        return self.kernel[0] * self.kernel[1] * self.kernel[2]

    def flat(self) -> list:
        """Twelve numbers: what a custom op can take."""
        return [*self.kernel, *self.stride, *self.padding, *self.out]

    @classmethod
    def unflat(cls, numbers: Sequence) -> "Windows":
        return cls(*(tuple(numbers[i : i + 3]) for i in (0, 3, 6, 9)))

    def offsets(self, sizes: Sequence[int]) -> Iterator[tuple[int, tuple, tuple]]:
        """For each offset j in a window: the windows that have it, and the positions it stands at, as slices."""
        axes = [[reach(k, *axis[1:]) for k in range(axis[0])] for axis in zip(*self, sizes, strict=True)]
        for j, parts in enumerate(itertools.product(*axes)):
            if all(parts):
                yield j, (..., *(p[0] for p in parts)), (..., *(p[1] for p in parts))

    def counts(self, sizes: Sequence[int], like: Tensor) -> Float[Tensor, "O0 O1 O2"]:
        """How many positions of the input each window has."""
        count = like.new_ones(())
        for kernel, stride, padding, out, length in zip(*self, sizes, strict=True):
            lows = range(-padding, out * stride - padding, stride)
            here = [min(low + kernel, length) - max(low, 0) for low in lows]
            count = count[..., None] * like.new_tensor(here)
        return count


def reach(k: int, stride: int, padding: int, out: int, length: int) -> tuple[slice, slice] | None:
    """One axis: the windows whose offset k lies in the input, and where it lies; None if there are none."""
    low = max(0, -((k - padding) // stride))
    high = min(out, (length - 1 + padding - k) // stride + 1)
    start = low * stride - padding + k
    return (slice(low, high), slice(start, start + (high - low - 1) * stride + 1, stride)) if high > low else None


def plan(x: Tensor, kernel_size: Ints, stride: Ints | None, padding: Ints, ceil_mode: bool) -> Windows:
    """The windows of a call with torch.nn.functional's arguments; ValueError where torch would also refuse."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor; got {type(x).__name__}")
    if not 3 <= x.ndim <= 5 or not x.is_floating_point():
        raise ValueError(
            f"x must be [batch, channels, *spatial] with 1 to 3 spatial axes and of a float type; "
            f"got {tuple(x.shape)} of {x.dtype}"
        )
    d = x.ndim - 2
    kernel = _per_axis("kernel_size", kernel_size, d, 1, fill=1)
    step = _per_axis("stride", kernel_size if stride is None else stride, d, 1, fill=1)
    pad = _per_axis("padding", padding, d, 0, fill=0)
    if any(2 * p > k for p, k in zip(pad, kernel, strict=True)):
        raise ValueError(f"padding must be at most half of kernel_size {kernel[-d:]}; got {pad[-d:]}")
    sizes = lift(x).shape[2:]
    if any(k > length + 2 * p for k, p, length in zip(kernel, pad, sizes, strict=True)):
        got = f"{tuple(x.shape[2:])} with padding {pad[-d:]}; got {kernel[-d:]}"
        raise ValueError(f"kernel_size must fit into the padded input, {got}")
    axes = zip(sizes, kernel, step, pad, strict=True)
    return Windows(kernel, step, pad, tuple(_out(*axis, ceil_mode) for axis in axes))


def _per_axis(name: str, value: Ints, d: int, least: int, fill: int) -> tuple:
    values = (value,) * d if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(values) != d or any(isinstance(v, float | str | bool) or v < least for v in values):
        raise ValueError(f"{name} must be an int or {d} of them, each >= {least}; got {value}")
    return (fill,) * (3 - d) + values


def _out(length: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    room = length + 2 * padding - kernel
    if not ceil_mode:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out if (out - 1) * stride < length + padding else out - 1  # every window starts in the input or before it


def lift(x: Tensor) -> Tensor:
    """[B, C, *spatial] -> [B, C, L0, L1, L2]."""
    return x.reshape(x.shape[:2] + (1,) * (5 - x.ndim) + x.shape[2:])


def lower(y: Tensor, ndim: int) -> Tensor:
    """[B, C, O0, O1, O2] -> [B, C, *spatial] of ndim axes."""
    for _ in range(5 - ndim):
        y = y.squeeze(2)
    return y


def is_channels_last(x: Tensor) -> bool:
    return x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()


def empty(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uninitialised [..., B, C, O0, O1, O2], dense, its channels where x has them."""
    if not is_channels_last(x):
        return x.new_empty(shape, dtype=dtype)
    *front, B, C, O0, O1, O2 = shape
    return x.new_empty((*front, B, O0, O1, O2, C), dtype=dtype).movedim(-1, -4)


def parts(y: Tensor) -> list[slice]:
    """Slices of the batch whose intermediate results stay in a core's cache: 2^16 windows, or one example."""
    step = max(1, 2**16 // max(1, y[0].numel()))
    return [slice(b, b + step) for b in range(0, len(y), step)]


def unfold(x: Float[Tensor, "B C L0 L1 L2"], w: Windows) -> tuple[Float[Tensor, "B C O0 O1 O2 K"], Tensor]:
    """Every window's values, zero outside of the input, and a bool [O0, O1, O2, K] that says what is inside.

    For definitions: it copies the input once per offset.
    """
    edges, sizes = [], x.shape[2:]
    for kernel, stride, padding, out, length in zip(*w, sizes, strict=True):
        edges = [padding, max(0, (out - 1) * stride + kernel - padding - length), *edges]
    grid = torch.nn.functional.pad(x, edges)
    inside = torch.nn.functional.pad(x.new_ones((1, 1, *sizes)), edges)
    for axis, (kernel, stride, out) in enumerate(zip(w.kernel, w.stride, w.out, strict=True), 2):
        grid = grid.unfold(axis, kernel, stride).narrow(axis, 0, out)
        inside = inside.unfold(axis, kernel, stride).narrow(axis, 0, out)
    return grid.flatten(-3), inside[0, 0].flatten(-3) > 0


def tiling(shape: Sequence[int], channels_last: bool) -> tuple[int, int, int, tuple[int, int]]:
    """rows, ROWS, COLS and the grid: a tile's columns are the axis that is dense in memory, rows all other axes."""
    cols = shape[1] if channels_last else shape[4]
    rows = shape[0] * shape[1] * shape[2] * shape[3] * shape[4] // max(cols, 1)
    COLS = min(128, triton.next_power_of_2(cols))
    ROWS = TILE // COLS
    return rows, ROWS, COLS, (triton.cdiv(rows, ROWS), triton.cdiv(cols, COLS))


@triton.jit
@no_type_check  # a checked kernel would look for its helpers in the checker's module
def tile(rows, C, size, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """b, c, three positions on axes of the given sizes, and which of this program's tile exists."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]  # [1, COLS]
    if LAST:
        c, i2, rest = col, row % size[2], row // size[2]
        real = (row < rows) & (col < C)
    else:
        i2, rest = col, row
        real = (row < rows) & (col < size[2])
    i1 = rest % size[1]
    rest = rest // size[1]
    i0 = rest % size[0]
    b = rest // size[0]
    if not LAST:
        c, b = b % C, b // C
    return b, c, i0, i1, i2, real


@triton.jit
@no_type_check
def address(pointer, strides, b, c, i0, i1, i2):
    """Pointers to x[b, c, i0, i1, i2]: 64-bit where a large tensor needs it, 32-bit inside of one plane."""
    far = b.to(tl.int64) * strides[0] + c.to(tl.int64) * strides[1] + i0.to(tl.int64) * strides[2]
    return pointer + far + (i1 * strides[3] + i2 * strides[4])


@triton.jit
@no_type_check
def offset(j, o0, o1, o2, size, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr):
    """Where offset j of a window stands, and whether that is inside of the input."""
    i0 = o0 * S[0] - P[0] + j // (K[1] * K[2])
    i1 = o1 * S[1] - P[1] + j // K[2] % K[1]
    i2 = o2 * S[2] - P[2] + j % K[2]
    inside = (i0 >= 0) & (i0 < size[0]) & (i1 >= 0) & (i1 < size[1]) & (i2 >= 0) & (i2 < size[2])
    return i0, i1, i2, inside


@triton.jit
@no_type_check
def container(t, i0, i1, i2, out, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr):
    """The t-th of the at most ceil(k / s)^3 windows that contain a position, at which offset, and whether it exists."""
    T1: tl.constexpr = (K[1] + S[1] - 1) // S[1]
    T2: tl.constexpr = (K[2] + S[2] - 1) // S[2]
    o0 = (i0 + P[0]) // S[0] - t // (T1 * T2)
    o1 = (i1 + P[1]) // S[1] - t // T2 % T1
    o2 = (i2 + P[2]) // S[2] - t % T2
    k0, k1, k2 = i0 + P[0] - o0 * S[0], i1 + P[1] - o1 * S[1], i2 + P[2] - o2 * S[2]
    exists = (o0 >= 0) & (o0 < out[0]) & (o1 >= 0) & (o1 < out[1]) & (o2 >= 0) & (o2 < out[2])
    exists &= (k0 < K[0]) & (k1 < K[1]) & (k2 < K[2])
    return o0, o1, o2, (k0 * K[1] + k1) * K[2] + k2, exists


@triton.jit
@no_type_check
def _clipped(o, length, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr):
    low = o * S - P
    return tl.minimum(low + K, length) - tl.maximum(low, 0)


@triton.jit
@no_type_check
def count(o0, o1, o2, size, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr):
    """How many positions of the input a window has; 1 for one that does not exist, so that all may divide by it."""
    n = _clipped(o0, size[0], K[0], S[0], P[0]) * _clipped(o1, size[1], K[1], S[1], P[1])
    return tl.maximum(n * _clipped(o2, size[2], K[2], S[2], P[2]), 1).to(tl.float32)
