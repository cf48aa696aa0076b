"""What the losses of this folder stand on: a query's cosines to its positive and to its negatives, and InfoNCE."""

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Features = MutableMapping[str, Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss is a function of: embeddings of the columns, labels if there are any, and what was computed aside."""

    columns: Sequence[Tensor]  # query, positive, negatives ..., each [B, ...]
    labels: Tensor | None = None
    aside: dict[str, Any] = field(default_factory=dict)


class Loss(nn.Module):
    """A loss as sentence-transformers calls it, Loss(model)(sentence_features, labels), in four parts.

    aside(sentence_features)    what is computed without gradients, by name: a teacher's scores, say
    embed(features)             one column's texts -> [B, ...], through the model
    of(batch)                   the scalar, a function of embeddings alone
    besides(sentence_features)  what is added to it and is no function of embeddings, a mean over rows, with gradients

    They are apart so that lab.training.losses.cached can embed in small pieces, and the losses of several layers and
    widths can call `of` for each of them, and `besides` once. A child defines `of`; most add nothing. In-batch
    negatives are those of one process. Columns of about one length are embedded as one batch (`as_one`). of_labels:
    whether it is of one column of texts and their labels, where the others are of pairs.
    """

    of_labels = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def aside(self, _: Sequence[Features]) -> dict[str, Any]:
        return {}

    def embed(self, features: Features) -> Tensor:
        return self.model(features)["sentence_embedding"]

    def of(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def besides(self, _: Sequence[Features]) -> Tensor | None:
        return None

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        features = list(sentence_features)
        aside = self.aside(features)
        if (one := as_one(features)) is None:
            columns = [self.embed(column) for column in features]
        else:
            columns = self.embed(one).split([len(column["attention_mask"]) for column in features])
        loss, more = self.of(Batch(columns, labels, aside)), self.besides(features)
        return loss if more is None else loss + more


def as_one(columns: Sequence[Features]) -> Features | None:
    """The texts of all columns as one batch, or None where each is better embedded by itself.

    A step of a small model is its number of calls, and one pass over three columns has a third of those of three. Not
    so where the padding that lets short texts stand beside long ones would cost more than a quarter, where padding
    stands on the left (an absolute position would move with it), and where a column holds more than rows of tokens
    with their mask.
    """
    masks = [column.get("attention_mask") for column in columns]
    if len(masks) < 2 or any(not isinstance(mask, Tensor) or mask.ndim != 2 or not mask.numel() for mask in masks):
        return None
    widest = max(mask.shape[1] for mask in masks)
    if widest * sum(map(len, masks)) > 1.25 * sum(mask.numel() for mask in masks):
        return None
    if any(column.keys() != columns[0].keys() for column in columns) or not all(bool(m[:, 0].all()) for m in masks):
        return None
    merged: dict[str, Any] = {}
    for name, value in columns[0].items():
        values = [column[name] for column in columns]
        if not isinstance(value, Tensor):
            if any(type(one) is not type(value) or one != value for one in values):
                return None
            merged[name] = value
            continue
        if any(one.shape != mask.shape for one, mask in zip(values, masks, strict=True)):
            return None
        merged[name] = torch.cat([nn.functional.pad(one, (0, widest - one.shape[1])) for one in values])
    return merged


class InfoNCE(Loss):
    """-log softmax of the positive's cosine among all candidates, tau = 1 / scale; the mean over queries.

    in_batch = True: the positives and negatives of the other queries are negatives too, which makes it
    sentence-transformers' MultipleNegativesRankingLoss. False: a query has its own negatives only, as in NV-Embed's
    second stage, where the batch mixes tasks whose other answers may be right ones. https://arxiv.org/abs/2405.17428
    (that the stage does so is from notes on the paper).
    """

    def __init__(self, model: nn.Module, *, scale: float = 20.0, in_batch: bool = True) -> None:
        super().__init__(model)
        self.scale, self.in_batch = positive_number("scale", scale), in_batch

    def of(self, batch: Batch) -> Tensor:
        return infonce(*similarities(batch.columns, in_batch=self.in_batch), scale=self.scale).mean()


def infonce(
    positive: Float[Tensor, " B"],
    negative: Float[Tensor, "B K"],
    *,
    scale: float = 20.0,
    keep: Bool[Tensor, "B K"] | None = None,
    weight: Float[Tensor, "B K"] | None = None,
) -> Float[Tensor, " B"]:
    """log(e^{s p_i} + sum_k w_ik e^{s n_ik}) - s p_i of each query, over the negatives that `keep` has True.

    positive, negative: cosines. weight: w_ik >= 0, all 1 when not given; a zero leaves the negative out. A query
    whose negatives are all left out has loss 0 and gradient 0. Oord et al., 2018, eq. 4. https://arxiv.org/abs/1807.03748
    """
    logits = scale * negative
    if weight is not None:
        # log 0 has no gradient to give: the weight of a negative that counts nothing is left out before the logarithm
        logits = logits + weight.where(weight > 0, 1).log()
        keep = weight > 0 if keep is None else keep & (weight > 0)
    if keep is not None:
        logits = logits.masked_fill(~keep, -torch.inf)
    own = scale * positive
    return torch.cat([own[:, None], logits], 1).logsumexp(1) - own


def similarities(columns: Sequence[Tensor], *, in_batch: bool = True) -> tuple[Tensor, Tensor]:
    """Cosines of each query with its positive [B] and with its negatives [B, K].

    columns: query, positive, then any number N of negatives, each [B, D]. With in_batch the negatives are the
    positives of all other queries and everybody's negatives, K = B - 1 + N B, in this order; without, K = N.
    Half precision is computed and returned in float32: a loss is one number, and rounding it would hide a step.

    Raises ValueError for columns of unequal shapes, fewer than two, and where there is no negative at all.
    """
    query, first, *rest = (unit(wide(column)) for column in checked(columns))
    B = len(query)
    if in_batch:
        across = query @ first.T
        # without the diagonal: slices, where a mask would be gathered and its gradient scattered, number by number
        away = across.flatten()[1:].view(B - 1, B + 1)[:, :-1].reshape(B, B - 1)
        negative = torch.cat([away, *(query @ column.T for column in rest)], 1)
    else:
        own = [(query * column).sum(1, keepdim=True) for column in rest]
        negative = torch.cat([query.new_empty(B, 0), *own], 1)
    if not negative.shape[1]:
        raise ValueError(
            f"{len(columns)} columns of {B} rows leave no negative: "
            + ("a batch needs two rows, or a column of negatives" if in_batch else "add a column of negatives")
        )
    return (query * first).sum(1), negative


def checked(columns: Sequence[Tensor]) -> Sequence[Tensor]:
    """The columns, [B, D] each; ValueError unless there are a query and a positive of one shape."""
    shapes = [tuple(column.shape) for column in columns]
    if len(shapes) < 2 or len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"got columns of shapes {shapes}; needed are a query and a positive, [B, D] alike")
    return columns


def labelled(batch: Batch) -> tuple[Tensor, Tensor]:
    """The one column of a batch of single texts, and their labels; ValueError where there is another number of them."""
    if len(batch.columns) != 1 or batch.labels is None:
        got = f"{len(batch.columns)} columns, labels {batch.labels}"
        raise ValueError(f"one column of texts and their labels are needed; got {got}")
    return batch.columns[0], batch.labels


def unit(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """x / |x|; a zero vector stays zero and has gradient zero, where x / max(|x|, eps) has one of size 1 / eps."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    empty = norm == 0  # NaN is not, and passes
    return torch.where(empty, 0, x / torch.where(empty, 1, norm))


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def built(model: nn.Module, inner: Any) -> Any:
    """The loss inside another: a module as it is, a callable loss(model) called, InfoNCE where none is given."""
    if inner is None:
        return InfoNCE(model)
    return inner if isinstance(inner, nn.Module) or not callable(inner) else inner(model)


def positive_number(name: str, value: float) -> float:
    if not (isinstance(value, int | float) and 0 < value < float("inf")):
        raise ValueError(f"{name} must be a positive number; got {value!r}")
    return value
