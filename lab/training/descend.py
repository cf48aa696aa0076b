"""The loop that the small trainings of this room share; those with checkpoints or looks on the way have their own."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm


def descend(
    loss: Callable[[int], Tensor],
    parameters: Iterable[nn.Parameter],
    steps: int,
    *,
    rate: float,
    weight_decay: float = 1e-2,
    falling: bool = False,
    label: str = "train",
    progress: bool = True,
) -> np.ndarray:
    """AdamW on loss(step) for steps 0 .. steps - 1; the loss of each. falling: the rate by one cycle, ending near 0."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(2, steps)) if falling else None
    seen = np.empty(steps)
    for step in tqdm(range(steps), desc=label, disable=not progress, leave=False):
        found = loss(step)
        optimiser.zero_grad(set_to_none=True)
        found.backward()
        optimiser.step()
        if cycle:
            cycle.step()
        seen[step] = found.item()
    return seen
