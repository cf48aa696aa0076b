"""Generalized means of feature maps: GeM, and the regional and scale forms of SuperGlobal with its shifted ReLU."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels import power
from lab.kernels.layout import at_once
from lab.kernels.window_pool import window_pool
from lab.kernels.windows import Ints
from lab.pooling.arguments import check_counts, check_positive
from lab.pooling.spatial import check


def power_mean(x: Tensor, p: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """(mean max(x, eps)^p)^(1/p) over some axes, kept as 1; scaled by the maximum, so no power over- or underflows.

    ln y = ln(mean e^(pu)) / p with u = ln x; for a small p, which would divide a rounding error, it is
    m + ln(1 + p^2 mean(v^2 excess(pv))) / p with m = mean u and v = u - m.
    ValueError: p or eps not positive and finite.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    power.check_eps(eps, wide.dtype)
    wide, p = wide.clamp(min=eps), power.exponent(p, wide)
    top = wide.detach().amax(dims, keepdim=True)
    u = 2 * (wide.sqrt() / top.sqrt()).log()  # the ratio of roots never underflows
    log_mean = (p * u).exp().mean(dims, keepdim=True).log() / p
    if not at_once(p) or bool((p < power.GENTLE).any()):
        middle, q = u.mean(dims, keepdim=True), p.clamp(max=power.GENTLE)
        v = u - middle
        rest = (v.square() * power.excess(q * v)).mean(dims, keepdim=True)
        log_mean = torch.where(p < power.GENTLE, middle + (q.square() * rest).log1p() / q, log_mean)
    return (top * log_mean.exp()).to(x.dtype)


class GeM2d(nn.Module):
    """GeM, y = (1/n sum_i max(x_i, eps)^p)^(1/p), over windows or (kernel_size=None) over the whole map; p learned.

    x (B, C, H, W) -> (B, C, oH, oW), globally (B, C, 1, 1). p = e^log_p is always > 0; channels: None for one p, or
    one a channel. p = 1 is the mean of max(x, eps), p -> inf the maximum, p -> 0 the geometric mean. Radenovic,
    Tolias & Chum, TPAMI 2019, eq. 3 (number recalled; the authors' code was read). https://arxiv.org/abs/1711.02512
    """

    def __init__(
        self, p: float = 3.0, eps: float = 1e-6, kernel_size: Ints | None = None, stride: Ints | None = None,
        padding: Ints = 0, ceil_mode: bool = False, channels: int | None = None, learnable: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 < p < math.inf or not 0 < eps < math.inf:
            raise ValueError(f"p must be > 0 and finite, eps as well; got p={p}, eps={eps}")
        if channels is not None:
            check_counts(channels=channels)
        self.eps, self.kernel_size = eps, kernel_size
        self.args = (kernel_size, stride, padding, ceil_mode)
        self.log_p = nn.Parameter(torch.full((channels or 1,), math.log(p)), requires_grad=learnable)

    @property
    def p(self) -> Tensor:
        return self.log_p.exp()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C oH oW"]:
        check(x, 2, len(self.log_p) if len(self.log_p) > 1 else None)
        if self.kernel_size is None:
            return power_mean(x, self.p.view(-1, 1, 1), (2, 3), self.eps)
        return window_pool(x, "lp", *self.args, p=self.p, eps=self.eps)


class RegionalGeM(nn.Module):
    """Regional GeM, y = (r(x) + x) / 2 with r the power mean of a kernel_size x kernel_size neighbourhood, p = 2.5.

    x (B, C, H, W) -> the same shape, reflected at the border. max(x, eps) is what has a power; the authors' code
    gives NaN for a negative x. Shao et al., ICCV 2023 (SuperGlobal; the authors' code was read, equation not known).
    https://arxiv.org/abs/2308.06954
    """

    def __init__(self, p: float = 2.5, kernel_size: int = 5, eps: float = 1e-6) -> None:
        super().__init__()
        check_positive(p=p, eps=eps)
        check_counts(kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"p must be > 0 and kernel_size odd; got p={p}, kernel_size={kernel_size}")
        self.p, self.kernel_size, self.eps = p, kernel_size, eps

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        check(x, 2)
        edge = self.kernel_size // 2
        if min(x.shape[2:]) <= edge:
            raise ValueError(f"a reflection of {edge} needs more rows and columns than that; got {tuple(x.shape[2:])}")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # the mean of two results is rounded once
        around = nn.functional.pad(wide, [edge] * 4, mode="reflect")
        return ((window_pool(around, "lp", self.kernel_size, stride=1, p=self.p, eps=self.eps) + wide) / 2).to(x.dtype)


class ScaleGeM(nn.Module):
    """Scale GeM over one image's descriptors at S scales, y = (mean_s (x_s - m)^p)^(1/p) + m, m = min over s and d.

    x (B, S, D) -> (B, D). p = inf: every descriptor to length 1, then the maximum over scales. The minimum is each
    image's own, so that a batch gives what its images give. Shao et al., ICCV 2023 (SuperGlobal; the authors' code
    was read, equation not known). https://arxiv.org/abs/2308.06954
    """

    def __init__(self, p: float = 10.0) -> None:
        super().__init__()
        if not p > 0:
            raise ValueError(f"p must be > 0; got {p}")
        self.p = p

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B D"]:
        if x.ndim != 3 or not x.is_floating_point() or 0 in x.shape[1:]:
            raise ValueError(
                f"x must be [batch, scales >= 1, dim >= 1] of a float type; got {tuple(x.shape)} of {x.dtype}"
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.p == math.inf:
            return nn.functional.normalize(wide, dim=-1).amax(1).to(x.dtype)
        low = wide.amin((1, 2), keepdim=True)
        tiny = torch.finfo(wide.dtype).tiny
        return (power_mean(wide - low, wide.new_tensor(self.p), (1,), tiny) + low)[:, 0].to(x.dtype)


class ReLUP(nn.Module):
    """ReLUP, y = max(x, alpha), elementwise: a shifted clamp (its name reads like a power). alpha = 0 is ReLU.

    Shao et al., ICCV 2023 (SuperGlobal; the authors' code was read, equation not known).
    https://arxiv.org/abs/2308.06954
    """

    def __init__(self, alpha: float = 0.014) -> None:
        super().__init__()
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite; got {alpha}")
        self.alpha = alpha

    def forward(self, x: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x must be a tensor of a float type; got {getattr(x, 'dtype', type(x).__name__)}")
        return nn.functional.hardtanh(x, self.alpha, math.inf)  # a clamp whose gradient torch vectorises on a CPU
