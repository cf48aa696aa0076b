"""What a network multiplies: counted as it runs, the same on every machine."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(run: Callable[..., object], *inputs: object) -> int:
    """Multiply-adds of the convolutions and matrix products of run(*inputs), attention's two products among them.

    Means and maxima of windows, norms and activations multiply little or nothing and are left out.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # fused attention hides its products
        run(*inputs)
    return counter.get_total_flops() // 2  # torch counts a multiplication and an addition as two
