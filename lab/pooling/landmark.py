"""Landmark pooling: the mean of a few tokens that summarise the chunks of a long text."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling.arguments import check_counts
from lab.pooling.functional import check, counts, positions, segment_expand, segment_pool
from lab.pooling.selection import check_choice, narrow


class LandmarkPool(nn.Module):
    """Mean over the landmark tokens, y = 1/|L| sum_{t in L} x_t.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. `landmarks`, bool for each token, says where a landmark token was put
    into the text; without it the last of every `chunk_size` real tokens and the last of all stand in, so chunk_size = 1
    is the mean and one longer than the text is the last token. A row without landmarks gives zeros. The idea from the
    abstract of "LMK pooling", 2026. https://arxiv.org/abs/2601.21525
    ValueError: chunk_size below 1.
    """

    def __init__(self, dim: int | None = None, chunk_size: int = 64) -> None:
        super().__init__()
        check_counts(chunk_size=chunk_size)
        self.dim, self.chunk_size = dim, chunk_size

    def forward(
        self, x: Tokens, mask: Segments, landmarks: Bool[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "S D"]:
        check(x, mask)
        if landmarks is None:
            at = positions(mask, x.shape[-2])
            last = segment_expand(counts(mask).to(at.dtype), mask, at.shape[-1])
            landmarks = (torch.remainder(at, self.chunk_size) == 0) | (at == last)
        check_choice("landmarks", landmarks, x)
        return segment_pool(*narrow(x, mask, landmarks), "mean")
