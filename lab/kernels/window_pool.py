"""Window reductions: mean, max, power mean, softmax- and DSC-weighted mean, max-mean mix, mean minus x.

One forward body, one thread per window; one backward body, one thread per position, which gathers from the windows that
contain it: no atomics, the same bits each time. These modes share what a window must be asked (maximum with its place,
sum, then one weighted sum); those that dot the window with filters are in window_filters.py.
"""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from lab.kernels import power, window_filters, window_pool_torch, window_pool_triton, windows
from lab.kernels.layout import at_once
from lab.kernels.segment_pool import by_kernel
from lab.kernels.windows import Ints, Windows

MODES = ("mean", "max", "lp", "softmax", "dsc", "mixed", "mean_minus_x")
PLANES = {"mean": 0, "mean_minus_x": 0, "max": 1, "lp": 1, "softmax": 1, "dsc": 3, "mixed": 1}  # kept for the backward
ROUNDED = {"softmax", "dsc"}  # y is read by the backward: of half inputs, y in float32 is one more plane, the last
PLACED = {"max", "mixed"}  # of which torch's path keeps one more precisely: where in the input the maximum stands


def dice(a: Tensor, b: Tensor) -> Tensor:
    """The Dice-Sorensen coefficient of two numbers, 2 |ab| / (a^2 + b^2) in [0, 1], and 1 for two zeros."""
    larger = torch.maximum(a.abs(), b.abs()).detach()  # a scale changes nothing, and squares without one leave float32
    none = larger == 0
    a, b = a / larger.masked_fill(none, 1), b / larger.masked_fill(none, 1)
    return torch.where(none, 1, 2 * (a * b).abs() / (a**2 + b**2).masked_fill(none, 1))


def reference(
    x: Float[Tensor, "B C *L"],
    mode: str,
    w: Windows,
    logit: Tensor | None = None,
    scale: Tensor | None = None,
    eps: float = 1e-6,
) -> Float[Tensor, "B C *O"]:
    """The definition, from the formulas; tests use float64. scale [C] is p of lp and alpha of mixed."""
    values, inside = windows.unfold(windows.lift(x), w)  # [..., K], [O0, O1, O2, K]
    n = inside.sum(-1)
    mean = values.sum(-1) / n
    first = values.masked_fill(~inside, -math.inf).argmax(-1, keepdim=True)  # the first of equal values
    top = values.gather(-1, first)[..., 0]
    s = None if scale is None else scale.view(-1, 1, 1, 1)

    def weighted(score: Tensor) -> Tensor:
        return (score.masked_fill(~inside, -math.inf).softmax(-1) * values).sum(-1)

    match mode:
        case "mean":
            y = mean
        case "mean_minus_x":
            y = mean - windows.lift(x)
        case "max":
            y = top
        case "mixed":
            y = s * top + (1 - s) * mean
        case "softmax":
            y = weighted(values if logit is None else windows.unfold(windows.lift(logit), w)[0])
        case "dsc":
            y = weighted(dice(values, mean[..., None]))
        case "lp":
            y = ((values.clamp(min=eps) ** s[..., None] * inside).sum(-1) / n) ** (1 / s)
    return windows.lower(y, x.ndim)


