"""Search by global descriptors: the order of a database for each query, put right at its top, and what that costs."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize


def search(queries: Float[Tensor, "Q D"], database: Float[Tensor, "N D"]) -> Int[Tensor, "Q N"]:
    """Places of the database for each query, highest cosine first, equal ones as they stand.

    ValueError: widths that differ.
    """
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"queries [Q, D] and database [N, D] must be of one width; got {tuple(queries.shape)}, "
            f"{tuple(database.shape)}"
        )
    return (normalize(queries, dim=1) @ normalize(database, dim=1).T).argsort(dim=1, descending=True, stable=True)


def reordered(order: Int[Tensor, "Q N"], scores: Float[Tensor, "Q M"]) -> Int[Tensor, "Q N"]:
    """The first M places of each order by other scores of theirs, highest first; the rest as it was."""
    top = scores.shape[1]
    moved = order[:, :top].gather(1, scores.argsort(dim=1, descending=True, stable=True))
    return torch.cat([moved, order[:, top:]], 1)


def refined_search(
    queries: Float[Tensor, "Q D"],
    database: Float[Tensor, "N D"],
    *,
    top: int = 100,
    neighbours: int = 9,
    beta: float = 0.15,
) -> Int[Tensor, "Q N"]:
    """`search`, its first `top` places reranked by refined global descriptors alone.

    Of the M = top places found, each descriptor g_j is drawn to its K = neighbours nearest among them, and the query
    is widened by the first of them:
        g'_j = (g_j + beta sum_k s_jk g_k) / (1 + beta sum_k s_jk),   s_jk = g_j . g_k
        e = max over the K + 1 places of highest q . g'_j, dim by dim
        score_j = (q . g'_j + e . g'_j) / 2
    All g and q of length 1, g' and e as they come. Shao et al., ICCV 2023 (SuperGlobal; the authors' code was read,
    equation not known; there M = 400, K = 9, beta = 0.15). https://arxiv.org/abs/2308.06954
    ValueError: widths that differ, top beyond the database, neighbours not below top, a negative beta.
    """
    order = search(queries, database)
    if not 1 <= top <= len(database) or not 0 <= neighbours < top or beta < 0:
        raise ValueError(
            f"top is from 1 to {len(database)}, neighbours from 0 to top - 1 and beta 0 or more; got {top}, "
            f"{neighbours}, {beta}"
        )
    q, found = normalize(queries, dim=1), normalize(database, dim=1)[order[:, :top]]  # [Q, M, D]
    alike = found @ found.mT
    alike.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # each is its own first, whatever rounding says
    nearest = alike.topk(neighbours + 1, dim=2)
    pull = torch.cat([torch.ones_like(nearest.values[..., :1]), beta * nearest.values[..., 1:]], 2)
    weights = torch.zeros_like(alike).scatter(2, nearest.indices, pull)
    refined = weights @ found / pull.sum(2, keepdim=True)
    first = torch.einsum("qd,qmd->qm", q, refined)
    best = first.topk(neighbours + 1, dim=1).indices
    wide = refined.gather(1, best[..., None].expand(-1, -1, refined.shape[2])).amax(1)
    return reordered(order, (first + torch.einsum("qd,qmd->qm", wide, refined)) / 2)


def search_cost(database: int, dim: int, *, top: int, neighbours: int, places: int) -> dict[str, int]:
    """Multiply-adds of one query: the search itself, reranking by refined descriptors, and by local matching.

    search N D; refined M^2 D + M (K + 1) D + 2 M D, as `refined_search` computes it with K neighbours of each; local
    M T^2 D, every one of T places of the query with every one of the place's, as `lab.probes.maxsim` does.
    """
    return {
        "search": database * dim,
        "refined": top**2 * dim + top * (neighbours + 1) * dim + 2 * top * dim,
        "local": top * places**2 * dim,
    }


def average_precision(order: Int[Tensor, "Q N"], relevant: Bool[Tensor, "Q N"]) -> Float[Tensor, " Q"]:
    """1/R sum over the R relevant places of the precision at their rank; the mean over queries is mAP.

    order: places of the database, first found first; relevant: by place. ValueError: another shape, a query that
    nothing answers.
    """
    if order.shape != relevant.shape or not bool(relevant.any(1).all()):
        raise ValueError(
            f"order and relevant must both be [Q, N], one relevant place or more a query; got {tuple(order.shape)} and "
            f"{tuple(relevant.shape)}, {int((~relevant.any(1)).sum())} queries without"
        )
    hits = relevant.gather(1, order).double()
    ranks = torch.arange(1, order.shape[1] + 1, dtype=torch.double, device=order.device)
    return (hits * hits.cumsum(1) / ranks).sum(1) / hits.sum(1)
