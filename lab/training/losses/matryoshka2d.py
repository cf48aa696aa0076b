"""One layer and one width, drawn anew at every step, beside the whole model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lab.training.losses.contrast import Batch, Features, Loss, built
from lab.training.losses.layers import coordinate_agreement, depth_of, layer_vectors, of_columns


class Matryoshka2D(Loss):
    """L(e^L) + L(e^L_{1:d}) + L(e^l) + L(e^l_{1:d}) + kl agreement(e^l, e^L), layer l < L and width d drawn each step.

    dims: widths to draw from, the whole one apart. layers: those to draw from, 1 .. L - 1 when not given (0, the
    embedding output, may be named). inner: the loss L, as in Starbucks. agreement: the last layer is the
    teacher and is not moved by it (sentence-transformers moved it until its issue #3757). Draws come from torch's own
    generator, so that a checkpoint that keeps its state keeps them. final_norm: see layer_vectors.

    2DMSE, Li et al., 2024, from its page: four losses and the alignment. https://arxiv.org/abs/2402.14776
    sentence-transformers' Matryoshka2dLoss differs: it averages the layers' losses, has the embedding output among
    them and does not take cached losses.

    Raises ValueError for a model of one block, a layer that is not there, and widths beyond the embedding's.
    """

    def __init__(
        self,
        model: nn.Module,
        inner: Any = None,
        *,
        dims: Sequence[int],
        layers: Sequence[int] | None = None,
        kl: float = 1.0,
        agreement: Callable[..., Tensor] = coordinate_agreement,
        final_norm: str | None = None,
    ) -> None:
        super().__init__(model)
        self.inner = built(model, inner)
        of_columns(self.inner)
        depth, width = depth_of(model), model.get_embedding_dimension()
        self.dims, self.layers = list(dims), list(range(1, depth) if layers is None else layers)
        if not self.dims or any(not 1 <= dim < width for dim in self.dims):
            raise ValueError(f"dims must be widths from 1 to {width - 1}, at least one; got {self.dims}")
        if not self.layers or any(not 0 <= layer < depth for layer in self.layers):
            raise ValueError(f"layers must be some of 0 .. {depth - 1}; got {self.layers}")
        self.depth, self.kl, self.agreement, self.final_norm = depth, kl, agreement, final_norm

    def aside(self, sentence_features: Sequence[Features]) -> dict[str, Any]:
        return self.inner.aside(sentence_features) if isinstance(self.inner, Loss) else {}

    def besides(self, sentence_features: Sequence[Features]) -> Tensor | None:
        return self.inner.besides(sentence_features) if isinstance(self.inner, Loss) else None

    def embed(self, features: Features) -> Tensor:
        # all of them, since a cached loss embeds twice and the draw must be one: pooling is cheap beside the pass
        return layer_vectors(self.model, features, [*self.layers, self.depth], self.final_norm)

    def of(self, batch: Batch) -> Tensor:
        at, dim = int(torch.randint(len(self.layers), ())), self.dims[int(torch.randint(len(self.dims), ()))]
        last, early = [x[:, -1] for x in batch.columns], [x[:, at] for x in batch.columns]
        ask = of_columns(self.inner)
        cut = [part for whole in (last, early) for part in (whole, [x[:, :dim] for x in whole])]
        losses = [ask(replace(batch, columns=part)) for part in cut]
        if self.kl:
            losses.append(self.kl * self.agreement(early, last))
        return torch.stack(losses).sum()
