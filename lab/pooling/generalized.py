"""Generalised means over tokens, each coordinate by itself: one scalar moves a pool between mean, max and sum.

All are computed through logarithms, so no power and no exponential overflows, in half precision either.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, at_once, expand, finite, keep, total
from lab.kernels.parts import by_parts
from lab.kernels.segment_pool import by_kernel
from lab.kernels.segment_torch import (
    exponential_sum,
    logsumexp,
    softmax_mean,
    softmax_mean_gradient,
)
from lab.pooling.arguments import check_counts, check_positive
from lab.pooling.functional import check, counts, segment_expand, segment_pool
from lab.pooling.length import length
from lab.pooling.selection import blank


def positive(raw: Tensor) -> Tensor:
    """softplus(raw): no optimiser step can take it to zero or below."""
    return nn.functional.softplus(raw, threshold=50)


def raw(value: float, name: str, trainable: bool, shape: tuple[int, ...] = ()) -> nn.Parameter:
    """The parameter whose softplus is `value`."""
    check_positive(**{name: value})
    start = value + math.log(-math.expm1(-value))
    return nn.Parameter(torch.full(shape, start, dtype=torch.get_default_dtype()), requires_grad=trainable)


def wide(x: Tensor) -> torch.dtype:
    """The type to accumulate in: float32, or x's own where that is wider."""
    return torch.promote_types(x.dtype, torch.float32)


