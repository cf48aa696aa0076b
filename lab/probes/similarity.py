"""Do cosines rank pairs as people, or any other scores, do? And do rankings hold what is relevant?"""

from collections.abc import Iterable

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.probes.cells import checked_cells


def similarity(
    first: xr.Dataset, second: xr.Dataset, gold: Iterable, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """Spearman's correlation of the cosines of pairs with given scores, for each layer and pool.

    first, second: states of the two halves of each pair, with the same layers and pools; gold: one number per pair.
    rho = Pearson's correlation of the ranks, ties sharing their mean rank; NaN where all cosines are equal.

    Returns cosine[layer, pool, example], and spearman, low, high [layer, pool], the interval from drawing pairs again
    (percentile bootstrap; the ranks are those of the drawn pairs).

    Semantic textual similarity: Cer et al., 2017, SemEval task 1; by Spearman as Reimers & Gurevych, 2019 (recalled).
    Raises ValueError for states that do not pair, fewer than three pairs, and scores that are missing or all equal.
    """
    scores = np.asarray(list(gold), float)
    a, b = checked_cells(first), checked_cells(second)
    if a.h.shape != b.h.shape or any(a.h[x].values.tolist() != b.h[x].values.tolist() for x in ("layer", "pool")):
        raise ValueError(f"both halves need the same layers, pools, pairs and dim; got {a.h.sizes} and {b.h.sizes}")
    if scores.shape != (a.n,) or a.n < 3 or not np.isfinite(scores).all() or np.ptp(scores) == 0:
        raise ValueError(
            f"needed are {a.n} scores, three or more, finite and not all equal; got the shape {scores.shape}, "
            f"{int((~np.isfinite(scores)).sum())} missing"
        )
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"got draws={draws}, level={level}; needed are 1 or more, and a level in (0, 1)")
    cosine = np.empty((*a.shape, a.n))
    for where in np.ndindex(*a.shape):
        width = int(a.widths[where[0]])
        halves = (torch.as_tensor(one.h[where][:, :width].values).double() for one in (a, b))
        units = [torch.nn.functional.normalize(half, dim=-1) for half in halves]
        cosine[where] = (units[0] * units[1]).sum(-1).numpy()
    picks = np.random.default_rng(seed).integers(a.n, size=(draws, a.n))
    drawn = np.stack([spearman(cosine[..., pick], scores[pick]) for pick in picks])
    low, high = (_quantile(drawn, q) for q in ((1 - level) / 2, (1 + level) / 2))
    axes = ("layer", "pool")
    return xr.Dataset(
        {
            "spearman": (axes, spearman(cosine, scores)),
            "low": (axes, low),
            "high": (axes, high),
            "cosine": ((*axes, "example"), cosine),
        },
        coords=a.coords("layer", "pool", "example"),
        attrs={"level": level, "draws": draws},
    )


