"""Classes as directions: softmax over cosines to learned unit vectors."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.training.losses.contrast import Batch, Loss, labelled, positive_number, unit, wide


def normalized_softmax(
    x: Float[Tensor, "B D"], weight: Float[Tensor, "C D"], labels: Int[Tensor, " B"], *, scale: float = 16.0
) -> Float[Tensor, " B"]:
    """-log softmax_c(scale cos(x_i, w_c)) at c = y_i: neither the length of x nor that of w moves it."""
    x = unit(wide(x))
    return nn.functional.cross_entropy(scale * x @ unit(weight.to(x.dtype)).T, labels, reduction="none")


class NormalizedSoftmax(Loss):
    """Cross-entropy over cosines to one learned vector a class, times scale; the mean over texts.

    One column of texts, and labels 0 .. classes - 1, as lab.training.contrastive takes them, with
    loss=partial(LOSSES["normalized_softmax"], classes=C). No pairs are mined, and a new class later on is the mean of
    its embeddings. The class vectors are parameters of the loss (`weight`), which sentence-transformers' trainer trains
    with the model's.

    Pereira et al., 2021, eq. as recalled, after NormFace, Wang et al., 2017. https://arxiv.org/abs/2102.03243
    """

    of_labels = True

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: int | None = None,
        dim: int | None = None,
        scale: float = 16.0,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        if classes is None or classes < 2:
            raise ValueError(f"classes must be at least 2, one more than the highest label; got {classes}")
        dim = model.get_embedding_dimension() if dim is None else dim
        drawn = torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed))
        self.weight, self.scale = nn.Parameter(unit(drawn)), positive_number("scale", scale)

    def of(self, batch: Batch) -> Tensor:
        x, labels = labelled(batch)
        if labels.min() < 0 or labels.max() >= len(self.weight):
            seen = (int(labels.min()), int(labels.max()))
            raise ValueError(
                f"labels run from {seen[0]} to {seen[1]}; the loss was built for {len(self.weight)} classes"
            )
        return normalized_softmax(x, self.weight, labels, scale=self.scale).mean()
