"""Harder negatives, made from those that are there."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.training.losses.contrast import Batch, Loss, checked, infonce, positive_number, similarities, unit, wide


def mix_pair(a: Float[Tensor, "*N D"], b: Float[Tensor, "*N D"], share: Float[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
    """unit(share a + (1 - share) b): a point on the arc between two negatives."""
    return unit(share[..., None] * a + (1 - share[..., None]) * b)


def mix_list(query: Float[Tensor, "B D"], negatives: Float[Tensor, "B K D"], *, scale: float) -> Float[Tensor, "B D"]:
    """unit(sum_k softmax_k(scale q . n_k) n_k): all negatives in one. The weights have no gradient."""
    weight = (scale * (negatives * query[:, None]).sum(-1)).softmax(1).detach()
    return unit((weight[..., None] * negatives).sum(1))


def hardest(negative: Float[Tensor, "B K"], k: int) -> tuple[Tensor, Tensor]:
    """The k highest cosines of each query and where they stand, [B, k]; of equal ones the first in order."""
    order = negative.sort(dim=1, descending=True, stable=True)
    return order.values[:, :k], order.indices[:, :k]


class Mixing(Loss):
    """InfoNCE with `pairs` + 1 more negatives a query, mixed from its `hard` hardest ones at each step.

    Pairs: two of the hardest are drawn, and mixed with share ~ Beta(alpha, alpha). List: all of them in one, weighted
    by the softmax of their cosines. The gradient reaches the documents that were mixed. Draws come from torch's own
    generator, so that a checkpoint that keeps its state keeps them.

    A false negative is the hardest negative, so that mixing makes more of it: pair this with a loss or a miner that
    leaves those out.

    KaLM-Embedding-V2, Zhao et al., 2025. https://arxiv.org/abs/2506.20923
    The paper's page says "online hard-negative mixing"; the form is recalled, after MoCHi, Kalantidis et al., 2020,
    https://arxiv.org/abs/2010.01028, and alpha is ours. The authors' public training code does not have it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        hard: int = 8,
        pairs: int = 4,
        alpha: float = 2.0,
        scale: float = 20.0,
        in_batch: bool = True,
    ) -> None:
        super().__init__(model)
        if hard < 1 or pairs < 0:
            raise ValueError(f"got hard={hard}, pairs={pairs}; needed are at least 1 hard negative and 0 pairs")
        self.hard, self.pairs, self.alpha = hard, pairs, positive_number("alpha", alpha)
        self.scale, self.in_batch = positive_number("scale", scale), in_batch

    def of(self, batch: Batch) -> Tensor:
        positive, negative = similarities(batch.columns, in_batch=self.in_batch)
        query, *documents = (unit(wide(column)) for column in checked(batch.columns))
        found = negative_rows(documents, hardest(negative.detach(), self.hard)[1], in_batch=self.in_batch)
        made = [mix_list(query, found, scale=self.scale)]
        B, K = found.shape[:2]
        for _ in range(self.pairs):
            a, b = torch.randint(K, (2, B)).to(found.device)
            share = torch.distributions.Beta(self.alpha, self.alpha).sample((B,)).to(found)
            rows = torch.arange(B, device=found.device)
            made.append(mix_pair(found[rows, a], found[rows, b], share))
        mixed = torch.stack([(query * one).sum(1) for one in made], 1)
        return infonce(positive, torch.cat([negative, mixed], 1), scale=self.scale).mean()


def negative_rows(documents: Sequence[Tensor], where: Tensor, *, in_batch: bool) -> Tensor:
    """The embeddings [B, k, D] of negatives numbered as the columns of `similarities` are."""
    B = len(documents[0])
    row = torch.arange(B, device=where.device)[:, None]
    if not in_batch:
        return torch.stack(documents[1:], 1)[row, where]
    # the first B - 1 columns are the positives without the row's own, hence one further on from there
    at = torch.where(where < B - 1, where + (where >= row), where + 1)
    return torch.cat(list(documents))[at]
