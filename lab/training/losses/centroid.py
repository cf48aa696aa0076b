"""Each text against the means of classes instead of against other texts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.training.losses.contrast import Batch, Loss, labelled, unit, wide


def centroid_triplet(
    x: Float[Tensor, "B D"], labels: Int[Tensor, " B"], *, margin: float = 0.3
) -> tuple[Float[Tensor, " B"], Tensor]:
    """max(0, |x_i - c_own|^2 - |x_i - c_near|^2 + margin), and which rows it holds for (True).

    c_own is the mean of the other members of x_i's class, so that x_i is not drawn to itself; c_near the nearest mean
    of another class. A row whose class has no other member has loss 0 and gradient 0, and is False.

    Raises ValueError when all rows are of one class.
    """
    x = wide(x)
    classes, own = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"all {len(x)} rows are of class {classes.tolist()}: a triplet needs another class")
    member = nn.functional.one_hot(own, len(classes)).to(x)
    count, total = member.sum(0), member.T @ x
    others = count[own] - 1
    mean_own = (total[own] - x) / others.clamp(min=1)[:, None]
    apart = (x[:, None] - (total / count[:, None])[None]).square().sum(-1)
    near = apart.masked_fill(member.bool(), torch.inf).min(1).values
    loss = ((x - mean_own).square().sum(1) - near + margin).clamp(min=0)
    return torch.where(others > 0, loss, 0), others > 0


class CentroidTriplet(Loss):
    """The triplet loss of each text against class means of its batch; the mean over texts whose class has another.

    One column of texts and integer labels; batches must hold several texts of a class, as those of
    lab.training.contrastive do (sentence-transformers' group_by_label sampler). Embeddings are made unit vectors first.

    Centroid triplet loss, Wieczorek et al., 2021, https://arxiv.org/abs/2104.13643, as used by Gouda et al. (the
    grasping paper) for query and gallery sets; recalled: the nearest wrong mean is ours, theirs is over those drawn.
    """

    of_labels = True

    def __init__(self, model: nn.Module, *, margin: float = 0.3) -> None:
        super().__init__(model)
        if margin < 0:
            raise ValueError(f"margin must be at least 0; got {margin}")
        self.margin = margin

    def of(self, batch: Batch) -> Tensor:
        x, labels = labelled(batch)
        loss, holds = centroid_triplet(unit(wide(x)), labels, margin=self.margin)
        if not holds.any():
            raise ValueError(f"no class has two texts in this batch of {len(loss)}: batch by label (group_by_label)")
        return loss.sum() / holds.sum()
