"""A decoder's two judgements of a passage, how near it lies and how likely it is said, brought together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lab.models.hooks import evaluating
from lab.training.losses.contrast import Batch, Features, Loss, infonce, positive_number, similarities, wide
from lab.training.losses.layers import kl, parts

Head = Callable[[Tensor], Tensor]  # states [B, T, D] -> logits [B, T, V]


def generation_agreement(
    cosines: Float[Tensor, "B K"], said: Float[Tensor, "B K"], *, scale: float = 20.0
) -> Float[Tensor, " B"]:
    """KL(softmax_k said_ik || softmax_k scale cos_ik) over the K documents of each query; `said` has no gradient.

    said: mean log-probability per token of generating document k from query i.
    """
    return kl(said.detach().log_softmax(1), (scale * cosines).log_softmax(1))


def log_probability(
    logits: Float[Tensor, "B T V"], ids: Int[Tensor, "B T"], target: Bool[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """Sum over the target tokens of log p(token | those before it): token t is read off logits at t - 1.

    Raises ValueError for a row without a target, or whose first token is one: nothing stands before it. (The authors'
    code divides by zero there, and sets a loss that is not a number to 0.)
    """
    if target[:, 0].any() or not target.any(1).all():
        bad = (target[:, 0] | ~target.any(1)).nonzero()[:, 0].tolist()
        raise ValueError(f"rows {bad}: a document needs tokens, and a query before it, to have a probability")
    logs = wide(logits[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return torch.where(target[:, 1:], logs, 0).sum(1)


def mean_log_probability(
    logits: Float[Tensor, "B T V"], ids: Int[Tensor, "B T"], target: Bool[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """log_probability over the number of target tokens, so that a long document is not the less likely for it."""
    return log_probability(logits, ids, target) / target.sum(1)


class Agreement(Loss):
    """InfoNCE + weight KL( softmax(mean log p(document | query)) || softmax(scale cos) ), the generator as teacher.

    columns: query, positive and at least one negative: the KL runs over a query's own documents. The generation scores
    come from the model's own decoder, in eval mode and without gradients: query and document in one text, causally.
    head: states -> logits over the vocabulary; the tied input embeddings where the config says that they are tied.

    Two of the three terms of generation-augmented representation learning (GRL) in ULLME, Man et al., 2024; with the
    third, which trains the generator, it is lab.training.losses.grl. https://arxiv.org/abs/2408.03402
    The paper's page writes the KL the other way round; this is the direction of the authors' code, and its page's
    and code's teacher is the generator. There a KL that is not a number becomes 0; here it cannot come up (see
    log_probability), and a NaN of the model stays one.

    Raises ValueError for a model that is not causal, one whose unembedding is not known, and for missing negatives.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float = 1.0,
        scale: float = 20.0,
        in_batch: bool = True,
        head: Head | None = None,
    ) -> None:
        super().__init__(model)
        self.weight, self.scale = positive_number("weight", weight), positive_number("scale", scale)
        self.in_batch, self._head = in_batch, head
        transformer = parts(model)[0].model
        if head is None and not getattr(transformer.config, "tie_word_embeddings", False):
            raise ValueError(f"{type(transformer).__name__} does not tie its unembedding: give head, states -> logits")
        _refuse_seeing_ahead(transformer)

    @torch.no_grad()
    def aside(self, sentence_features: Sequence[Features]) -> dict[str, Any]:
        if len(sentence_features) < 3:
            raise ValueError(f"got {len(sentence_features)} columns: a query, its positive and a negative are needed")
        query, *documents = sentence_features
        return {"said": torch.stack([self.said(query, document) for document in documents], 1)}

    @torch.no_grad()
    def said(self, query: Features, document: Features) -> Float[Tensor, " B"]:
        """Mean log p(document's tokens | the query's) of each row."""
        return mean_log_probability(*read(parts(self.model)[0].model, self._head, query, document))

    def of(self, batch: Batch) -> Tensor:
        nce = infonce(*similarities(batch.columns, in_batch=self.in_batch), scale=self.scale)
        positive, negative = similarities(batch.columns, in_batch=False)
        cosines = torch.cat([positive[:, None], negative], 1)
        agreement = generation_agreement(cosines, batch.aside["said"].to(cosines), scale=self.scale)
        return (nce + self.weight * agreement).mean()


def read(
    transformer: nn.Module, head: Head | None, query: Features, document: Features
) -> tuple[Float[Tensor, "B T V"], Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """A decoder's logits along query and document as one text, in eval mode; the text, and where the document is.

    All three begin at the last token before a document, the earliest row's.
    head: as in Agreement. Raises ValueError for texts that are longer together than the decoder's window.
    """
    ids, mask, target = joined(query, document)
    window = getattr(transformer.config, "max_position_embeddings", None)
    if window is not None and ids.shape[1] > window:
        raise ValueError(f"query and document have {ids.shape[1]} tokens together, the model's window {window}")
    with evaluating(transformer):
        states = transformer(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    # a vocabulary wide: not where no row is at its document yet
    begin = max(0, int(target.any(0).int().argmax()) - 1)
    states, ids, target = states[:, begin:], ids[:, begin:], target[:, begin:]
    return states @ transformer.get_input_embeddings().weight.T if head is None else head(states), ids, target


def joined(query: Features, document: Features) -> tuple[Tensor, Tensor, Tensor]:
    """Query and document of each row as one, real tokens only, padded on the right: ids, mask, and the document's."""
    both = [torch.cat([part[key] for part in (query, document)], 1) for key in ("input_ids", "attention_mask")]
    ids, real = both[0], both[1].bool()
    late = torch.zeros_like(real)
    late[:, query["input_ids"].shape[1] :] = True
    order = (~real).long().argsort(dim=1, stable=True)  # real tokens first, in their order
    ids, real, late = (x.gather(1, order) for x in (ids, real, late))
    longest = int(real.sum(1).max())
    return ids[:, :longest], real[:, :longest], (late & real)[:, :longest]


@torch.no_grad()
def _refuse_seeing_ahead(transformer: nn.Module) -> None:
    """Generation is read off a pass in which no token sees a later one; ValueError where the first one does."""
    device = next(transformer.parameters()).device
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=device)
    with evaluating(transformer):
        states = transformer(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    if not torch.allclose(states[0], states[1], rtol=0, atol=1e-3 * float(states.abs().max())):
        raise ValueError(f"{type(transformer).__name__} looks both ways: it cannot say how likely a text is")
