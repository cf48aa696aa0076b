"""More weight for the queries that are still answered wrongly."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.training.losses.contrast import Batch, Loss, infonce, positive_number, similarities


def focal(nce: Float[Tensor, " B"], *, gamma: float = 0.5) -> Float[Tensor, " B"]:
    """w_i loss_i with w_i = (1 - p_i)^gamma, p_i = exp(-loss_i) the softmax probability of query i's positive.

    w has no gradient: it weighs examples, it is not learned from. gamma = 0 is InfoNCE.
    """
    return (-torch.expm1(-nce.detach())).clamp(min=0) ** gamma * nce  # expm1: 1 - p of a small loss, not 0


class Focal(Loss):
    """InfoNCE with each query weighted by (1 - p_i)^gamma, the mean over queries; the weights are not normalised.

    KaLM-Embedding-V2, Zhao et al., 2025. https://arxiv.org/abs/2506.20923
    The paper's page says "focal-style reweighting"; the form is recalled, after Lin et al., 2017, and whether the
    weight passes gradients there is unknown. The authors' public training code does not have it.
    """

    def __init__(self, model: nn.Module, *, gamma: float = 0.5, scale: float = 20.0, in_batch: bool = True) -> None:
        super().__init__(model)
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, which is InfoNCE; got {gamma}")
        self.gamma, self.scale, self.in_batch = gamma, positive_number("scale", scale), in_batch

    def of(self, batch: Batch) -> Tensor:
        nce = infonce(*similarities(batch.columns, in_batch=self.in_batch), scale=self.scale)
        return focal(nce, gamma=self.gamma).mean()
