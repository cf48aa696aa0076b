"""A small sparse retriever: texts to weights of words, with expansion, a FLOPS penalty and, asked for, a teacher."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lab.pooling import SPLADEPool
from lab.training.descend import descend

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # snake_case and CamelCase come apart
START = 0


@dataclass(frozen=True)
class Words:
    """A vocabulary of words, the most frequent of some texts; id 0 begins every text and is no word."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str], size: int = 800) -> "Words":
        """ValueError for a size below 1 and for texts without a word."""
        counts = Counter(word.lower() for text in texts for word in WORD.findall(text))
        if size < 1 or not counts:
            raise ValueError(f"got a size of {size} and {len(counts)} different words; at least one of each is needed")
        return cls(tuple(word for word, _ in counts.most_common(size)))

    def __len__(self) -> int:
        return len(self.words) + 1

    def read(self, texts: Sequence[str], length: int) -> tuple[Int[Tensor, "N T"], Bool[Tensor, "N T"]]:
        """The ids of the known words of each text, cut at `length`, behind a start; and which places are words."""
        number = {word: i + 1 for i, word in enumerate(self.words)}
        known = [[number[w.lower()] for w in WORD.findall(text) if w.lower() in number][:length] for text in texts]
        ids = torch.full((len(known), 1 + max(map(len, known), default=0)), START)
        for row, found in zip(ids, known, strict=True):
            row[1 : 1 + len(found)] = torch.tensor(found, dtype=torch.long)
        return ids, ids != START


def flops(weights: Float[Tensor, "B V"]) -> Float[Tensor, ""]:
    """sum_v (1/B sum_b |w_bv|)^2, a smooth stand-in for the products that scoring two sparse vectors takes.

    Paria et al., ICLR 2020, section 4 (recalled). https://arxiv.org/abs/2004.05665
    """
    return weights.abs().mean(0).square().sum()


def margin_mse(scores: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
    """mean over i != j of ((s_ii - s_ij) - (t_ii - t_ij))^2, both [B, B]: the student takes the teacher's margins over.

    Hofstaetter et al., 2020, with the other documents of the batch as negatives (recalled).
    https://arxiv.org/abs/2010.02666 ValueError: matrices that are not square or not of one shape, fewer than two rows.
    """
    if scores.shape != teacher.shape or scores.ndim != 2 or len(scores) != scores.shape[1] or len(scores) < 2:
        raise ValueError(
            f"scores and teacher must be [B, B], B >= 2; got {tuple(scores.shape)}, {tuple(teacher.shape)}"
        )
    gap = (scores.diagonal()[:, None] - scores) - (teacher.diagonal()[:, None] - teacher)
    others = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return gap[others].square().mean()


class SparseEncoder(nn.Module):
    """w = pool_t of ln(1 + relu(z_t)), z_t = a LN(h_t) . E + b: every word may get a weight, not only those said.

    ids (B, T), mask (B, T) True = a word -> (B, V). One bidirectional transformer layer of width dim over word and
    place embeddings; the output embedding is the input's. pool: "max" or "sum" (SPLADEPool).
    """

    def __init__(self, vocab: int, dim: int = 48, places: int = 64, pool: str = "max") -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocab, dim), nn.Embedding(places, dim)
        nn.init.normal_(self.embed.weight, std=dim**-0.5)
        nn.init.normal_(self.place.weight, std=0.1 * dim**-0.5)
        self.block = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.scale, self.bias = nn.Parameter(torch.tensor(4.0)), nn.Parameter(torch.full((vocab,), -1.5))
        self.pool = SPLADEPool(vocab, pooling_strategy=pool)

    def forward(self, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        seen = mask | (torch.arange(ids.shape[1], device=ids.device) == 0)  # the start is seen, so that no row is blind
        x = self.embed(ids) + self.place.weight[: ids.shape[1]]
        h = self.block(x, src_key_padding_mask=~seen)
        logits = nn.functional.normalize(h, dim=-1) @ nn.functional.normalize(self.embed.weight, dim=-1).mT
        return self.pool(self.scale * logits + self.bias, mask)


@dataclass(frozen=True, eq=False)
class Sparse:
    """A trained retriever and how it reads: expand_queries False means a query is its own words, each of weight 1."""

    net: SparseEncoder
    words: Words
    lengths: tuple[int, int]
    expand_queries: bool

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, query: bool = False) -> Float[Tensor, "N V"]:
        """Weights of the words, of documents or of queries."""
        return self._weights(*self.words.read(texts, self.lengths[0 if query else 1]), query=query)

    def _weights(self, ids: Tensor, mask: Tensor, *, query: bool) -> Tensor:
        if query and not self.expand_queries:
            return _said(ids, len(self.words))
        return self.net(ids, mask)

    def measure(self, queries: Sequence[str], documents: Sequence[str], top: int | None = None) -> xr.Dataset:
        """reciprocal_rank[example], and what it costs: query_words and document_words, weights above 0 a text, and
        products, the expected number of words that a query shares with a document.

        top: of every document only its `top` largest weights are kept, for vectors of one size. ValueError: texts that
        do not pair, top below 1.
        """
        if len(queries) != len(documents) or (top is not None and top < 1):
            raise ValueError(f"got {len(queries)} queries, {len(documents)} documents, top={top}")
        q, d = self.encode(queries, query=True), self.encode(documents)
        if top is not None and top < d.shape[1]:
            d = torch.where(d >= d.topk(top, dim=1).values[:, -1:], d, 0)
        scores = q @ d.mT
        own = scores.diagonal()[:, None]
        rank = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2  # ties share their mean rank
        return xr.Dataset(
            {
                "reciprocal_rank": ("example", (1 / rank).double().numpy()),
                "query_words": float((q > 0).sum(1).double().mean()),
                "document_words": float((d > 0).sum(1).double().mean()),
                "products": float(((q > 0).double().mean(0) * (d > 0).double().mean(0)).sum()),
            }
        )


