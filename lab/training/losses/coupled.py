"""Two models of why a document has no label: it does not answer, or nobody looked."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.models.hooks import evaluating
from lab.training.losses.contrast import Batch, Features, Loss, infonce, positive_number, similarities


def unlabelled_weight(relevance: Float[Tensor, "B K"], selection: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """P(not relevant | unlabelled) = (1 - r) / (1 - r s), when a label needs relevance r and selection s, both.

    s = 1, everything was looked at: 1, every unlabelled document is a negative. s = 0: 1 - r.
    """
    return (1 - relevance) / (1 - relevance * selection).clamp(min=torch.finfo(relevance.dtype).tiny)


@torch.no_grad()
def selection(
    positive: Float[Tensor, " N"],
    negative: Float[Tensor, "B K"],
    relevance: Float[Tensor, "B K"],
    *,
    rounds: int = 10,
    ridge: float = 0.1,
) -> Float[Tensor, "B K"]:
    """P(selected) of each unlabelled document: a logistic curve over the selecting retriever's score z, fitted here.

    positive, negative: z of the labelled and of the unlabelled. relevance: r of the unlabelled, which is held fixed.
    Expectation-maximisation with relevance latent: what is unlabelled but relevant, q = r (1 - s) / (1 - r s), was not
    selected; what is labelled was. Each round is a Newton step of the weighted logistic regression, shrunk by `ridge`
    towards even chances, so that a batch without a sign of unlabelled positives gives s near 1 but no overflow.
    """
    z = torch.cat([positive, negative.flatten()]).double()
    mean, spread = z.mean(), z.std().clamp(min=1e-6)
    inputs = torch.stack([(z - mean) / spread, torch.ones_like(z)], 1)
    r = relevance.flatten().double()
    label = torch.cat([torch.ones(len(positive)), torch.zeros(len(r))]).to(z)
    theta, eye = z.new_zeros(2), torch.eye(2).to(z)
    for _ in range(rounds):
        s = (inputs @ theta).sigmoid()
        unseen = r * (1 - s[len(positive) :]) / (1 - r * s[len(positive) :]).clamp(min=1e-12)
        q = torch.cat([torch.ones_like(positive, dtype=z.dtype), unseen])
        slope = inputs.T @ (q * (label - s)) - ridge * theta
        bend = (inputs * (q * s * (1 - s))[:, None]).T @ inputs + ridge * eye
        theta = theta + torch.cholesky_solve(slope[:, None], torch.linalg.cholesky(bend))[:, 0].clamp(-2, 2)
    return (inputs @ theta).sigmoid()[len(positive) :].view_as(negative).to(relevance)


class Coupled(Loss):
    """InfoNCE in which each unlabelled document counts by its chance of being a negative, given two models.

    relevance   r_ij = min(1, e^{s (n_ij - p_i)}), from the model that is trained: as likely as the labelled positive, 1
    selection   s_ij, a logistic curve over the cosine that `selector` gives, the retriever whose results were judged;
                refitted on every batch (selection), so that no state is carried
    weight      unlabelled_weight(r, s), without gradient

    selector: a frozen sentence-transformers model that reads the same tokens (the same tokenizer). A document that the
    selector would have shown and nobody labelled stays a negative, however close it is; one that it would not have
    shown, and that looks relevant, counts less.

    The idea and the two coupled models: coupled estimation technique (CET), Cai et al., CIKM 2022, known here from its
    abstract and opening only. https://arxiv.org/abs/2209.05072 The weights are ours, after learning from positive and
    unlabelled examples with instance-dependent propensity (SAR-EM, Bekker et al., 2019, recalled); there the selection
    model is a network of the ranker's own size.
    """

    def __init__(self, model: nn.Module, *, selector: nn.Module, scale: float = 20.0, in_batch: bool = True) -> None:
        super().__init__(model)
        self.selector = selector.requires_grad_(False)
        self.scale, self.in_batch = positive_number("scale", scale), in_batch

    @torch.no_grad()
    def aside(self, sentence_features: Sequence[Features]) -> dict[str, Any]:
        with evaluating(self.selector):
            return {"shown": [self.selector(dict(features))["sentence_embedding"] for features in sentence_features]}

    def of(self, batch: Batch) -> Tensor:
        positive, negative = similarities(batch.columns, in_batch=self.in_batch)
        weight = self.weights(positive, negative, batch.aside["shown"])
        return infonce(positive, negative, scale=self.scale, weight=weight).mean()

    @torch.no_grad()
    def weights(self, positive: Tensor, negative: Tensor, shown: Sequence[Tensor]) -> Tensor:
        """What each negative counts [B, K], from its cosine and the selector's embeddings of the columns."""
        relevance = (self.scale * (negative - positive[:, None])).clamp(max=0).exp()
        chances = selection(*similarities(shown, in_batch=self.in_batch), relevance)
        return unlabelled_weight(relevance, chances)
