"""What a small model is and how it is trained, as data: one recipe, one result."""

import hashlib
import json
from dataclasses import asdict, dataclass

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Recipe:
    """Architecture, normalizer and optimiser of one training run; the seed draws the weights and the batches.

    The optimiser is AdamW (betas 0.9 and 0.95) on every parameter, gradients clipped to a total norm of `clip`, the
    rate warmed up linearly and then held, or brought to a tenth along a cosine. This is the setting of the sink study
    (Gu et al., ICLR 2025), whose released code holds the rate constant.
    """

    layers: int = 2
    dim: int = 64
    heads: int = 4
    hidden: int | None = None  # of the MLP; 8/3 of dim when not given
    norm: str = "pre"  # "post", "peri"
    position: str = "rope"  # "learned", "none"
    bias: str = "none"  # "key", "key_value", "value"
    bias_norm: float = 0.0
    window: int | None = None
    normalizer: str = "softmax"  # any name of lab.attention.NORMALIZERS
    steps: int = 500
    batch: int = 16
    rate: float = 2e-3
    warmup: int = 50
    schedule: str = "constant"
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.steps, self.batch) < 1 or self.warmup < 0:
            raise ValueError(
                f"layers, heads, steps and batch must be at least 1, warmup at least 0; got {asdict(self)}"
            )
        if self.rate <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"got rate={self.rate}, clip={self.clip}, weight_decay={self.weight_decay}; needed are positive ones, "
                "and a decay of at least 0"
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}; there are {list(SCHEDULES)}")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        import math

        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)

    def checksum(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


# the study's default model, and a twelfth of it; both want a GPU and billions of tokens before sinks emerge
STUDY = {
    "60M": Recipe(layers=10, dim=768, heads=8, hidden=1536, steps=20_000, batch=512, rate=4e-4, warmup=100),
    "5M": Recipe(layers=6, dim=256, heads=8, hidden=768, steps=20_000, batch=512, rate=1e-3, warmup=100),
}
