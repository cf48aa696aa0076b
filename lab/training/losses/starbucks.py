"""A fixed list of (layer, width) pairs, all of them at every step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lab.training.losses.contrast import Batch, Features, Loss, built
from lab.training.losses.layers import depth_of, layer_vectors, of_columns, score_agreement


class Starbucks(Loss):
    """sum over pairs (l, d) of L(e^l_{1:d}) + kl sum over all but the last pair of agreement(e^l_{1:d}, e^last).

    pairs: from small to large, as (2, 32), (4, 64), ..., (12, 768) for a model of 12 blocks, 768 wide; layers are
    numbered as in the lab, l the output of block l, and embeddings cut to d are compared by cosine. One layer with
    several widths is Matryoshka training, [(12, 64), (12, 768)].
    inner: the loss L, a loss of this folder, MultipleNegativesRankingLoss, or a callable loss(model) that makes one;
        InfoNCE when not given.
    agreement: of a pair with the last pair, which is not moved by it: score_agreement or coordinate_agreement.
    final_norm: see layer_vectors.

    Zhuang et al., 2024. https://arxiv.org/abs/2410.13230. Numbering: the notes on the authors' code read its layer k
    as hidden_states[k - 1]; its similarity loss, as read for this file, subtracts 1 from an index into states without
    the embedding row, which is the output of block k, as here. Weights of pairs are equal there, and sums.

    Raises ValueError for an empty list, a layer that is not there and a width beyond the embedding's.
    """

    def __init__(
        self,
        model: nn.Module,
        inner: Any = None,
        *,
        pairs: Any,
        kl: float = 1.0,
        agreement: Callable[..., Tensor] = score_agreement,
        final_norm: str | None = None,
    ) -> None:
        super().__init__(model)
        self.inner = built(model, inner)
        of_columns(self.inner)  # a loss that cannot be asked is refused here
        self.pairs = checked_pairs(pairs, depth_of(model), model.get_embedding_dimension())
        self.layers = sorted({layer for layer, _ in self.pairs})
        self.kl, self.agreement, self.final_norm = kl, agreement, final_norm

    def aside(self, sentence_features: Sequence[Features]) -> dict[str, Any]:
        return self.inner.aside(sentence_features) if isinstance(self.inner, Loss) else {}

    def besides(self, sentence_features: Sequence[Features]) -> Tensor | None:
        return self.inner.besides(sentence_features) if isinstance(self.inner, Loss) else None

    def embed(self, features: Features) -> Tensor:
        return layer_vectors(self.model, features, self.layers, self.final_norm)

    def of(self, batch: Batch) -> Tensor:
        cut = [[x[:, self.layers.index(layer), :dim] for x in batch.columns] for layer, dim in self.pairs]
        ask = of_columns(self.inner)
        losses = [ask(replace(batch, columns=part)) for part in cut]
        if self.kl:
            losses += [self.kl * self.agreement(part, cut[-1]) for part in cut[:-1]]
        return torch.stack(losses).sum()


def checked_pairs(pairs: Any, depth: int, dim: int) -> list[tuple[int, int]]:
    pairs = [tuple(pair) for pair in pairs]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"pairs must be a list of (layer, width); got {pairs}")
    if wrong := [(l, d) for l, d in pairs if not (0 <= l <= depth and 1 <= d <= dim)]:  # noqa: E741
        raise ValueError(f"got {wrong}; layers run from 0 (embeddings) to {depth}, widths from 1 to {dim}")
    if len(set(pairs)) < len(pairs):
        raise ValueError(f"each pair may stand once; got {pairs}")
    return pairs
