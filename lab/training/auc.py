"""The area under the ROC curve as a loss that single batches can descend: squared, with a margin, as min and max."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class AUCMargin(nn.Module):
    """mean_+ (h - a)^2 + mean_- (h - b)^2 + 2 alpha (m + mean_- h - mean_+ h) - alpha^2, a, b and alpha >= 0 learned.

    scores h (B,), labels 0 and 1 (B,) -> a scalar, for which a and b descend and alpha climbs: its gradient is turned
    round, so that one optimiser does both. At their best, a = mean_+ h, b = mean_- h, alpha = max(0, m + b - a), it is
    var_+ h + var_- h + max(0, m + b - a)^2: without that max, the mean square of m - (h_+ - h_-) over all pairs, but
    made of means of single scores. They start as is best for scores that are all `start`. Each label has a mean of its
    own, so that the value does not hang on how many there are. Ying, Wen & Lyu, 2016 (the square as min and max);
    Yuan et al., ICCV 2021 (the margin; both recalled). https://arxiv.org/abs/2012.03173
    ValueError: a margin that is not positive; scores and labels of two shapes; a batch without one of both labels.
    """

    def __init__(self, margin: float | int = 1.0, start: float | int = 0.5) -> None:
        super().__init__()
        if not 0 < margin < float("inf"):
            raise ValueError(f"margin must be positive and finite; got {margin}")
        self.margin = margin
        self.a, self.b = (nn.Parameter(torch.tensor(float(start))) for _ in range(2))
        self.alpha = nn.Parameter(torch.tensor(float(margin)))

    def forward(self, scores: Float[Tensor, " B"], labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        if scores.shape != labels.shape:
            raise ValueError(f"one label for each score; got {tuple(scores.shape)} and {tuple(labels.shape)}")
        positive, negative = scores[labels == 1], scores[labels == 0]
        if not len(positive) or not len(negative):
            raise ValueError(f"a batch needs positives and negatives; got {len(positive)} and {len(negative)}")
        with torch.no_grad():
            self.alpha.clamp_(min=0)
        climbing = 2 * self.alpha.detach() - self.alpha
        spread = (positive - self.a).square().mean() + (negative - self.b).square().mean()
        lacking = self.margin + negative.mean() - positive.mean()
        return spread + 2 * climbing * lacking - climbing.square()
