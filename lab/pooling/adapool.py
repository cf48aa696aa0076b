"""AdaPool, a learned mix of eDSCW and SoftPool, and its inverse by the weights it used."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels import windows
from lab.kernels.window_pool import dice, window_pool
from lab.kernels.windows import Ints
from lab.pooling.spatial import check, tiles


class AdaPool2d(nn.Module):
    """AdaPool, y = beta eDSCW(x) + (1 - beta) SoftPool(x), beta = sigmoid(raw_beta), never outside of [0, 1].

    x (B, C, H, W) -> (B, C, oH, oW). beta_size: () one number, (C,) one a channel, (oH, oW) one a region; beta: where
    it starts (at exactly 0 or 1 it stays). The authors' code clamps a copy of beta (it stays unconstrained), writes
    no gradient for it in its native path and starts half of it at 0. Stergiou & Poppe, IEEE TIP 2023, section III
    (section recalled; the authors' code was read for the formula). https://arxiv.org/abs/2111.00772
    """

    def __init__(
        self, kernel_size: Ints = 2, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
        beta: float = 0.5, beta_size: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = beta_size if isinstance(beta_size, tuple | list) else (0,)
        if not 0 <= beta <= 1 or len(sizes) > 2 or any(n < 1 for n in sizes):
            raise ValueError(f"beta must be in [0, 1], its size (), (C,) or (oH, oW); got {beta} and {beta_size}")
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode
        raw = math.inf if beta == 1 else -math.inf if beta == 0 else math.log(beta / (1 - beta))
        self.raw_beta = nn.Parameter(torch.full(beta_size, raw))

    @property
    def beta(self) -> Tensor:
        beta = self.raw_beta.sigmoid()
        return beta.view(-1, 1, 1) if beta.ndim == 1 else beta

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C oH oW"]:
        check(x, 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # the mix is rounded once
        args = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        edscw, em = window_pool(wide, "dsc", *args), window_pool(wide, "softmax", *args)
        if self.raw_beta.ndim == 1 and len(self.raw_beta) != x.shape[1]:
            raise ValueError(f"beta has {len(self.raw_beta)} channels; x has {x.shape[1]}")
        if self.raw_beta.ndim == 2 and self.raw_beta.shape != edscw.shape[2:]:
            raise ValueError(f"beta is {tuple(self.raw_beta.shape)}; the output is {tuple(edscw.shape[2:])}")
        return torch.lerp(em, edscw, self.beta.to(wide.dtype).expand_as(em)).to(x.dtype)

    def masks(self, x: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """The weights [B, C, H, W] that each position had in eDSCW and in SoftPool, and beta: what AdaUnpool2d takes.

        Only for windows side by side (stride = kernel_size, no padding, no ceil_mode); zero past the last whole window.
        """
        check(x, 2)
        w = windows.plan(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)
        if w.stride != w.kernel or any(w.padding) or self.ceil_mode:
            raise ValueError(
                f"masks need windows side by side: stride=None, padding=0, ceil_mode=False; got kernel_size="
                f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, ceil_mode={self.ceil_mode}"
            )
        values = tiles(x.to(torch.promote_types(x.dtype, torch.float32)), self.kernel_size)
        mean = values.mean((-2, -1), keepdim=True)
        scores = (dice(values, mean), values)
        shares = [s.flatten(-2).softmax(-1).view(values.shape) for s in scores]
        maps = [share.transpose(-3, -2).flatten(-2).flatten(-3, -2) for share in shares]
        room = [0, x.shape[3] - maps[0].shape[3], 0, x.shape[2] - maps[0].shape[2]]
        edscw, em = (nn.functional.pad(m, room).to(x.dtype) for m in maps)
        return edscw, em, self.beta


class AdaUnpool2d(nn.Module):
    """adaUnPool, x_i = (beta m_i + (1 - beta) n_i) y: each value spread over its window by AdaPool2d's weights m, n.

    y (B, C, oH, oW), masks of AdaPool2d.masks(x) -> (B, C, H, W). The weights of a window sum to 1, so the sum over
    each window is y again. Stergiou & Poppe, IEEE TIP 2023 (section not known; from the authors' code).
    https://arxiv.org/abs/2111.00772
    """

    def __init__(self, kernel_size: Ints = 2) -> None:
        super().__init__()
        pair = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"kernel_size must be an int or 2 of them, each >= 1; got {kernel_size}")
        self.kernel_size = pair

    def forward(self, y: Float[Tensor, "B C oH oW"], masks: tuple[Tensor, Tensor, Tensor]) -> Float[Tensor, "B C H W"]:
        check(y, 2)
        if not isinstance(masks, tuple | list) or len(masks) != 3:
            raise ValueError(f"masks must be the three of AdaPool2d.masks(x); got {type(masks).__name__}")
        edscw, em, beta = masks
        kH, kW = self.kernel_size
        H, W = edscw.shape[2:]
        if edscw.shape != em.shape or edscw.shape[:2] != y.shape[:2] or (H // kH, W // kW) != tuple(y.shape[2:]):
            raise ValueError(
                f"masks must be those of the pooled map: {tuple(y.shape)} with windows of {self.kernel_size}; "
                f"got {tuple(edscw.shape)} and {tuple(em.shape)}"
            )
        if beta.ndim > y.ndim or any(n not in (1, m) for n, m in zip(beta.shape[::-1], y.shape[::-1], strict=False)):
            raise ValueError(f"beta must spread over the pooled map {tuple(y.shape)}; got {tuple(beta.shape)}")
        beta = beta.to(y.dtype).expand_as(y)
        parts = (_spread(y * beta, self.kernel_size, (H, W)), _spread(y * (1 - beta), self.kernel_size, (H, W)))
        return parts[0] * edscw + parts[1] * em


def _spread(y: Tensor, kernel: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """Every value at all places of its window (area interpolation by whole factors), zero past the last window."""
    large = y.repeat_interleave(kernel[0], 2).repeat_interleave(kernel[1], 3)
    return nn.functional.pad(large, [0, size[1] - large.shape[3], 0, size[0] - large.shape[2]])