def sparse_retriever(
    queries: Sequence[str],
    documents: Sequence[str],
    words: Words,
    *,
    pool: str = "max",
    penalty: float | int = 1e-3,
    expand_queries: bool = True,
    teacher: Tensor | None = None,
    dim: int = 48,
    lengths: tuple[int, int] = (16, 48),
    steps: int = 200,
    batch: int = 32,
    rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> Sparse:
    """Train on pairs: -log softmax_j(w_q . w_dj)_i over the batch + penalty * (flops(q) + flops(d)), AdamW.

    The penalty grows with the square of the step over the first third. teacher: scores [query, document] of a better
    model, whose margins the student takes over (margin_mse) beside the first term. expand_queries=False is the
    document-only variant: queries are never encoded. lengths: words of a query and of a document at most.
    Formal et al., "SPLADE v2", 2021: max pooling (eq. 6), document-only (section 3.2), distillation (section 3.3;
    numbers recalled). https://arxiv.org/abs/2109.10086
    ValueError: texts that do not pair, a batch below 2 or above them, a penalty below 0, a teacher of another size.
    """
    n = len(queries)
    if n != len(documents) or not 2 <= batch <= n or penalty < 0:
        raise ValueError(
            "needed are as many queries as documents, a batch of 2 to all of them and a penalty of 0 or more; got "
            f"{n}, {len(documents)}, {batch} and {penalty}"
        )
    if teacher is not None and teacher.shape != (n, n):
        raise ValueError(f"the teacher's scores must be {(n, n)}, query by document; got {tuple(teacher.shape)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SparseEncoder(len(words), dim, 1 + max(lengths), pool)
    made = Sparse(net, words, lengths, expand_queries)
    asked, given = words.read(queries, lengths[0]), words.read(documents, lengths[1])
    generator = np.random.default_rng(seed)

    def objective(step: int) -> Tensor:
        rows = torch.from_numpy(generator.choice(n, batch, replace=False))
        q = made._weights(*(part[rows] for part in asked), query=True)
        d = made._weights(*(part[rows] for part in given), query=False)
        scores = q @ d.mT
        loss = nn.functional.cross_entropy(scores, torch.arange(batch))
        if teacher is not None:
            loss = loss + margin_mse(scores, teacher[rows][:, rows].to(scores.dtype))
        ramp = min(1.0, 3 * (step + 1) / steps) ** 2
        return loss + penalty * ramp * (flops(d) + (flops(q) if expand_queries else 0))

    descend(objective, net.parameters(), steps, rate=rate, label=f"train splade {pool}", progress=progress)
    net.eval()
    return made


def _said(ids: Int[Tensor, "B T"], vocab: int) -> Float[Tensor, "B V"]:
    """1 for every word of a text; the start is no word."""
    weights = torch.zeros(len(ids), vocab).scatter(1, ids, 1.0)
    weights[:, START] = 0
    return weights
