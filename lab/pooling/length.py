"""The Euclidean length of each vector, |x|, for as large an x as its type can hold."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lab.kernels.layout import Segments, all_finite, keep
from lab.kernels.segment_torch import divisor


def length(x: Float[Tensor, "*n D"], mask: Segments | None = None) -> Float[Tensor, "*n"]:
    """|x_t| in float64, one number a vector; 0 at padding, whose gradient is 0 whatever stands there.

    In float32 a square is inf from 2e19 on, and bfloat16 holds states up to 3e38. Gradients of every order are 0 where
    |x_t| is 0, as torch's second is not.
    """
    return _Length.apply(x, mask)


class _Length(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, mask: Tensor | None) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
        if not all_finite(norm):  # on a CPU a sum of squares in float64 takes nine times as long, on a GPU as long
            norm = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
        return _real(norm.double(), mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        x, mask, norm = ctx.saved_tensors
        ratio = torch.where(norm == 0, 0, dy / divisor(norm))
        return _real(x * ratio.to(x.dtype)[..., None], mask), None


def _real(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else keep(values, mask)
