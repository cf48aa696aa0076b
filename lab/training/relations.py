"""Which words should a relation be read from? A small encoder trained on synthetic sentences, pooled over spans."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lab.data.relations import Relations, Sentences
from lab.pooling import SpanMaxPool
from lab.pooling.spans import dependency_path
from lab.training.descend import descend


def _entities(s: Sentences) -> Tensor:
    at = torch.arange(s.ids.shape[1])
    return torch.stack([at == s.source[:, None], at == s.target[:, None]], -1)


def _path(s: Sentences, distance: int = 0) -> Tensor:
    rows = zip(s.heads.tolist(), s.source.tolist(), s.target.tolist(), strict=True)
    return torch.stack([dependency_path(heads, [a], [b], distance) for heads, a, b in rows])[..., None]


def _sentence(s: Sentences) -> Tensor:
    return s.mask[..., None]


# the spans of each sentence, bool [B, T, K]: what the maximum is taken over
SPANS: dict[str, Callable[[Sentences], Tensor]] = {
    "sentence": _sentence,
    "entities": _entities,
    "entities + sentence": lambda s: torch.cat([_entities(s), _sentence(s)], -1),
    "path": _path,
    "near path": lambda s: _path(s, 1),
}


class RelationReader(nn.Module):
    """logits = W [max over span_1 of h, ... max over span_K] + b, h of a small bidirectional transformer.

    ids (B, T), mask (B, T), asked (B, T) True at the two entities (the encoder is told, as by position features), spans
    (B, T, K) -> (B, C).
    """

    def __init__(self, vocab: int, kinds: int, spans: int, dim: int = 32, layers: int = 1, places: int = 128) -> None:
        super().__init__()
        self.embed, self.place, self.asked = nn.Embedding(vocab, dim), nn.Embedding(places, dim), nn.Embedding(2, dim)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.pool, self.out = SpanMaxPool(dim), nn.Linear(spans * dim, kinds)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        asked: Bool[Tensor, "B T"],
        spans: Bool[Tensor, "B T K"],
    ) -> Float[Tensor, "B C"]:
        x = self.embed(ids) + self.place.weight[: ids.shape[1]] + self.asked(asked.long())
        for block in self.blocks:
            x = block(x, src_key_padding_mask=~mask)
        return self.out(self.pool(x, mask, spans))


@dataclass(frozen=True, eq=False)
class Reader:
    """A trained reader, its task and the name of its spans."""

    net: RelationReader
    task: Relations
    pool: str

    @torch.no_grad()
    def measure(self, distractors: Iterable[int], *, sentences: int = 500, seed: int = 0) -> xr.DataArray:
        """correct[distractors, example] on sentences that training never drew."""
        found = {}
        for count in distractors:
            drawn = self.task.draw(sentences, count, seed=1_000_003 + seed)
            found[count] = (self.net(*_inputs(drawn, self.pool)).argmax(1) == drawn.labels).double().numpy()
        return xr.DataArray(
            np.stack(list(found.values())), dims=("distractors", "example"), coords={"distractors": list(found)}
        )


def relation_reader(
    pool: str = "path",
    task: Relations = Relations(),  # noqa: B008 (frozen)
    *,
    sentences: int = 2000,
    distractors: Iterable[int] = (0, 1, 2, 3),
    dim: int = 32,
    layers: int = 1,
    steps: int = 200,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> Reader:
    """Train a reader whose pool is one of SPANS, AdamW, cross-entropy; the seed draws sentences, weights and batches.

    "entities", "sentence" and "path" are the forms of arXiv 1911.01055 as its abstract and memory have them: the
    maximum over each entity, over the whole, over the shortest dependency path. `sentences` are drawn once, in equal
    parts for each number of distractors. ValueError: an unknown pool, no number of distractors.
    """
    counts = list(distractors)
    if pool not in SPANS or not counts:
        raise ValueError(f"pool must be one of {list(SPANS)}, with some number of distractors; got {pool!r}, {counts}")
    drawn = [task.draw(max(1, sentences // len(counts)), count, seed) for count in counts]
    inputs = [_inputs(part, pool) for part in drawn]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RelationReader(task.vocab, task.kinds, inputs[0][3].shape[-1], dim, layers)
    generator = np.random.default_rng(seed)

    def loss(step: int) -> Tensor:
        of = step % len(counts)  # a batch has one number of distractors, so that its padding is short
        rows = torch.from_numpy(generator.integers(len(drawn[of].labels), size=batch))
        return nn.functional.cross_entropy(net(*(part[rows] for part in inputs[of])), drawn[of].labels[rows])

    descend(loss, net.parameters(), steps, rate=rate, label=f"train {pool}", progress=progress)
    return Reader(net.eval(), task, pool)


def _inputs(s: Sentences, pool: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return s.ids, s.mask, _entities(s).any(-1), SPANS[pool](s)
