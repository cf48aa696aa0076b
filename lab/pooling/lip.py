"""Local importance-based pooling: the weights of a window come from a small network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.window_pool import window_pool
from lab.kernels.windows import Ints
from lab.pooling.arguments import check_counts
from lab.pooling.spatial import check


class LIP2d(nn.Module):
    """LIP, y = sum_i x_i e^{g_i} / sum_i e^{g_i} over the window, g = logit(x).

    x (B, C, H, W) -> (B, C, oH, oW). logit: any module to (B, C or 1, H, W); the default is SimplifiedLIP, 3x3
    convolution (zero at the start, so LIP starts as the mean) -> instance norm -> 12 sigmoid. Padding is not counted
    and its size is free; the authors' CUDA code always takes kernel_size // 2. Gao, Wang & Wu, ICCV 2019, eq. 3
    (number recalled; the authors' code was read). https://arxiv.org/abs/1908.04156
    """

    def __init__(
        self, channels: int, kernel_size: Ints = 3, stride: Ints | None = 2, padding: Ints = 1, ceil_mode: bool = False,
        logit: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_counts(channels=channels)
        self.args = (kernel_size, stride, padding, ceil_mode)
        self.logit = SimplifiedLogit(channels) if logit is None else logit

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C oH oW"]:
        check(x, 2)
        # an instance norm has no word for a batch of none, and no place needs a weight
        return window_pool(x, "softmax", *self.args, logit=self.logit(x) if len(x) else x)


class SimplifiedLogit(nn.Module):
    """g = 12 sigmoid(instance norm(conv3x3(x))): logits in [0, 12], so no place outweighs another by more than e^12."""

    def __init__(self, channels: int, coefficient: float = 12.0) -> None:
        super().__init__()
        self.coefficient = coefficient
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(channels, affine=True)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        check(x, 2, self.conv.in_channels)
        y = self.conv(x)
        if y.shape[2:].numel() > 1:
            y = self.norm(y)
        else:  # torch's norm refuses a place alone, which is its own mean
            scale, shift = (p.view(-1, 1, 1) for p in (self.norm.weight, self.norm.bias))
            y = (y - y) * scale + shift
        return self.coefficient * torch.sigmoid(y)
