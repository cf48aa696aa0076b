"""The power mean (mean x^p)^(1/p): what p and eps may be, and its terms where p is small.

ln y = ln(mean e^(pu)) / p with u = ln x, and its slope along p is (mean(w u) - ln y) / p, w = e^(pu) / mean e^(pu).
At p = 1e-4 both as they stand have lost three of float32's seven digits: a difference of nearly equal numbers is
divided by p. The slope is also mean(g(p (u - ln y))) / p^2, g(t) = t e^t - e^t + 1 >= 0, in which nothing cancels but
inside of g; so down to p -> 0, the geometric mean.
"""

import math
from numbers import Real

import torch
from torch import Tensor

from lab.kernels.layout import at_once

GENTLE = 0.25  # an exponent from here on divides the rounding error by no more than that


def check_eps(eps: float, dtype: torch.dtype) -> None:
    """TypeError for what is no number, ValueError for one that dtype cannot hold or has no logarithm."""
    if not isinstance(eps, Real) or isinstance(eps, bool):
        raise TypeError(f"eps must be a number; got {eps!r}")
    info = torch.finfo(dtype)
    if not info.tiny <= eps <= info.max:
        raise ValueError(f"eps must be in {info.tiny:.3g} .. {info.max:.3g}, the range of {dtype}; got {eps}")


def exponent(p: float | Tensor, like: Tensor) -> Tensor:
    """p as a tensor of like's type and device. ValueError unless > 0 and finite.

    A tensor on another device than the CPU, or in a graph, is not waited for: there a p that would be refused is NaN.
    """
    if not isinstance(p, Tensor):
        if not isinstance(p, Real) or isinstance(p, bool):
            raise TypeError(f"p must be a number or a tensor; got {p!r}")
        _check(p, p, like.dtype)
        given = like.new_full((), p)
    else:
        given = p.to(like.dtype)
        if at_once(given):
            _check(*(end.item() for end in given.detach().aminmax()), like.dtype)
        else:
            given = torch.where((given > 0) & (given < math.inf), given, math.nan)
    # a smaller one is the geometric mean to the last digit too, and p u and p^2 would no longer be normal numbers
    least = torch.finfo(like.dtype).tiny ** (1 / 3)
    return given + (least - given).clamp(min=0).detach()


def _check(low: float, high: float, dtype: torch.dtype) -> None:
    if not low > 0:
        raise ValueError(f"p must be > 0; got {low}")
    if high > torch.finfo(dtype).max:
        raise ValueError(f"p must be finite in {dtype}, its limit is the maximum (mode 'max'); got {high}")


def excess(z: Tensor) -> Tensor:
    """(e^z - 1 - z) / z^2, and 1/2 at 0: of one sign, so that its mean cancels nothing. Differentiable, twice too."""
    near = z.abs() < 1
    small, far = z.masked_fill(~near, 0), z.masked_fill(near, 1)
    last = 19 if z.dtype == torch.float64 else 11  # the first term left out is 2 / 12! = 4e-9 of the first
    tail = 1 + small / last
    for n in range(last - 1, 2, -1):
        tail = 1 + small * tail / n
    return torch.where(near, tail / 2, (far.expm1() - far) / far.square())


def lean(u: Tensor, p: Tensor) -> Tensor:
    """g(p u) / p^2 of u = ln(x / y): never negative; u^2 / 2 at p = 0."""
    t = (p * u).clamp(min=-1e4)  # g is 1 there
    near = u.square() * (1 + (t - 1) * excess(t.clamp(max=1)))
    return torch.where(t.abs() < 1, near, ((t - 1) * t.exp() + 1) / p.square())
