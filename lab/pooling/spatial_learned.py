"""Pooling functions that are learned: a mix of maximum and mean, a gated mix, a tree of filters.

Lee, Gallagher & Tu, AISTATS 2016, section 3 (section recalled; formulas from third-party code and a mirror of the
authors' layers). https://arxiv.org/abs/1509.08985
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.window_pool import window_pool
from lab.kernels.windows import Ints
from lab.pooling.arguments import check_counts
from lab.pooling.spatial import check


class _Share(torch.autograd.Function):
    """alpha put into [0, 1]. Outside, a gradient passes if a descent along it leads back in, where a clamp has none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(alpha: Tensor) -> Tensor:
        return alpha.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG004 - torch's own signature
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (alpha,) = ctx.saved_tensors
        outward = ((alpha > 1) & (dy < 0)) | ((alpha < 0) & (dy > 0))
        return dy.masked_fill(outward, 0)


class MixedPool2d(nn.Module):
    """Mixed pooling, y = a max(x) + (1 - a) mean(x) over the window, a in [0, 1] learned.

    x (B, C, H, W) -> (B, C, oH, oW). channels: None for one a, or one a channel; alpha: where it starts, 0 the mean and
    1 the maximum. The parameter alpha is projected: a step beyond an end is that end, and is not stuck there: there a
    has the gradient that leads back. Lee et al., 2016, "mixed max-average", which learns a by its gradient within
    [0, 1] (third-party code read; how a is held there is not known). https://arxiv.org/abs/1509.08985
    """

    def __init__(
        self, kernel_size: Ints = 2, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
        alpha: float = 0.5, channels: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if channels is not None:
            check_counts(channels=channels)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1]; got {alpha}")
        self.args = (kernel_size, stride, padding, ceil_mode)
        self.alpha = nn.Parameter(torch.full((channels or 1,), alpha))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C oH oW"]:
        check(x, 2, len(self.alpha) if len(self.alpha) > 1 else None)
        return window_pool(x, "mixed", *self.args, alpha=_Share.apply(self.alpha))


class GatedPool2d(nn.Module):
    """Gated pooling, y = g max(x) + (1 - g) mean(x), g = sigmoid(sum_i w_i x_i), w (kH, kW) shared by all channels.

    x (B, C, H, W) -> (B, C, oH, oW), windows clipped at the border (ceil_mode) as in the authors' layer; w starts
    Gaussian with deviation 0.1, no bias. w = 0 is (max + mean) / 2. Lee et al., 2016, "gated max-average" (mirror of
    the authors' code read). https://arxiv.org/abs/1509.08985
    """

    def __init__(
        self, kernel_size: Ints = 2, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = True
    ) -> None:
        super().__init__()
        self.args = (kernel_size, stride, padding, ceil_mode)
        self.weight = nn.Parameter(0.1 * torch.randn(1, *_pair(kernel_size)))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C oH oW"]:
        check(x, 2)
        return window_pool(x, "gated", *self.args, weight=self.weight)


class TreePool2d(nn.Module):
    """Tree pooling: leaves v_l . x mixed pairwise by gates sigmoid(w_g . x), up to the root.

    x (B, C, H, W) -> (B, C, oH, oW). depth counts the levels, leaves included: 2 has two leaves and a gate,
    y = g v_1 . x + (1 - g) v_2 . x; 3 has four leaves and three gates. Filters (kH, kW), shared by all channels, start
    Gaussian with deviation 0.1, unconstrained. Lee et al., 2016, "tree pooling" (mirror of the authors' code read).
    https://arxiv.org/abs/1509.08985
    """

    def __init__(
        self, kernel_size: Ints = 2, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
        depth: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if depth not in {2, 3}:
            raise ValueError(f"depth must be 2 or 3, the trees of the paper; got {depth}")
        self.args = (kernel_size, stride, padding, ceil_mode)
        leaves = 2 ** (depth - 1)
        self.leaves = nn.Parameter(0.1 * torch.randn(leaves, *_pair(kernel_size)))
        self.gates = nn.Parameter(0.1 * torch.randn(leaves - 1, *_pair(kernel_size)))  # the root first

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C oH oW"]:
        check(x, 2)
        return window_pool(x, "tree", *self.args, weight=torch.cat([self.leaves, self.gates]))


def _pair(size: Ints) -> tuple[int, ...]:
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(pair) != 2 or any(not isinstance(n, int) or n < 1 for n in pair):
        raise ValueError(f"kernel_size must be an int or 2 of them, each >= 1; got {size}")
    return pair
