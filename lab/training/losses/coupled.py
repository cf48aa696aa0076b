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

    s = 1, what was looked at: 1 whatever r is, also r = 1, where the formula is 0 / 0: what is seen and has no label is
    a negative. s = 0: 1 - r. In between r = 1 gives 0: a certain relevance leaves nothing to the selection.
    """
    seen = selection == 1
    return torch.where(seen, 1, (1 - relevance) / torch.where(seen, 1, 1 - relevance * selection))


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

    The curve does not fall: a retriever selects what it scores high. Left free it would fall where many unlabelled
    documents that look relevant score above the labelled ones, and call just those not selected.

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
        step = torch.cholesky_solve(slope[:, None], torch.linalg.cholesky(bend))[:, 0].clamp(-2, 2)
        # where the curve would fall it is flat, and only its height moves
        flat = torch.stack([-theta[0], (slope[1] / bend[1, 1]).clamp(-2, 2)])
        theta = theta + torch.where(theta[0] + step[0] < 0, flat, step)
    return (inputs @ theta).sigmoid()[len(positive) :].view_as(negative).to(relevance)


class Coupled(Loss):
    """InfoNCE in which each unlabelled document counts by its chance of being a negative, given two models.

    relevance   r_ij = trust * min(1, e^{scale (n_ij - p_i)}), from the model that is trained: what it puts as near as
                the labelled positive, or nearer, is relevant with the chance `trust`
    selection   s_ij, a logistic curve over the cosine that `selector` gives, the retriever whose results were judged;
                refitted on every batch (selection), so that no state is carried
    weight      w_ij = unlabelled_weight(r, s), without gradient, from 1 - trust (s = 0) to 1 (s = 1)

    selector: a frozen sentence-transformers model that reads the same tokens (the same tokenizer). A document that the
    selector would have shown and nobody labelled stays a negative, the more so the nearer s is to 1 and however near
    the document is; one that it would not have shown, and that looks relevant, counts less.
    trust: in (0, 1). Below 1, since the model is in training and much of what it ranks above the positive is plainly
    wrong: with 1 all of that would weigh 0 whatever the selector says, and never be pushed down.

    The paper's are the idea, that labels lack where nobody looked (pooling bias), and two models learned together, each
    of which weighs the other's loss by inverse propensities: coupled estimation technique (CET), Cai et al., CIKM 2022,
    https://arxiv.org/abs/2209.05072, known here from its abstract, opening and summaries, not its equations. Ours are
    both estimates, trust, and the weight, after learning from positive and unlabelled examples with instance-dependent
    propensity (SAR-EM, Bekker et al., 2019, recalled). Its selection model is a network of the ranker's own size.

    Raises ValueError for a trust outside (0, 1).
    """

    def __init__(
        self, model: nn.Module, *, selector: nn.Module, scale: float = 20.0, trust: float = 0.9, in_batch: bool = True
    ) -> None:
        super().__init__(model)
        if not 0 < trust < 1:
            raise ValueError(f"trust must lie between 0 and 1, and be neither; got {trust}")
        self.selector = selector.requires_grad_(False)
        self.scale, self.trust, self.in_batch = positive_number("scale", scale), trust, in_batch

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
        relevance = self.trust * (self.scale * (negative - positive[:, None])).clamp(max=0).exp()
        chances = selection(*similarities(shown, in_batch=self.in_batch), relevance)
        return unlabelled_weight(relevance, chances)
