"""Hard negatives that are not positives nobody labelled: the positive's own score says how hard is too hard."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from lab.training.losses.contrast import Batch, Loss, infonce, positive_number, similarities, unit, wide

Limit = Callable[[Tensor], Tensor]  # scores of positives -> what a negative must stay below


def share_limit(positive: Tensor, share: float = 0.95) -> Tensor:
    """p - (1 - share) |p|: NV-Retriever's "TopK-PercPos", share p, and below p for a negative cosine too."""
    return positive - (1 - share) * positive.abs()


def margin_limit(positive: Tensor, margin: float = 0.05) -> Tensor:
    """p - margin: NV-Retriever's "TopK-MarginPos"."""
    return positive - margin


def fixed_limit(positive: Tensor, most: float = 0.7) -> Tensor:
    """The same number for every query: NV-Retriever's "TopK-Abs"."""
    return torch.full_like(positive, most)


def no_limit(positive: Tensor) -> Tensor:
    """Plain top-k: anything but the positive itself."""
    return torch.full_like(positive, torch.inf)


@dataclass(frozen=True, eq=False)
class Mined:
    """Negatives of N queries, and what the limit kept out.

    negative  [N, k] numbers of documents, hardest first; -1 where fewer than k stay below the limit
    score     [N, k] their cosines, NaN there
    refused   [N, k] which of the k documents that plain top-k takes the limit refused; -1 for those it let pass
    above     [N] how many documents reach the limit in all, positives apart
    positive  [N] the cosine of the (lowest) positive, from which the limit was taken
    """

    negative: Int[Tensor, "N k"]
    score: Float[Tensor, "N k"]
    refused: Int[Tensor, "N k"]
    above: Int[Tensor, " N"]
    positive: Float[Tensor, " N"]


@torch.no_grad()
def mine(
    queries: Any,
    documents: Any,
    positives: Any,
    *,
    k: int = 4,
    limit: Limit = share_limit,
    among: int | None = None,
    seed: int = 0,
    chunk: int = 1024,
    progress: bool = True,
) -> Mined:
    """The k hardest negatives of each query whose cosine is below limit(cosine of its positive).

    queries [N, D], documents [M, D]: embeddings. positives: the number of each query's document [N], or several
    [N, P] with -1 for none: the lowest of them sets the limit, none of them is a negative. limit: share_limit (below
    95 % of the positive's score), margin_limit, fixed_limit, no_limit, or a functools.partial of one.
    among: draw the k from so many hardest instead of taking the first; NV-Retriever found 4 of the top 10 best (from
    notes on the paper). Equal scores stand in the order of the documents. Memory is chunk x M.

    NV-Retriever, Moreira et al., 2024 (names and the 95 % from its page and notes). https://arxiv.org/abs/2407.15831
    Raises ValueError for shapes that do not fit, a positive that is no document, k < 1 and among < k.
    """
    queries, documents = (unit(wide(torch.as_tensor(rows))) for rows in (queries, documents))
    positives = torch.as_tensor(positives)
    positives = positives[:, None] if positives.ndim == 1 else positives
    _check(queries, documents, positives, k, among)
    wanted, parts = among or k, []
    for start in tqdm(range(0, len(queries), chunk), desc="mining", disable=not progress):
        scores = queries[start : start + chunk] @ documents.T
        own = positives[start : start + chunk]
        held = scores.gather(1, own.clamp(min=0)).masked_fill(own < 0, torch.inf).min(1).values
        there = (own >= 0).nonzero()[:, 0]
        scores[there, own[own >= 0]] = -torch.inf
        allowed = scores < limit(held)[:, None]
        plain = scores.sort(dim=1, descending=True, stable=True)
        below = scores.masked_fill(~allowed, -torch.inf).sort(dim=1, descending=True, stable=True)
        refused = plain.indices.masked_fill(allowed.gather(1, plain.indices) | plain.values.isneginf(), -1)
        above = (~allowed).sum(1)
        parts.append((_filled(below.indices, wanted, -1.0), _filled(below.values, wanted, -torch.inf),
                      _filled(refused, k, -1.0), above, held))  # fmt: skip
    number, score, refused, above, held = (torch.cat(part) for part in zip(*parts, strict=True))
    if among is not None:
        number, score = _drawn(number, score, k, seed)
    missing = score.isneginf()
    return Mined(number.masked_fill(missing, -1), score.masked_fill(missing, torch.nan), refused, above, held)


class PositiveAware(Loss):
    """InfoNCE without the candidates whose cosine reaches the limit, measured with the model that is trained.

    The limit as a mask inside the batch, not as a miner before it: no other model is asked, as GISTEmbed asks one, so
    that a model that cannot tell yet drops at random. `dropped` and `seen` count candidates since the loss was made.
    The loss form is ours; the limit is NV-Retriever's (see mine).
    """

    def __init__(
        self, model: nn.Module, *, limit: Limit = share_limit, scale: float = 20.0, in_batch: bool = True
    ) -> None:
        super().__init__(model)
        self.limit, self.scale, self.in_batch = limit, positive_number("scale", scale), in_batch
        self.dropped = self.seen = 0

    def of(self, batch: Batch) -> Tensor:
        positive, negative = similarities(batch.columns, in_batch=self.in_batch)
        keep = negative.detach() < self.limit(positive.detach())[:, None]
        self.dropped, self.seen = self.dropped + int((~keep).sum()), self.seen + keep.numel()
        return infonce(positive, negative, scale=self.scale, keep=keep).mean()


def _check(queries: Tensor, documents: Tensor, positives: Tensor, k: int, among: int | None) -> None:
    N, M = len(queries), len(documents)
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"got queries {tuple(queries.shape)}, documents {tuple(documents.shape)}; needed: [N, D], [M, D]"
        )
    if positives.ndim != 2 or len(positives) != N or positives.is_floating_point() or positives.shape[1] < 1:
        raise ValueError(f"positives must be document numbers [{N}] or [{N}, P]; got {tuple(positives.shape)}")
    if (positives >= M).any() or (positives < -1).any() or (positives.max(1).values < 0).any():
        raise ValueError(f"every query needs a positive among the documents 0 .. {M - 1} (-1 fills up); got others")
    if k < 1 or (among is not None and among < k):
        raise ValueError(f"got k={k}, among={among}; needed are k of at least 1 and among of at least k")


def _filled(rows: Tensor, width: int, value: float) -> Tensor:
    return nn.functional.pad(rows[:, :width], (0, max(0, width - rows.shape[1])), value=value)


def _drawn(number: Tensor, score: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """k of each row's candidates at random, hardest first; those that are missing come last."""
    lot = torch.rand(number.shape, generator=torch.Generator().manual_seed(seed)).to(score)
    chosen = lot.masked_fill(score.isneginf(), 2).argsort(dim=1, stable=True)[:, :k].sort(1).values
    return number.gather(1, chosen), score.gather(1, chosen)