@torch.library.custom_op("lab::window_reduce", mutates_args=())
def _reduce(
    x: Tensor, logit: Tensor | None, scale: Tensor | None, geometry: Sequence[int], mode: str, eps: float, keep: int,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y, and the planes that the gradient needs: keep 0 none, 1 for x and logit, 2 for scale too."""
    w = Windows.unflat(geometry)
    y, kept, place = _outputs(x, w, mode, keep, fused)
    if not y.numel():
        return y, kept, place
    if not fused:
        n = w.counts(x.shape[2:], kept)
        for part in windows.parts(y):
            own_logit, planes = None if logit is None else logit[part], (kept[:, part], place[:, part])
            window_pool_torch.forward(x[part], own_logit, scale, w, n, mode, eps, y[part], *planes)
        return y, kept, place
    last = windows.is_channels_last(x)
    rows, ROWS, COLS, grid = windows.tiling(y.shape, last)
    score = x if logit is None else logit
    window_pool_triton.forward[grid](
        x, score, x if scale is None else scale.contiguous(), y, kept, x.stride(), score.stride(), y.stride(),
        kept.stride()[1:], kept.stride(0), rows, x.shape[1], tuple(x.shape[2:]), w.out, eps,
        MODE=mode, OWN=logit is None, KEEP=len(kept),
        K=w.kernel, S=w.stride, P=w.padding, LAST=last, ROWS=ROWS, COLS=COLS,
    )  # fmt: skip
    return y, kept, place


def _outputs(x, w, mode, keep, fused):
    shape = (x.shape[0], x.shape[1], *w.out)
    planes = 0 if keep == 0 else PLANES[mode] + (keep == 2 and mode in {"lp", "mixed"}) + is_rounded(x, mode)
    placed = keep > 0 and mode in PLACED and not fused
    kept = windows.empty(x, (planes - placed, *shape), torch.promote_types(x.dtype, torch.float32))
    return windows.empty(x, shape, x.dtype), kept, windows.empty(x, (int(placed), *shape), torch.int64)


def is_rounded(x: Tensor, mode: str) -> bool:
    """Whether the gradient needs y before it is rounded: x - y would have the rounding as its error."""
    return mode in ROUNDED and x.dtype in {torch.float16, torch.bfloat16}


@_reduce.register_fake
def _(x, logit, scale, geometry, mode, eps, keep, fused):  # noqa: ARG001 - the op's own signature
    return _outputs(x, Windows.unflat(geometry), mode, keep, fused)


@torch.library.custom_op("lab::window_reduce_backward", mutates_args=())
def _reduce_backward(
    dy: Tensor, x: Tensor, logit: Tensor | None, scale: Tensor | None, y: Tensor, kept: Tensor, place: Tensor,
    geometry: Sequence[int], mode: str, eps: float, fused: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    w = Windows.unflat(geometry)
    dx, dlogit = _gradients(x, logit)
    if not dx.numel():
        return dx, dlogit
    if not fused:
        n = w.counts(x.shape[2:], kept)
        for part in windows.parts(y):
            own_logit, grad_logit = (None, dlogit) if logit is None else (logit[part], dlogit[part])
            window_pool_torch.backward(
                dy[part], x[part], own_logit, scale, y[part], kept[:, part], place[:, part], w, n, mode, eps, dx[part],
                grad_logit,
            )  # fmt: skip
        return dx, dlogit
    last = windows.is_channels_last(x)
    rows, ROWS, COLS, grid = windows.tiling(x.shape, last)
    score = x if logit is None else logit
    window_pool_triton.backward[grid](
        dy, x, score, x if scale is None else scale.contiguous(), y, kept, dx, dlogit, dy.stride(), x.stride(),
        score.stride(), y.stride(), kept.stride()[1:], dx.stride(), kept.stride(0), rows, x.shape[1],
        tuple(x.shape[2:]), w.out, eps, MODE=mode, OWN=logit is None,
        K=w.kernel, S=w.stride, P=w.padding, LAST=last, ROWS=ROWS, COLS=COLS,
    )  # fmt: skip
    return dx, dlogit


def _gradients(x, logit):
    dx = windows.empty(x, x.shape, x.dtype)
    return dx, (x.new_empty(0) if logit is None else windows.empty(x, x.shape, logit.dtype))


@_reduce_backward.register_fake
def _(dy, x, logit, scale, y, kept, place, geometry, mode, eps, fused):  # noqa: ARG001 - the op's own signature
    return _gradients(x, logit)


def _save(ctx, inputs, output):
    x, logit, scale, ctx.geometry, ctx.mode, ctx.eps, _, ctx.fused = inputs
    y, kept, place = output
    ctx.save_for_backward(x, logit, scale, None if is_rounded(x, ctx.mode) else y, kept, place)
    ctx.set_materialize_grads(False)  # no zeros in the size of what is kept


def _differentiate(ctx, dy, *_):
    if dy is None:  # as nothing is made up for it
        return (None,) * 8
    x, logit, scale, y, kept, place = ctx.saved_tensors
    y = kept[-1] if y is None else y
    dx, dlogit = _reduce_backward(dy, x, logit, scale, y, kept, place, ctx.geometry, ctx.mode, ctx.eps, ctx.fused)
    dscale = None
    if scale is not None and ctx.needs_input_grad[2]:
        dscale = (dy * kept[-1]).sum((0, 2, 3, 4)).to(scale.dtype)  # the last plane is dy / dscale
    return dx, dlogit if logit is not None else None, dscale, None, None, None, None, None


_reduce.register_autograd(_differentiate, setup_context=_save)


def window_pool(
    x: Float[Tensor, "B C *L"],
    mode: str,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    *,
    logit: Tensor | None = None,
    p: float | Tensor = 3.0,
    eps: float = 1e-6,
    alpha: float | Tensor = 0.5,
    weight: Tensor | None = None,
) -> Float[Tensor, "B C *O"]:
    """Reduce every window of x [B, C, *spatial]; arguments as in torch's pooling functions, padding never counted.

    mode: mean; max (equal values: the first has the gradient); lp, the power mean (mean max(x, eps)^p)^(1/p); softmax
    of x itself (SoftPool), or of logit, broadcastable to x (LIP; a window of -inf logits gives 0); dsc, the softmax of
    dice(x, window's mean) (eDSCW); mixed, alpha max + (1 - alpha) mean; mean_minus_x; and with a weight [R, *kernel]:
    gated, tree and poset (window_filters.py). p > 0, alpha in [0, 1]: a number, or a tensor of one or C, which gives
    NaN where it is out of range and to look would wait for a GPU. p -> 0 is the geometric mean.
    A window much larger than 8 x 8 is better asked of segment_pool: here one thread reads it alone.
    """
    if mode not in MODES + window_filters.MODES:
        raise ValueError(f"mode must be one of {MODES + window_filters.MODES}; got {mode!r}")
    w = windows.plan(x, kernel_size, stride, padding, ceil_mode)
    fused = by_kernel(x)
    if mode in window_filters.MODES:
        return window_filters.apply(x, mode, w, weight, fused)
    if weight is not None:
        raise ValueError(f"weight goes with {window_filters.MODES}; got one with mode {mode!r}")
    if mode == "mean_minus_x" and w.out != tuple(windows.lift(x).shape[2:]):
        raise ValueError(
            "mean_minus_x keeps the input's size: stride=1, an odd kernel_size and padding=kernel_size // 2"
        )
    if not fused and logit is None and window_pool_torch.is_torchs(x, mode):
        return window_pool_torch.torchs(x, mode, w, ceil_mode)
    if logit is not None:
        logit = _spread(x, mode, logit)
    if mode == "lp":
        power.check_eps(eps, torch.promote_types(x.dtype, torch.float32))
    scale = _scale(x, mode, p if mode == "lp" else alpha) if mode in {"lp", "mixed"} else None
    keep = 0
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, logit, scale)):
        keep = 2 if scale is not None and scale.requires_grad else 1
    y, *_ = _reduce(windows.lift(x), logit, scale, w.flat(), mode, eps, keep, fused)
    return windows.lower(y, x.ndim)


def _spread(x: Tensor, mode: str, logit: Tensor) -> Tensor:
    if not isinstance(logit, Tensor):
        raise TypeError(f"logit must be a tensor; got {type(logit).__name__}")
    # == and not a set: hashing a symbolic size would fix it, and compile anew for each batch
    fits = logit.ndim == x.ndim and all(m == 1 or m == n for m, n in zip(logit.shape, x.shape, strict=True))
    if mode != "softmax" or not fits:
        raise ValueError(
            f"logit goes with softmax and broadcasts to x {tuple(x.shape)}; got {tuple(logit.shape)} with mode {mode!r}"
        )
    if logit.numel() != x.numel():  # its gradient is a sum over what it is spread to, rounded once
        logit = logit.to(torch.promote_types(logit.dtype, torch.float32))
    return windows.lift(logit.expand_as(x))


def _scale(x: Tensor, mode: str, value: float | Tensor) -> Tensor:
    """p of lp or alpha of mixed, one a channel, float32 or wider."""
    wide = x.new_empty(0, dtype=torch.promote_types(x.dtype, torch.float32))
    if isinstance(value, Tensor) and value.numel() != 1 and value.numel() != x.shape[1]:
        name = "p" if mode == "lp" else "alpha"
        raise ValueError(f"{name} must be one number or {x.shape[1]}, one a channel; got {tuple(value.shape)}")
    scale = power.exponent(value, wide) if mode == "lp" else _share(value, wide)
    return scale.reshape(-1).expand(x.shape[1])


def _share(alpha: float | Tensor, like: Tensor) -> Tensor:
    """alpha as a tensor of like's type and device; as with p, one that lies outside of [0, 1] on a GPU is NaN."""
    if not isinstance(alpha, Tensor | Real) or isinstance(alpha, bool):
        raise TypeError(f"alpha must be a number or a tensor; got {alpha!r}")
    if isinstance(alpha, Tensor) and not at_once(alpha):
        return torch.where((alpha >= 0) & (alpha <= 1), alpha, math.nan).to(like.dtype)
    low, high = (end.item() for end in alpha.detach().aminmax()) if isinstance(alpha, Tensor) else (alpha, alpha)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"alpha must be in [0, 1]; got {low if low == high else [low, high]}")
    return alpha.to(like.dtype) if isinstance(alpha, Tensor) else like.new_full((), alpha)
