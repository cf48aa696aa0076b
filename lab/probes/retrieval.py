"""Does a text find its partner? Ranks by cosine, in every layer and pool."""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from lab.probes.cells import checked_cells


def retrieval(queries: xr.Dataset, documents: xr.Dataset) -> xr.Dataset:
    """Rank of document i among all documents for query i, by cosine, layer by layer and pool by pool.

    queries, documents: from lab.capture.states, with the same layers, pools and number of examples; example i of
    one belongs to example i of the other. Returns variables over [layer, pool, example]: rank (1 is best; ties
    share their mean rank, so a collapsed space gets no lucky first place), reciprocal_rank = 1 / rank (its mean is
    the MRR), found_at_10 = rank <= 10 (its mean is recall@10) and ndcg_at_10 = 1 / log2(1 + rank) up to rank 10, 0
    beyond, the nDCG of one relevant document.

    MRR: Voorhees, 1999, TREC-8 question answering track; the pairing of documentation with its code as in
    CodeSearchNet, Husain et al., 2019. https://arxiv.org/abs/1909.09436
    Raises ValueError for states that do not pair, and for NaN or infinity within a layer's width.
    """
    cells, others = checked_cells(queries), checked_cells(documents)
    q, d = cells.h, others.h
    same = all(np.array_equal(q[axis], d[axis]) for axis in ("layer", "pool"))
    if q.shape != d.shape or not same or not np.array_equal(cells.widths, others.widths):
        raise ValueError(
            f"queries {dict(q.sizes)} and documents {dict(d.sizes)} must have the same layers, pools, examples and dim"
        )
    rank = np.empty(q.shape[:3])
    for where in np.ndindex(*cells.shape):  # one layer and pool at a time: states may be a store larger than memory
        width = int(cells.widths[where[0]])
        pair = (torch.from_numpy(h[where][:, :width].values).float() for h in (q, d))
        rank[where] = ranks(*pair).numpy()
    dims = ("layer", "pool", "example")
    numbers = by_rank(rank)
    return xr.Dataset({name: (dims, one) for name, one in numbers.items()}, coords={axis: q[axis] for axis in dims})


def by_rank(rank: np.ndarray) -> dict[str, np.ndarray]:
    """What is told from the rank of the one document that answers."""
    return {
        "rank": rank,
        "reciprocal_rank": 1 / rank,
        "found_at_10": rank <= 10,
        "ndcg_at_10": np.where(rank <= 10, 1 / np.log2(1 + rank), 0),
    }


def ranks(queries: Float[Tensor, "*P N D"], documents: Float[Tensor, "*P N D"]) -> Float[Tensor, "*P N"]:
    """Mean rank, from 1, of document i for query i by cosine: 1 + #{j: s_ij > s_ii} + #{j != i: s_ij = s_ii} / 2.

    A zero vector has cosine 0 with everything.
    """
    similarity = torch.nn.functional.normalize(queries, dim=-1) @ torch.nn.functional.normalize(documents, dim=-1).mT
    return mean_ranks(similarity)


def mean_ranks(similarity: Float[Tensor, "*P N N"]) -> Float[Tensor, "*P N"]:
    """Mean rank, from 1, of the diagonal entry in each row, highest first."""
    own = similarity.diagonal(dim1=-2, dim2=-1)[..., None]
    above, level = (similarity > own).sum(-1), (similarity == own).sum(-1)
    return 1 + above + (level - 1) / 2
