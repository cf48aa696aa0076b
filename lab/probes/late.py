"""Late interaction: a text is found through its best-fitting tokens, not through one vector."""

import torch
import xarray as xr
from jaxtyping import Float, Integer
from torch import Tensor
from tqdm import tqdm

from lab.probes.retrieval import by_rank, mean_ranks

Vectors = tuple[Tensor, Tensor]  # x [N, D] and offsets [S + 1]: text s is x[offsets[s] : offsets[s + 1]]


def maxsim(queries: Vectors, documents: Vectors, *, progress: bool = False) -> Float[Tensor, "Q S"]:
    """s(q, d) = sum over the query's tokens i of max over the document's tokens j of q_i . d_j.

    queries, documents: ragged, x (N, D) and int offsets (S + 1); dot products as they are, so bring rows to length 1
    first where cosines are meant. A document without tokens scores 0, as a query without tokens does with all.
    Khattab & Zaharia, "ColBERT", SIGIR 2020, eq. 3 (number recalled). https://arxiv.org/abs/2004.12832
    ValueError: offsets that do not fit, widths that differ.
    """
    (q, q_at), (d, d_at) = (_checked(side, name) for side, name in ((queries, "queries"), (documents, "documents")))
    if q.shape[1] != d.shape[1]:
        raise ValueError(f"queries and documents must be of one width; got {q.shape[1]} and {d.shape[1]}")
    found = q.new_zeros(len(q_at) - 1, len(d_at) - 1)
    query = torch.repeat_interleave(q_at.diff())  # of each query token
    for s, rows in enumerate(tqdm(d.split(d_at.diff().tolist()), desc="maxsim", leave=False, disable=not progress)):
        if len(rows):
            best = (q @ rows.mT).amax(1)
            found[:, s] = found.new_zeros(len(found)).index_add(0, query, best)
    return found


def late_retrieval(queries: Vectors, documents: Vectors, *, progress: bool = False) -> xr.Dataset:
    """Rank of document i among all for query i by MaxSim over tokens brought to length 1: variables over [example].

    The numbers are those of lab.probes.retrieval: rank (ties share their mean rank), reciprocal_rank, found_at_10 and
    ndcg_at_10. In the attributes: vectors, how many the documents have in all. ValueError: other numbers of texts.
    """
    if len(queries[1]) != len(documents[1]):
        raise ValueError(
            f"query i belongs to document i; got {len(queries[1]) - 1} queries and {len(documents[1]) - 1} documents"
        )
    unit = [(torch.nn.functional.normalize(x, dim=-1), offsets) for x, offsets in (queries, documents)]
    rank = mean_ranks(maxsim(*unit, progress=progress)).double().numpy()
    numbers = {name: ("example", one) for name, one in by_rank(rank).items()}
    return xr.Dataset(numbers, attrs={"vectors": len(documents[0])})


def _checked(side: Vectors, name: str) -> tuple[Float[Tensor, "N D"], Integer[Tensor, " _"]]:
    x, offsets = side
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"{name} must be ragged [tokens, dim] of a float type; got {tuple(x.shape)} of {x.dtype}")
    steps = offsets.diff()
    if (
        offsets.ndim != 1
        or not len(offsets)
        or int(offsets[0])
        or int(offsets[-1]) != len(x)
        or bool((steps < 0).any())
    ):
        raise ValueError(f"the offsets of {name} must go from 0 to {len(x)} and never fall; got {tuple(offsets.shape)}")
    return x, offsets
