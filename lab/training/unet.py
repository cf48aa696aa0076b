"""A small U-Net that says what noise is in an image, for an image and its noise step."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 4  # of channels, in every norm


class UNet(nn.Module):
    """x [B, C, H, W] and step t [B] -> the noise in x, [B, C, H, W]; H and W must be even.

    blocks, in the order they run: `depth` at full size and `depth` at half of it on the way down, one in the middle,
    `depth` and `depth` on the way up, each of which also reads what the block opposite left (a skip). A block is two
    3 x 3 convolutions around a shift that the step gives, with a shortcut, as in Ho et al., 2020, without attention.
    """

    def __init__(self, channels: int = 1, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        if width < 2 * GROUPS or width % GROUPS or depth < 1 or channels < 1:
            raise ValueError(
                f"width must be a multiple of {GROUPS}, {2 * GROUPS} or more, depth and channels 1 or more; got "
                f"width={width}, depth={depth}, channels={channels}"
            )
        wide = 2 * width
        self.depth, self.width = depth, width
        self.time = nn.Sequential(nn.Linear(width, wide), nn.SiLU())
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        down = [(width, width)] * depth + [(width, wide)] + [(wide, wide)] * (depth - 1)
        outs = [out for _, out in down[::-1]]
        up = [(before + out, out) for before, out in zip([wide, *outs], outs, strict=False)]
        self.blocks = nn.ModuleList(Block(a, b, wide) for a, b in [*down, (wide, wide), *up])
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))
        for part in self.leave[-1].parameters():  # so that it begins by saying no noise
            nn.init.zeros_(part)

    def forward(self, x: Float[Tensor, "B C H W"], t: Int[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        if x.shape[-1] % 2 or x.shape[-2] % 2:
            raise ValueError(f"height and width are halved on the way, so they must be even; got {tuple(x.shape)}")
        when = self.time(waves(t, self.width).to(x.dtype))
        h, left = self.enter(x), []
        turn = 2 * self.depth
        for i, block in enumerate(self.blocks[:turn]):
            h = block(functional.avg_pool2d(h, 2) if i == self.depth else h, when)
            left.append(h)
        h = self.blocks[turn](h, when)
        for block in self.blocks[turn + 1 :]:
            if len(left) == self.depth:  # what is opposite from here on is of full size
                h = functional.interpolate(h, scale_factor=2.0)
            h = block(torch.cat([h, left.pop()], 1), when)
        return self.leave(h)


class Block(nn.Module):
    """shortcut(x) + conv(norm-silu(conv(norm-silu(x)) + W when)); the second convolution begins at zero."""

    def __init__(self, entering: int, leaving: int, wide: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.GroupNorm(GROUPS, entering), nn.SiLU(), nn.Conv2d(entering, leaving, 3, padding=1))
        self.shift = nn.Linear(wide, leaving)
        self.two = nn.Sequential(nn.GroupNorm(GROUPS, leaving), nn.SiLU(), nn.Conv2d(leaving, leaving, 3, padding=1))
        self.shortcut = nn.Identity() if entering == leaving else nn.Conv2d(entering, leaving, 1)
        nn.init.zeros_(self.two[-1].weight)

    def forward(self, x: Float[Tensor, "B C H W"], when: Float[Tensor, "B E"]) -> Float[Tensor, "B D H W"]:
        return self.shortcut(x) + self.two(self.one(x) + self.shift(when)[..., None, None])


def waves(t: Int[Tensor, " B"], width: int) -> Float[Tensor, "B D"]:
    """cos(t w_i), then sin(t w_i), w_i from 1 down to nearly 1e-4 by equal factors: [B] -> [B, width]."""
    rates = torch.exp(-math.log(1e4) * torch.arange(width // 2, device=t.device) * 2 / width)
    angle = t[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], 1)