def _quantile(drawn: np.ndarray, q: float) -> np.ndarray:
    """Over the draws that have a correlation; NaN where none has."""
    found, some = np.full(drawn.shape[1:], np.nan), ~np.isnan(drawn).all(0)
    found[some] = np.nanquantile(drawn[:, some], q, axis=0)
    return found


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the ranks along the last axis; NaN where one side is all equal."""
    from scipy.stats import rankdata

    # cosines of equal pairs differ by rounding, which would make ranks of noise
    ranks = rankdata(np.round(x, 12), axis=-1), rankdata(y)
    a, b = (one - one.mean(-1, keepdims=True) for one in ranks)
    size = np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))
    return np.where(size > 0, (a * b).sum(-1) / np.where(size > 0, size, 1), np.nan)


def graded_retrieval(queries: xr.Dataset, documents: xr.Dataset, relevance: object, *, k: int = 10) -> xr.Dataset:
    """How well the cosine ranks documents of graded relevance for each query, for each layer and pool.

    relevance: [query, document], 0 or more, a row of 0 for a query that nothing answers (its numbers are NaN).
    Where one document answers each query, in order, use `retrieval`. Over [layer, pool, example], example the query:
        ndcg    sum_(r <= k) g_r / log2(1 + r) over the best there could be, g = 2^relevance - 1 of the one at rank r
        reciprocal_rank    1 / the rank of the first relevant document
        recall    share of the relevant documents among the first k
    Documents of equal cosine are ranked in each of their orders at once: g is their mean gain, recall counts their
    share, and the first relevant of them stands where it would on average.

    Jarvelin & Kekalainen, 2002, with the gains of Burges et al., 2005; ties as in McSherry & Najork, 2008 (recalled).
    Raises ValueError for states of other layers, pools or widths, relevance of another shape, negative or missing, and
    a k below 1.
    """
    q, d = checked_cells(queries), checked_cells(documents)
    same = all(q.h[axis].values.tolist() == d.h[axis].values.tolist() for axis in ("layer", "pool"))
    if not same or q.h.sizes["dim"] != d.h.sizes["dim"]:
        raise ValueError(f"queries and documents need the same layers, pools and dim; got {q.h.sizes} and {d.h.sizes}")
    grades = torch.as_tensor(np.asarray(relevance, float))
    if grades.shape != (q.n, d.n) or not bool(torch.isfinite(grades).all()) or bool((grades < 0).any()):
        raise ValueError(f"relevance must be [{q.n}, {d.n}], 0 or more, none missing; got {tuple(grades.shape)}")
    if k < 1:
        raise ValueError(f"k must be 1 or more; got {k}")
    found = np.empty((3, *q.shape, q.n))
    for where in np.ndindex(*q.shape):
        width = int(q.widths[where[0]])
        units = [
            torch.nn.functional.normalize(torch.as_tensor(one.h[where][:, :width].values).double(), dim=-1)
            for one in (q, d)
        ]
        found[(slice(None), *where)] = ranked(units[0] @ units[1].mT, grades, k).numpy()
    dims = ("layer", "pool", "example")
    numbers = zip(("ndcg", "reciprocal_rank", "recall"), found, strict=True)
    return xr.Dataset({name: (dims, one) for name, one in numbers}, coords=q.coords(*dims), attrs={"k": k})


def ranked(cosine: Tensor, grades: Tensor, k: int) -> Tensor:
    """ndcg, reciprocal rank and recall [3, query] of cosines and grades [query, document], as above."""
    n = cosine.shape[1]
    discount = torch.zeros(n, dtype=torch.double, device=cosine.device)
    discount[:k] = 1 / torch.log2(2 + torch.arange(min(k, n), dtype=torch.double))
    worth = torch.cat([discount.new_zeros(1), discount.cumsum(0)])  # of the first places together
    gains, relevant = 2**grades - 1, grades > 0
    cosine = cosine.round(decimals=12).contiguous()
    order = cosine.sort(dim=1).values
    above = n - torch.searchsorted(order, cosine, right=True)
    size = n - torch.searchsorted(order, cosine) - above  # of the group of equal cosine, which stands below `above`
    share = (worth[above + size] - worth[above]) / size  # the mean discount of the places of a group
    seen = ((above + size).clamp(max=k) - above.clamp(max=k)) / size  # how much of a group is in the first k
    ideal = (gains.sort(dim=1, descending=True).values * discount).sum(1)
    best = above.masked_fill(~relevant, n).min(1, keepdim=True).values  # where the first group with a relevant one is
    leads = relevant & (above == best)
    # the first of m relevant ones among s in random order stands, on average, at (s + 1) / (m + 1)
    rank = best[:, 0] + ((size * leads).amax(1) + 1) / (leads.sum(1) + 1)
    recall = (seen * relevant).sum(1) / relevant.sum(1)
    found = torch.stack([(gains * share).sum(1) / ideal, 1 / rank, recall])
    return found.masked_fill(~relevant.any(1), torch.nan)
