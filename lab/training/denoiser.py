"""A small denoiser of images trained here, and its states at any noise step: generation as a way to learn features."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.models import Loaded, wrap
from lab.training.descend import descend
from lab.training.diffusion import Noising, noising
from lab.training.unet import UNet


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A trained U-Net and the process whose noise it knows. Images are in [0, 1] outside, in [-1, 1] inside."""

    net: UNet
    process: Noising
    losses: np.ndarray  # of each step of training

    def at(self, t: int) -> Loaded:
        """The net at one noise step, for lab.capture: its main input are images as `noised` gives them.

        Layer 0 is what enters the first block, the layers after it what leaves each block, maps [B, C, H, W].
        """
        example = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).expand(1, self.net.enter.in_channels, 8, 8)
        blocks = [f"net.blocks.{i}" for i in range(len(self.net.blocks))]
        return wrap(_AtStep(self.net, self._checked(t)), {"x": example}, blocks=blocks, name=f"denoiser at step {t}")

    def noised(self, images: Float[Tensor, "N C H W"], t: int, *, seed: int = 0) -> Float[Tensor, "N C H W"]:
        """Images with the noise of step t: of a seed the same for every t, so that steps differ by its amount alone."""
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return self.process.noised(2 * images - 1, torch.full((len(images),), self._checked(t)), noise)

    def samples(self, n: int, side: int = 8, *, seed: int = 0) -> Float[Tensor, "n C H W"]:
        """New images [n, C, side, side] in [0, 1], from noise through every step."""
        shape = (n, self.net.enter.in_channels, side, side)
        start = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return (self.process.sample(self.net, start, seed=seed + 1, bound=1.0) + 1) / 2

    def _checked(self, t: int) -> int:
        if not 0 <= t <= self.process.steps:
            raise ValueError(f"noise steps are 0 (none) to {self.process.steps}; got {t}")
        return t


class _AtStep(nn.Module):
    def __init__(self, net: UNet, t: int) -> None:
        super().__init__()
        self.net, self.t = net, t

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, torch.full((len(x),), self.t, device=x.device))


def denoiser(
    images: Float[Tensor, "N C H W"],
    *,
    noise_steps: int = 100,
    schedule: str = "cosine",
    width: int = 16,
    depth: int = 2,
    steps: int = 400,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> Denoiser:
    """Train a U-Net to say what noise is in an image, at every noise step: AdamW, the rate by one cycle.

    images: in [0, 1], of even height and width. Steps t are drawn evenly from 1 .. noise_steps, and the loss is
    `Noising.loss`. No label is used. The seed draws the weights, the batches, the steps and the noise.
    Features of such a net: Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023 (from the
    abstract). https://arxiv.org/abs/2307.08702

    ValueError: images of another shape or range, not finite; fewer than one step; an unknown schedule.
    """
    if images.ndim != 4 or not len(images) or not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(f"images must be [N, C, H, W] with values from 0 to 1, none NaN; got {list(images.shape)}")
    if steps < 1 or batch < 1 or not rate > 0:
        raise ValueError(f"needed are one step and one image a batch or more, and a positive rate; got {steps}, "
                         f"{batch}, {rate}")  # fmt: skip
    process = noising(noise_steps, schedule)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet(images.shape[1], width, depth)
    generator, data = torch.Generator().manual_seed(seed), 2 * images - 1

    def loss(_: int) -> Tensor:
        rows = torch.randint(len(data), (batch,), generator=generator)
        t = torch.randint(1, process.steps + 1, (batch,), generator=generator)
        noise = torch.randn((batch, *data.shape[1:]), generator=generator)
        return process.loss(net, data[rows], t, noise)

    losses = descend(loss, net.parameters(), steps, rate=rate, falling=True, label="denoise", progress=progress)
    return Denoiser(net.eval(), process, losses)
