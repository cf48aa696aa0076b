"""Noise put on data step by step, and taken off again: the Gaussian process that a denoiser is trained on.

Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (equation numbers recalled).
https://arxiv.org/abs/2006.11239
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

SCHEDULES = ("cosine", "linear")
Predictor = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> the noise in it


@dataclass(frozen=True, eq=False)
class Noising:
    """q(x_t | x_0) = N(sqrt(a_t) x_0, (1 - a_t) I), t = 0 .. steps; a_0 = 1 is the data. `noising` makes one.

    Written a_t for the paper's alpha-bar, b_t = 1 - a_t / a_{t-1} for its beta. t is one whole number for each row.
    """

    kept: Float[Tensor, " S"]  # a_0 .. a_steps, float64

    @property
    def steps(self) -> int:
        return len(self.kept) - 1

    def noised(self, x: Tensor, t: Int[Tensor, " B"], noise: Tensor) -> Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e of rows x [B, ...] and noise e of the same shape (eq. 4)."""
        a = self._of(x, t)
        return a.sqrt() * x + (1 - a).sqrt() * noise

    def clean(self, x: Tensor, t: Int[Tensor, " B"], noise: Tensor) -> Tensor:
        """x_0 = (x_t - sqrt(1 - a_t) e) / sqrt(a_t), from x_t and the noise in it (eq. 15)."""
        a = self._of(x, t)
        return (x - (1 - a).sqrt() * noise) / a.sqrt()

    def posterior(self, x: Tensor, t: Int[Tensor, " B"], clean: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_{t-1} | x_t, x_0), t >= 1 (eqs. 6 and 7).

        sqrt(a_{t-1}) b_t / (1 - a_t) x_0 + sqrt(a_t / a_{t-1}) (1 - a_{t-1}) / (1 - a_t) x_t, and
        (1 - a_{t-1}) / (1 - a_t) b_t.
        """
        a, before = self._of(x, t), self._of(x, t - 1)
        b = 1 - a / before
        mean = (before.sqrt() * b * clean + (a / before).sqrt() * (1 - before) * x) / (1 - a)
        return mean, (1 - before) / (1 - a) * b

    def loss(self, predict: Predictor, x: Tensor, t: Int[Tensor, " B"], noise: Tensor) -> Tensor:
        """Mean of (e - predict(x_t, t))^2 over rows and coordinates: the simple loss (eq. 14)."""
        return (noise - predict(self.noised(x, t, noise), t)).square().mean()

    @torch.no_grad()
    def sample(self, predict: Predictor, start: Tensor, *, seed: int = 0, bound: float | None = None) -> Tensor:
        """Rows x_steps -> x_0, each step drawn from the posterior of the x_0 that the prediction says (algorithm 2).

        bound: x_0 is held in [-bound, bound] on the way, as data of that range are. The last step adds no noise.
        """
        generator, x = torch.Generator().manual_seed(seed), start
        for step in range(self.steps, 0, -1):
            t = torch.full((len(x),), step, device=x.device)
            clean = self.clean(x, t, predict(x, t))
            mean, variance = self.posterior(x, t, clean if bound is None else clean.clamp(-bound, bound))
            x = mean + variance.sqrt() * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return x

    def _of(self, x: Tensor, t: Tensor) -> Tensor:
        """a_t of each row, shaped to stand beside x."""
        return self.kept.to(x.device)[t].to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def noising(steps: int = 100, schedule: str = "cosine") -> Noising:
    """A process of so many steps.

    "cosine": a_t = f(t) / f(0), f(t) = cos^2((t / steps + s) / (1 + s) pi / 2), s = 0.008, no b_t above 0.999
        (Nichol & Dhariwal, ICML 2021, eq. 17, recalled). https://arxiv.org/abs/2102.09672
    "linear": b_t from 1e-4 to 0.02 evenly for 1,000 steps, for another number both times 1,000 / steps, so that as
        little of the data is left at the end; no b_t above 0.999.
    ValueError for another schedule and fewer than two steps.
    """
    if schedule not in SCHEDULES or steps < 2:
        raise ValueError(f"schedule must be one of {list(SCHEDULES)}, of 2 steps or more; got {schedule!r}, {steps}")
    if schedule == "cosine":
        f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        b = 1 - f[1:] / f[:-1]
    else:
        b = np.linspace(1e-4, 0.02, steps) * 1000 / steps
    kept = np.cumprod(1 - np.minimum(b, 0.999))
    return Noising(torch.from_numpy(np.concatenate([[1.0], kept])))
