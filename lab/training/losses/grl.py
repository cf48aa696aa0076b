"""A decoder that embeds and generates, each helped by the other: contrast, preference and their agreement."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.training.losses.agreement import Agreement, Head, log_probability, read
from lab.training.losses.contrast import Features, positive_number, wide
from lab.training.losses.layers import parts


def preference(
    chosen: Float[Tensor, "..."],
    rejected: Float[Tensor, "..."],
    reference_chosen: Float[Tensor, "..."],
    reference_rejected: Float[Tensor, "..."],
    *,
    beta: float = 0.1,
) -> Float[Tensor, "..."]:
    """-log sigmoid(beta m), m = (c - c_ref) - (r - r_ref): direct preference optimization (DPO).

    chosen, rejected: log p of the two answers to a question; reference: by the model that training began with, which
    has no gradient; all of one shape, the result's. References of 0 make it reference-free.
    log 2 where m = 0 or beta -> 0; 0 for m -> inf, and -beta m for m -> -inf: its slope, -beta sigmoid(-beta m), is
    never steeper than beta.
    Rafailov et al., 2023, eq. 7, recalled. https://arxiv.org/abs/2305.18290

    Raises ValueError for unequal shapes, and a beta that is not a positive number.
    """
    shapes = [tuple(x.shape) for x in (chosen, rejected, reference_chosen, reference_rejected)]
    if len(set(shapes)) > 1:
        raise ValueError(f"chosen, rejected and their references must have one shape; got {shapes}")
    c, r, c_ref, r_ref = (wide(x) for x in (chosen, rejected, reference_chosen.detach(), reference_rejected.detach()))
    return -nn.functional.logsigmoid(positive_number("beta", beta) * ((c - c_ref) - (r - r_ref)))


class GRL(Agreement):
    """Agreement + preference mean_k dpo(log p(positive | query), log p(negative_k | query)), dpo as `preference`.

    The decoder reads query and document causally and in eval mode, as in Agreement, but with gradients: it learns to
    find the positive likelier, and each negative less so, than it did at first. It is the KL's teacher too, which
    still gives it no gradient. log p is a sum over the document's tokens.
    reference: a copy of the decoder, taken here and held as it is. Weights that are not trained (frozen layers, all
        that is below adapters) stand in both, so it takes the memory of what is trained, once. A resumed run of
        lab.training.contrastive begins from the initial model and then reads the checkpoint: its reference is the same.
    head: as in Agreement, but a module: it is trained, and the reference has a copy of it.

    Generation-augmented representation learning (GRL), ULLME, Man et al., 2024. https://arxiv.org/abs/2408.03402
    The weighted sum of three terms is the paper's, by a summary that quotes it. Of the authors' code are beta = 0.1,
    sums over tokens, weights of 1, and the positive against one negative, of several the first; here each counts alike.
    Its first release has the model without its adapters as the reference, though it differentiates the contrastive term
    only; its last one has none.

    Raises TypeError for a head that is no module, ValueError as Agreement does and for numbers that are not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float = 1.0,
        preference: float = 1.0,
        beta: float = 0.1,
        scale: float = 20.0,
        in_batch: bool = True,
        head: Head | None = None,
    ) -> None:
        super().__init__(model, weight=weight, scale=scale, in_batch=in_batch, head=head)
        if head is not None and not isinstance(head, nn.Module):
            raise TypeError(f"head must be a module, of which a copy can be held; got {type(head).__name__}")
        self.preference, self.beta = positive_number("preference", preference), positive_number("beta", beta)
        there = nn.ModuleList([parts(model)[0].model, *([] if head is None else [head])])
        both = {id(one): one for one in there.parameters() if not one.requires_grad}
        self.reference = copy.deepcopy(there, both).requires_grad_(False)

    def besides(self, sentence_features: Sequence[Features]) -> Tensor:
        now = log_probabilities(parts(self.model)[0].model, self._head, sentence_features)
        with torch.no_grad():
            decoder, *head = self.reference
            then = log_probabilities(decoder, head[0] if head else None, sentence_features)
        (c, r), (c_ref, r_ref) = ((log[:, :1].expand_as(log[:, 1:]), log[:, 1:]) for log in (now, then))
        return self.preference * preference(c, r, c_ref, r_ref, beta=self.beta).mean()


def log_probabilities(decoder: nn.Module, head: Head | None, columns: Sequence[Features]) -> Float[Tensor, "B K"]:
    """log p(document | query) of each query's documents; columns: the query, then the documents."""
    query, *documents = columns
    return torch.stack([log_probability(*read(decoder, head, query, document)) for document in documents], 1)
