"""A small classifier of vectors whose head, loss and targets are the question, as data: one recipe, one net."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lab.attention import sparsemax_loss


@dataclass(frozen=True)
class ClassifierRecipe:
    """Architecture, loss and optimiser of one classifier; the seed draws the weights, the batches and what is mixed.

    The optimiser is SGD with Nesterov's momentum 0.9, its rate brought to zero along a cosine, and weight decay as a
    part of the gradient, on every parameter: decay beside the gradient (AdamW) is another problem, without collapse
    as its solution.
    """

    hidden: tuple[int, ...] = (128, 64)  # widths of the ReLU layers
    linear: tuple[int, ...] = ()  # and of linear layers without biases between them and the classifier
    loss: str = "cross_entropy"  # a name of CLASSIFIER_LOSSES
    bias: bool = True  # of the classifier
    smoothing: float = 0.0  # the share of each target that is spread over all classes
    mixup: float = 0.0  # alpha of the Beta(alpha, alpha) from which shares of mixed examples are drawn; 0: no mixing
    scale: float = 16.0  # of the cosines of "normalized"
    steps: int = 600
    batch: int = 128
    rate: float = 0.1
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.hidden or min((*self.hidden, *self.linear, self.steps, self.batch)) < 1:
            raise ValueError(
                f"one ReLU layer or more is needed, and widths, steps and batch of at least 1; got hidden="
                f"{self.hidden}, linear={self.linear}, steps={self.steps}, batch={self.batch}"
            )
        if self.loss not in CLASSIFIER_LOSSES:
            raise ValueError(f"no loss {self.loss!r}; there are {list(CLASSIFIER_LOSSES)}")
        if not 0 <= self.smoothing < 1 or self.mixup < 0 or self.rate <= 0 or self.weight_decay < 0 or self.scale <= 0:
            raise ValueError(
                f"got smoothing={self.smoothing}, mixup={self.mixup}, rate={self.rate}, weight_decay="
                f"{self.weight_decay}, scale={self.scale}; needed are a smoothing in [0, 1), mixup and decay of at "
                "least 0, a positive rate and scale"
            )
        if self.loss == "pairs" and (self.smoothing or self.mixup):
            raise ValueError("a pair is of one class or of two: the loss of pairs takes no smoothing and no mixup")


class Classifier(nn.Module):
    """Vectors [B, D] -> scores [B, K]: ReLU layers, linear ones, and a linear classifier, `head`, of the last.

    With the loss "normalized" scores are scale cos(w_k, h), otherwise w_k . h + b_k.
    """

    def __init__(self, width: int, classes: int, recipe: ClassifierRecipe) -> None:
        super().__init__()
        bent = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise((width, *recipe.hidden))]
        straight = [nn.Linear(a, b, bias=False) for a, b in pairwise((recipe.hidden[-1], *recipe.linear))]
        self.blocks = nn.ModuleList([*bent, *straight])
        self.scale = recipe.scale if recipe.loss == "normalized" else None
        self.head = nn.Linear((*recipe.hidden, *recipe.linear)[-1], classes, recipe.bias and self.scale is None)

    def features(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B H"]:
        for block in self.blocks:
            x = block(x)
        return x

    def scores(self, features: Float[Tensor, "B H"]) -> Float[Tensor, "B K"]:
        if self.scale is None:
            return self.head(features)
        return self.scale * functional.normalize(features, dim=-1) @ functional.normalize(self.head.weight, dim=-1).T

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        return self.scores(self.features(x))


def cross_entropy(net: Classifier, features: Tensor, targets: Tensor) -> Tensor:
    """-sum_k t_k log softmax(scores)_k, mean over rows."""
    return functional.cross_entropy(net.scores(features), targets)


def mse(net: Classifier, features: Tensor, targets: Tensor) -> Tensor:
    """|scores - t|^2 / 2, mean over rows: the loss of which neural collapse has closed forms."""
    return (net.scores(features) - targets).square().sum(1).mean() / 2


def pairs(net: Classifier, features: Tensor, targets: Tensor, margin: float = 1.0) -> Tensor:  # noqa: ARG001 (every loss is given the net)
    """d^2 of rows of one class and relu(margin - d)^2 of two, d between unit features: mean of the two means.

    Metric learning on all pairs of a batch, none of them mined; the classifier itself learns nothing.
    Hadsell, Chopra & LeCun, CVPR 2006, eq. 4 (recalled).
    """
    unit = functional.normalize(features, dim=-1)
    square = (2 - 2 * unit @ unit.T).clamp(min=1e-12)  # the root of an exact 0 has no gradient
    same = targets @ targets.T > 0.5
    alone = torch.eye(len(same), dtype=torch.bool, device=same.device)
    near, far = square[same & ~alone], (margin - square[~same].sqrt()).relu().square()
    return sum(part.mean() for part in (near, far) if len(part)) + 0 * features.sum()


def sparse(net: Classifier, features: Tensor, targets: Tensor) -> Tensor:
    """lab.attention.sparsemax_loss of the scores, mean over rows: zero where sparsemax(scores) is the target."""
    return sparsemax_loss(net.scores(features), targets).mean()


CLASSIFIER_LOSSES: dict[str, Callable[[Classifier, Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "normalized": cross_entropy,  # of cosines: Classifier.scores
    "sparsemax": sparse,
    "pairs": pairs,
}


@dataclass(frozen=True)
class Mixed:
    """Rows share_i x_i + (1 - share_i) x_j, with the places of i and j."""

    x: Float[Tensor, "B D"]
    first: Int[Tensor, " B"]
    second: Int[Tensor, " B"]
    share: Float[Tensor, " B"]


def mixed(x: Float[Tensor, "N D"], alpha: float, seed: int | list[int] = 0) -> Mixed:
    """Every row mixed with another one, the share of the first drawn from Beta(alpha, alpha) for each pair.

    Zhang et al., ICLR 2018. https://arxiv.org/abs/1710.09412. ValueError for an alpha that is not positive.
    """
    if not alpha > 0:
        raise ValueError(f"shares come from Beta(alpha, alpha), alpha > 0; got {alpha}")
    generator = np.random.default_rng(seed)
    second = torch.from_numpy(generator.permutation(len(x))).to(x.device)
    share = torch.from_numpy(generator.beta(alpha, alpha, size=len(x))).to(x.device, x.dtype)
    return Mixed(share[:, None] * x + (1 - share[:, None]) * x[second], torch.arange(len(x)), second.cpu(), share)
