"""Layers that use pooling as their spatial operator, and keep or halve the map: PfLayers and the Inception mixer."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.window_pool import window_pool
from lab.pooling.arguments import check_counts
from lab.pooling.spatial import check


class PfLayer(nn.Module):
    """A bottleneck whose only spatial operator is a maximum: 1x1 conv, norm, ReLU -> max k x k -> 1x1 conv, norm.

    x (B, C, H, W) -> (B, out_channels, oH, oW), oH = ceil(H / stride) for an odd kernel_size. With kernel_size=1 and
    stride=1 it is its two convolutions. Han et al., "Learning Features from Parameter-Free Layers", ICLR 2022, ResNet
    form (the authors' code was read; year and number recalled). https://arxiv.org/abs/2202.02777
    """

    def __init__(
        self, in_channels: int, channels: int, out_channels: int | None = None, kernel_size: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        out = in_channels if out_channels is None else out_channels
        check_counts(
            in_channels=in_channels, channels=channels, out_channels=out, kernel_size=kernel_size, stride=stride
        )
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; got {kernel_size}")
        self.kernel_size, self.stride = kernel_size, stride
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.expand = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E oH oW"]:
        check(x, 2, self.reduce[0].in_channels)
        return self.expand(window_pool(self.reduce(x), "max", self.kernel_size, self.stride, self.kernel_size // 2))


class PfTokenLayer(nn.Module):
    """PfLayer in a vision transformer, in attention's place: y_t = V GELU(max_{s near t} GELU(U x_s + u)) + v.

    x (B, T, D) -> the same shape; U to expansion * D channels, the maximum of each channel over the kernel_size x
    kernel_size neighbours of token t in the grid of image patches, clipped at its border. grid: rows and columns, T of
    them row by row; None is a square. The first `prefix` tokens (a class token) lie in no grid and are their own and
    only neighbours; the authors' model has none. Han et al., "Learning Features from Parameter-Free Layers", ICLR 2022,
    ViT form (the authors' code was read; year and number recalled). https://arxiv.org/abs/2202.02777
    """

    def __init__(
        self, dim: int, expansion: int = 3, kernel_size: int = 3, grid: tuple[int, int] | None = None, prefix: int = 0
    ) -> None:
        super().__init__()
        check_counts(dim=dim, expansion=expansion, kernel_size=kernel_size)
        check_counts(0, prefix=prefix)
        if grid is not None:
            if not isinstance(grid, tuple | list) or len(grid) != 2:
                raise ValueError(f"grid must be (rows, columns) of the patches, or None for a square; got {grid!r}")
            check_counts(rows=grid[0], columns=grid[1])
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; got {kernel_size}")
        self.kernel_size, self.grid, self.prefix = kernel_size, grid, prefix
        self.expand, self.reduce = nn.Linear(dim, expansion * dim), nn.Linear(expansion * dim, dim)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        check(x, 1)
        if x.shape[2] != self.expand.in_features:
            raise ValueError(f"x must be [batch, tokens, {self.expand.in_features}]; got {tuple(x.shape)}")
        patches = x.shape[1] - self.prefix
        rows, columns = (math.isqrt(max(0, patches)),) * 2 if self.grid is None else self.grid
        if patches < 1 or rows * columns != patches:
            want = "a square number of" if self.grid is None else f"{rows} x {columns}"
            raise ValueError(f"x must have {self.prefix} and {want} tokens: pass grid and prefix; got {x.shape[1]}")
        h = nn.functional.gelu(self.expand(x))
        own, near = h.split([self.prefix, patches], 1)
        near = near.mT.unflatten(2, (rows, columns))  # a map whose channels are dense: nothing is copied
        near = window_pool(near, "max", self.kernel_size, stride=1, padding=self.kernel_size // 2)
        return self.reduce(nn.functional.gelu(torch.cat([own, near.flatten(2).mT], 1)))


class InceptionMixer(nn.Module):
    """iFormer's mixer: the first channels keep high frequencies (max pooling, 3x3 convolution), the last attend.

    x (B, H, W, C) -> the same shape. Of dim channels the last attention_heads * (dim / num_heads) are averaged over
    pool_size x pool_size, attend to each other, and are repeated back to (H, W); the others are halved: one half
    through a 1x1 and a depthwise 3x3 convolution, one through a 3x3 maximum and a 1x1 convolution, both to twice
    their width. All are joined, y + depthwise 3x3(y), and projected to dim. Sizes need not be multiples of pool_size,
    nor H = W. Si et al., NeurIPS 2022, section 3 (section recalled; the authors' code was read).
    https://arxiv.org/abs/2205.12956
    """

    def __init__(self, dim: int, num_heads: int = 8, attention_heads: int = 2, pool_size: int = 2) -> None:
        super().__init__()
        check_counts(dim=dim, num_heads=num_heads, attention_heads=attention_heads, pool_size=pool_size)
        if dim % num_heads or attention_heads >= num_heads:
            raise ValueError(
                f"num_heads must divide dim and attention_heads be less than num_heads; "
                f"got dim={dim}, num_heads={num_heads}, attention_heads={attention_heads}"
            )
        self.low = attention_heads * (dim // num_heads)
        if dim - self.low < 2:
            raise ValueError(f"two channels or more must be left for high frequencies; got {dim - self.low} of {dim}")
        self.heads, self.pool_size = attention_heads, pool_size
        high = dim - self.low
        self.conv_dim, self.max_dim = high // 2, high - high // 2
        width = 2 * self.conv_dim
        self.conv = nn.Sequential(
            nn.Conv2d(self.conv_dim, width, 1, bias=False),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.GELU(),
        )
        self.after_max = nn.Sequential(nn.Conv2d(self.max_dim, 2 * self.max_dim, 1), nn.GELU())
        self.qkv, self.out = nn.Linear(self.low, 3 * self.low), nn.Linear(self.low, self.low)
        joined = 2 * high + self.low
        self.fuse = nn.Conv2d(joined, joined, 3, padding=1, groups=joined, bias=False)
        self.project = nn.Conv2d(joined, dim, 1)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        check(x, 2)
        if x.shape[3] != self.project.out_channels:
            raise ValueError(f"x must be [batch, H, W, {self.project.out_channels}]; got {tuple(x.shape)}")
        y = torch.cat(self.branches(x.movedim(-1, 1)), 1)
        return self.project(y + self.fuse(y)).movedim(1, -1)

    def branches(self, x: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """What is joined: the convolution's maps, the maximum's and attention's, each (B, its channels, H, W)."""
        parts = x.split([self.conv_dim, self.max_dim, self.low], 1)
        sharp = self.after_max(window_pool(parts[1], "max", 3, stride=1, padding=1))
        return self.conv(parts[0]), sharp, self._attend(parts[2])

    def _attend(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        small = window_pool(x, "mean", self.pool_size, ceil_mode=True)
        q, k, v = self.qkv(small.flatten(2).mT).unflatten(-1, (3, self.heads, -1)).unbind(2)  # [B, T, heads, d]
        mixed = nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        rows = self.out(mixed.transpose(1, 2).flatten(2)).mT.unflatten(2, small.shape[2:])
        large = rows.repeat_interleave(self.pool_size, 2).repeat_interleave(self.pool_size, 3)
        return large[..., : x.shape[2], : x.shape[3]]