def log_sum(x: Tensor, mask: Segments, p: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
    """ln sum_t base(x_t)^p = LSE_t(p ln base(x_t)), in float32 or wider; base is positive."""
    if by_kernel(x):
        return segment_pool(_log_power(x, mask, p, base), mask, "lse")
    return logsumexp(*by_parts(partial(_power_sum, base=base), (x,), mask, p), mask)


def _power_sum(x: Tensor, mask: Segments, p: Tensor, base: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    return exponential_sum(_log_power(x, mask, p, base), mask)


def _log_power(x: Tensor, mask: Segments, p: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
    return p * base(keep(x, mask).to(wide(x))).log()


# below it powers are taken around the geometric mean: float32's ln(max / min) = 190 times this fits into exp
SMALL = 0.4


def log_power_mean(x: Tensor, mask: Segments, p: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
    """1/p ln mean_t base(x_t)^p for p > 0, in float32 or wider; base is positive.

    LSE_t(p u) - ln n with u = ln base(x) are two numbers that become equal as p falls, and 1/p times their rounding is
    large. With m the mean of u the same is m + 1/p ln(1 + mean_t expm1(p (u_t - m))), where nothing cancels: that mean
    is never negative, and 0 at p = 0.
    """
    small = p < SMALL
    few, all_ = (bool(small.any()), bool(small.all())) if at_once(x) else (True, False)
    n = counts(mask).clamp(min=1).to(p.dtype)[:, None]
    if few:
        low = p.clamp(max=SMALL)
        middle, more = by_parts(partial(_powers_around_the_middle, base=base), (x,), mask, low)
        around = middle + (more / n).log1p() / low
        if all_:
            return around
    high = p.clamp(min=SMALL)
    below = (log_sum(x, mask, high, base) - n.log()) / high
    return torch.where(small, around, below) if few else below


def _powers_around_the_middle(
    x: Tensor, mask: Segments, p: Tensor, base: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """m, the mean of u = ln base(x), held where it is (at 0 where u is infinite); and sum_t expm1(p (u_t - m))."""
    u = base(keep(x, mask).to(wide(x))).log()
    middle = segment_pool(u.detach(), mask, "mean")
    middle = middle.masked_fill(middle.isinf(), 0)
    more = keep((p * (u - expand(middle, mask, x.shape[-2]))).expm1(), mask)
    return middle, segment_pool(more, mask, "sum") if by_kernel(more) else total(more, mask)


def log_counts(mask: Segments, dtype: torch.dtype) -> Tensor:
    """ln n as a column, 0 for rows without tokens."""
    return counts(mask).clamp(min=1).to(dtype).log()[:, None]


class GeM(nn.Module):
    """Generalised mean, y = (1/n sum_t max(x_t, eps)^p)^(1/p) = exp((LSE_t(p ln max(x_t, eps)) - ln n) / p).

    x (B, T, D), mask (B, T) -> (B, D), or ragged. p = 1 is the mean, 2 the root mean square, p -> inf the maximum,
    p -> 0 the geometric mean, all of max(x, eps): the mean is not of signed values. `p` starts at 3, positive by
    softplus, one for all coordinates. Radenovic, Tolias & Chum, TPAMI 2019, eq. 3 (number recalled).
    https://arxiv.org/abs/1711.02512
    ValueError: p or eps not positive.
    """

    def __init__(self, dim: int | None = None, p: float = 3.0, eps: float = 1e-6, trainable: bool = True) -> None:
        super().__init__()
        check_positive(eps=eps)  # its logarithm is taken
        self.dim, self.eps, self.trainable = dim, eps, trainable
        self.raw_p = raw(p, "p", trainable)

    @property
    def p(self) -> Tensor:
        return positive(self.raw_p)

    def exponent(self, dtype: torch.dtype) -> Tensor:
        """p for each coordinate, or for all."""
        return positive(self.raw_p.to(dtype))

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask, self.dim if self.raw_p.ndim else None)  # of one p for all it does not matter
        p = self.exponent(wide(x))
        log_mean = log_power_mean(x, mask, p, partial(torch.clamp, min=self.eps))
        return blank(log_mean.exp(), mask).to(x.dtype)


class GroupGeM(GeM):
    """GeM with one p for each group of neighbouring coordinates, y_d = GeM_{p_g(d)}(x_d), p in R^num_groups.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. One group is GeM, D groups (the default) have one p per coordinate
    (GeMmp); for a transformer take the number of heads. Definition from the abstract, initial p = 3 and eps ours.
    https://arxiv.org/abs/2212.04114
    ValueError: dim not divisible by num_groups.
    """

    def __init__(
        self, dim: int, num_groups: int | None = None, p: float = 3.0, eps: float = 1e-6, trainable: bool = True
    ) -> None:
        super().__init__(dim, p, eps, trainable)
        num_groups = dim if num_groups is None else num_groups
        check_counts(dim=dim, num_groups=num_groups)
        if dim % num_groups:
            raise ValueError(f"dim must divide into num_groups; got dim {dim} and num_groups {num_groups}")
        self.num_groups = num_groups
        self.raw_p = raw(p, "p", trainable, (num_groups,))

    def exponent(self, dtype: torch.dtype) -> Tensor:
        return super().exponent(dtype).repeat_interleave(self.dim // self.num_groups)


class LSEPool(nn.Module):
    """Log-mean-exp, y = 1/r ln(1/n sum_t exp(r x_t)). mean <= y <= max; r -> 0 is the mean, r -> inf the maximum.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. `r` starts at 1, positive by softplus. Pinheiro & Collobert, CVPR
    2015, eq. 6 (number recalled). https://arxiv.org/abs/1411.6228
    ValueError: r not positive.
    """

    def __init__(self, dim: int | None = None, r: float = 1.0, trainable: bool = False) -> None:
        super().__init__()
        self.dim, self.trainable = dim, trainable
        self.raw_r = raw(r, "r", trainable)

    @property
    def r(self) -> Tensor:
        return positive(self.raw_r)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        return log_mean_exp(x, mask, positive(self.raw_r.to(wide(x)))).to(x.dtype)


def log_mean_exp(x: Tokens, mask: Segments, r: Tensor) -> Float[Tensor, "S D"]:
    """1/r ln mean_t exp(r x_t) in float32 or wider, exact at both ends of r.

    With c = r (x - max) the mean of exp(c) is in (0, 1]. Near 1, where r is small and 1/r times its rounding large, it
    is taken as 1 + the mean of expm1(c).
    """
    n = counts(mask).clamp(min=1).to(wide(x))[:, None]
    z, top = by_parts(partial(_sum_below_the_top, torch.exp), (x,), mask, r, gradient=_below_the_top_gradient)
    mean = z / n
    near = mean > 0.5
    log = mean.masked_fill(near | (mean == 0), 1).log()
    if not at_once(x) or bool(near.any()):
        z, _ = by_parts(partial(_sum_below_the_top, torch.expm1), (x,), mask, r, gradient=_below_the_top_gradient)
        log = torch.where(near, (z / n).masked_fill(~near, 0).log1p(), log)
    return blank(top + log / r, mask)


def _sum_below_the_top(
    exp: Callable[[Tensor], Tensor], x: Tokens, mask: Segments, r: Tensor
) -> tuple[Float[Tensor, "S D"], Float[Tensor, "S D"]]:
    """sum_t exp(c_t), and the maximum."""
    below, top = _below_the_top(x, mask)
    e = keep(exp(r * below), mask)
    return segment_pool(e, mask, "sum") if by_kernel(e) else total(e, mask), top


def _below_the_top_gradient(
    dy: Sequence[Tensor], y: Sequence[Tensor], x: Tensor, mask: Tensor, r: Tensor
) -> tuple[Tensor]:
    """dx = r exp(c) dz, of exp and of expm1."""
    e = (keep(x, mask).to(wide(x)) - y[1][:, None]).mul_(r).exp_()
    return (keep(e, mask).mul_((r * dy[0])[:, None]),)


def _below_the_top(x: Tokens, mask: Segments) -> tuple[Tensor, Tensor]:
    """Each real token less the maximum, whose gradient cancels: log-mean-exp shifts with x."""
    real = keep(x, mask).to(wide(x))
    top = segment_pool(real.detach(), mask, "max")
    return keep(real - segment_expand(top, mask, x.shape[-2]), mask), top


class SoftmaxPool(nn.Module):
    """Softmax-weighted mean of each coordinate by its own value, y = sum_t softmax_t(beta x)_t x_t.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. `beta`, an inverse temperature of any sign, starts at 1: 0 is the
    mean, inf the maximum, -inf the minimum. Li et al., DeeperGCN, 2020, eq. 3 (number recalled).
    https://arxiv.org/abs/2006.07739
    """

    def __init__(self, dim: int | None = None, beta: float = 1.0, trainable: bool = False) -> None:
        super().__init__()
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite; got {beta} (for its limit take the max pool)")
        self.dim, self.trainable = dim, trainable
        self.beta = nn.Parameter(torch.tensor(float(beta)), requires_grad=trainable)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        beta = self.beta.to(wide(x))
        if by_kernel(x):
            real = keep(x, mask).to(wide(x))
            return segment_pool(real, mask, "softmax", beta * real).to(x.dtype)
        (y,) = by_parts(_own_mean, (x,), mask, beta, gradient=_own_mean_gradient)
        return y.to(x.dtype)


def _own_mean(x: Tokens, mask: Segments, beta: Tensor) -> tuple[Tensor]:
    """The mean weighted by softmax(beta x)."""
    x = finite(x.to(beta.dtype), mask)
    return softmax_mean(x, beta * x, mask)


def _own_mean_gradient(
    dy: Sequence[Tensor], y: Sequence[Tensor], x: Tensor, mask: Tensor, beta: Tensor
) -> tuple[Tensor]:
    x = finite(x.to(beta.dtype), mask)
    dx, ds = softmax_mean_gradient(dy, y, x, beta * x, mask)
    return (dx.addcmul_(ds, beta),)


class GNP(nn.Module):
    """Generalised norm pooling, y = n^-q (sum_t |x_t|^p)^(1/p) = exp(LSE_t(p ln |x_t|) / p - q ln n).

    x (B, T, D), mask (B, T) -> (B, D), or ragged. Of |x|: (p, q) = (1, 0) is the sum, (1, 1) the mean, (inf, 0) the
    maximum, (-inf, 0) the minimum. A set taken twice gives 2^(1/p - q) y. |p| stays positive by softplus and keeps
    the sign it starts with: p = 0 has no value. |x| is clamped at `eps`. Ko et al., 2021: from the abstract, the
    formula recalled; how the paper joins signs is not verified, so here signs are dropped.
    https://arxiv.org/abs/2106.06210
    ValueError: p zero, eps not positive.
    """

    def __init__(
        self, dim: int | None = None, p: float = 1.0, q: float = 1.0, eps: float = 1e-6, trainable: bool = True
    ) -> None:
        super().__init__()
        check_positive(eps=eps)
        if p == 0 or not math.isfinite(q):
            raise ValueError(f"p must not be zero and q finite; got p {p} and q {q}")
        self.dim, self.eps, self.trainable, self.sign = dim, eps, trainable, math.copysign(1.0, p)
        self.raw_p = raw(abs(p), "|p|", trainable)
        self.q = nn.Parameter(torch.tensor(float(q)), requires_grad=trainable)

    @property
    def p(self) -> Tensor:
        return self.sign * positive(self.raw_p)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        p, q = self.sign * positive(self.raw_p.to(wide(x))), self.q.to(wide(x))
        log_norm = log_sum(x, mask, p, lambda real: real.abs().clamp(min=self.eps)) / p
        return blank((log_norm - q * log_counts(mask, wide(x))).exp(), mask).to(x.dtype)


class NormWeightedMeanPool(nn.Module):
    """Mean of tokens weighted by a power of their norm, y = sum_t |x_t|^alpha x_t / sum_t |x_t|^alpha.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. alpha = 1 by default, 0 is the mean, -1 weighs directions alike.
    A standard form without one source.
    """

    def __init__(self, dim: int | None = None, alpha: float = 1.0, eps: float = 1e-6) -> None:
        super().__init__()
        check_positive(eps=eps)
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite; got {alpha}")
        self.dim, self.alpha, self.eps = dim, alpha, eps

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        log = length(x.to(wide(x)), mask).clamp(min=self.eps).log()
        return segment_pool(x, mask, "softmax", (self.alpha * log).to(wide(x)))
