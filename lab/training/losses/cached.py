"""Large batches in little memory, for every loss of this folder, those over several layers included."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin, RandContext, _create_minibatch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lab.training.losses.contrast import Batch, Features, Loss, built


class Cached(CachedLossMixin, nn.Module):
    """The same loss and the same gradient, with the activations of one mini-batch at a time.

    Embeds without gradients, takes the loss of the whole batch and its gradient at the embeddings, then embeds each
    mini-batch again with gradients and passes the cached ones on: GradCache, Gao et al., 2021, on
    sentence-transformers' engine. https://arxiv.org/abs/2101.06983

    What is embedded may be [b, L, D], a vector for each layer: that is all it takes for Starbucks and Matryoshka2D
    to work in it, where sentence-transformers' cached losses and its AdaptiveLayerLoss do not go together.
    inner: a loss, or a callable loss(model) that makes one.
    A loss's own parameters (class vectors) get their gradient too, and what it adds `besides` runs piece by piece as
    well. VLM2Vec trains so, Jiang et al., 2024.

    Raises TypeError for a loss that is not of this folder, ValueError for a mini-batch below 1.
    """

    def __init__(self, model: nn.Module, inner: Any, *, mini_batch: int = 32) -> None:
        super().__init__()
        inner = built(model, inner)
        if not isinstance(inner, Loss):
            raise TypeError(f"inner must be a loss of lab.training.losses; got {type(inner).__name__}")
        if mini_batch < 1:
            raise ValueError(f"mini_batch must be at least 1; got {mini_batch}")
        self.model, self.inner, self.mini_batch_size = model, inner, mini_batch
        self._aside: dict[str, Any] = {}
        self._own: list[tuple[nn.Parameter, Tensor]] = []

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        features = list(sentence_features)
        self._aside, self._own = self.inner.aside(features), []
        loss = self.forward_cached(features, labels)
        if loss.requires_grad and (own := self._own):
            loss.register_hook(lambda scale: _pass_on(own, scale))
        rows = len(features[0]["input_ids"])
        for begin in range(0, rows, self.mini_batch_size):
            end = min(begin + self.mini_batch_size, rows)
            part = [_create_minibatch(column, begin, end) for column in features]
            # nothing of a piece's pass is kept until the backward pass, which runs it again
            more = checkpoint(self.inner.besides, part, use_reentrant=False)
            if more is None:
                break
            loss = loss + more * ((end - begin) / rows)
        return loss

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        loss = self.inner.of(Batch([torch.cat(part) for part in reps], labels, self._aside))
        if with_backward:
            leaves = [rep for part in reps for rep in part]
            theirs = {id(p) for p in self.inner.model.parameters()}
            own = [p for p in self.inner.parameters() if p.requires_grad and id(p) not in theirs]
            grads = torch.autograd.grad(loss, [*leaves, *own], allow_unused=True)
            for leaf, grad in zip(leaves, grads, strict=False):
                leaf.grad = grad
            found = zip(own, grads[len(leaves) :], strict=True)
            self._own = [(parameter, grad) for parameter, grad in found if grad is not None]
            loss = loss.detach()
        return loss

    def embed_minibatch(
        self,
        sentence_feature: Features,
        begin: int,
        end: int,
        with_grad: bool,
        copy_random_state: bool,
        random_state: RandContext | None = None,
    ) -> tuple[Tensor, RandContext | None]:
        part = _create_minibatch(sentence_feature, begin, end)
        with nullcontext() if random_state is None else random_state, torch.set_grad_enabled(with_grad):
            kept = RandContext(*part.values()) if copy_random_state else None
            return self.inner.embed(part), kept


def _pass_on(own: Sequence[tuple[nn.Parameter, Tensor]], scale: Tensor) -> None:
    """The gradients of the loss's own parameters, scaled as the trainer scales the loss."""
    for parameter, grad in own:
        parameter.grad = grad * scale if parameter.grad is None else parameter.grad + grad * scale
