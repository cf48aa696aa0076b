"""Spatial pooling without parameters, x [B, C, *spatial] to a smaller grid: one window reduction each.

Arguments as in torch.nn's pooling layers; padding is never counted.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels import windows
from lab.kernels.window_pool import window_pool
from lab.kernels.windows import Ints
from lab.pooling.arguments import check_counts


class WindowPool(nn.Module):
    """y = window_pool(x, self.mode, ...) on an input with self.dims spatial axes; the classes below name the modes."""

    mode: str
    dims: int

    def __init__(
        self, kernel_size: Ints = 2, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode

    def forward(self, x: Float[Tensor, "B C *L"]) -> Float[Tensor, "B C *O"]:
        check(x, self.dims)
        return window_pool(x, self.mode, self.kernel_size, self.stride, self.padding, self.ceil_mode)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


def check(x: Tensor, dims: int, channels: int | None = None) -> None:
    """ValueError unless x is [B, C] and dims spatial axes, not empty, of a float type; TypeError for no tensor.

    channels: how many it must have, for pools whose weights have as many.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor; got {type(x).__name__}")
    if x.ndim != dims + 2 or not x.is_floating_point():
        raise ValueError(
            f"x must be [batch, channels] and {dims} spatial axes of a float type; got {tuple(x.shape)} of {x.dtype}"
        )
    if any(n == 0 for n in x.shape[2:]):
        raise ValueError(f"x must have at least one place along each spatial axis; got {tuple(x.shape)}")
    if channels is not None and x.shape[1] != channels:
        raise ValueError(f"x must have {channels} channels, as the pool was built; got {tuple(x.shape)}")


class SoftPool1d(WindowPool):
    """SoftPool, y = sum_i w_i x_i with w = softmax(x) over the window: between the mean and the maximum.

    x (B, C, L) -> (B, C, O). Gradient w_i (1 + x_i - y); the authors' CUDA code has w_i alone, and no maximum is
    subtracted there. Stergiou, Poppe & Kalliatakis, ICCV 2021, section 3 (section recalled; the authors' code was read
    for the formula). https://arxiv.org/abs/2101.00440
    """

    mode, dims = "softmax", 1


class SoftPool2d(SoftPool1d):
    """SoftPool1d over x (B, C, H, W) -> (B, C, oH, oW)."""

    dims = 2


class SoftPool3d(SoftPool1d):
    """SoftPool1d over x (B, C, D, H, W) -> (B, C, oD, oH, oW)."""

    dims = 3


class EDSCWPool1d(WindowPool):
    """eDSCW, y = sum_i w_i x_i, w = softmax over the window of DSC(x_i, mean), DSC(a, b) = 2 |ab| / (a^2 + b^2).

    x (B, C, L) -> (B, C, O). DSC lies in [0, 1], so the weights stay within a factor e of each other; DSC(0, 0) = 1,
    where the authors' code divides zero by zero. Stergiou & Poppe, IEEE TIP 2023, section III (section recalled; the
    authors' code was read for the formula). https://arxiv.org/abs/2111.00772
    """

    mode, dims = "dsc", 1


class EDSCWPool2d(EDSCWPool1d):
    """EDSCWPool1d over x (B, C, H, W) -> (B, C, oH, oW)."""

    dims = 2


class EDSCWPool3d(EDSCWPool1d):
    """EDSCWPool1d over x (B, C, D, H, W) -> (B, C, oD, oH, oW)."""

    dims = 3


class PoolMixer2d(nn.Module):
    """PoolFormer's token mixer, y = mean over the pool_size x pool_size neighbours - x, padding not counted.

    x (B, C, H, W) -> the same shape. Linear; zero on a constant map. Yu et al., CVPR 2022, eq. 4 (number recalled; the
    authors' code was read). https://arxiv.org/abs/2111.11418
    """

    def __init__(self, pool_size: int = 3) -> None:
        super().__init__()
        check_counts(pool_size=pool_size)
        if pool_size % 2 == 0:
            raise ValueError(
                f"pool_size must be odd, so that a token has a middle place in its window; got {pool_size}"
            )
        self.pool_size = pool_size

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        check(x, 2)
        return window_pool(x, "mean_minus_x", self.pool_size, stride=1, padding=self.pool_size // 2)


class SpatialPyramidPool2d(nn.Module):
    """Spatial pyramid: n x n bins for every level n, reduced and concatenated; the length does not depend on H, W.

    x (B, C, H, W) -> (B, C * sum n^2), level by level, a level as (C, n, n) flattened. bins="paper": windows of
    ceil(a/n) every floor(a/n), which leave the end of an axis unseen when n does not divide it (10 columns, n = 4: 9
    seen); bins="adaptive": torch's, which cover all. He et al., ECCV 2014, section 2.2 (recalled).
    https://arxiv.org/abs/1406.4729
    """

    def __init__(self, levels: tuple[int, ...] = (1, 2, 3, 6), reduce: str = "max", bins: str = "adaptive") -> None:
        super().__init__()
        if not isinstance(levels, tuple | list) or not levels or any(not isinstance(n, int) or n < 1 for n in levels):
            raise ValueError(f"levels must be one or more whole numbers of bins >= 1; got {levels}")
        if reduce not in {"max", "mean"} or bins not in {"adaptive", "paper"}:
            raise ValueError(f"reduce is 'max' or 'mean', bins 'adaptive' or 'paper'; got {reduce!r} and {bins!r}")
        self.levels, self.reduce, self.bins = tuple(levels), reduce, bins

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        check(x, 2)
        if self.bins == "paper" and max(self.levels) > min(x.shape[2:]):
            raise ValueError(
                f"paper bins need H, W >= {max(self.levels)}; got {tuple(x.shape[2:])}: use bins='adaptive'"
            )
        level = self._paper if self.bins == "paper" else self._adaptive
        return torch.cat([level(x, n).flatten(1) for n in self.levels], 1)

    def _paper(self, x: Tensor, n: int) -> Tensor:
        step = [a // n for a in x.shape[2:]]
        kernel = [-(-a // n) for a in x.shape[2:]]
        # 7 columns have room for 6 windows of 2 every 1; a level of 4 bins is the first 4
        H, W = ((n - 1) * s + k for s, k in zip(step, kernel, strict=True))
        return window_pool(x[..., :H, :W], self.reduce, kernel, step)

    def _adaptive(self, x: Tensor, n: int) -> Tensor:
        if self.reduce == "max":
            return nn.functional.adaptive_max_pool2d(x, n)
        wide = torch.promote_types(x.dtype, torch.float32)
        return nn.functional.adaptive_avg_pool2d(x.to(wide), n).to(x.dtype)


def tiles(x: Float[Tensor, "B C H W"], kernel_size: Ints) -> Float[Tensor, "B C h w kH kW"]:
    """Windows side by side, a view without copies; rows and columns past the last whole window are left out."""
    w = windows.plan(x, kernel_size, None, 0, False)
    return x.unfold(2, w.kernel[1], w.kernel[1]).unfold(3, w.kernel[2], w.kernel[2])
