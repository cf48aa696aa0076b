"""Fewer vectors for a text that is kept as many: tokens in clusters, a mean for each, for late-interaction retrieval.

Clavié, Chaffin & Adams, "Reducing the Footprint of Multi-Vector Retrieval with Minimal Performance Impact via Token
Pooling", 2024. https://arxiv.org/abs/2409.14683
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor
from tqdm import tqdm

from lab.kernels.layout import Segments, Tokens, check, is_padded, to_ragged
from lab.pooling.functional import segment_pool


def merge_tokens(
    x: Tokens,
    mask: Segments,
    factor: float | int = 2,
    how: str = "hierarchical",
    *,
    protected: int = 1,
    progress: bool = False,
) -> tuple[Float[Tensor, "M D"], Integer[Tensor, " S1"]]:
    """Ragged vectors and offsets of the merged texts: about 1 / factor as many, y_k = 1/|C_k| sum_{t in C_k} x_t.

    x (B, T, D), mask (B, T), or ragged. The first `protected` tokens of a text ([CLS]) stay as they are; the n others
    become max(floor(n / factor), 1) clusters, found by one of CLUSTERINGS, in the order of their first tokens. Factor 1
    gives every token back bit for bit. The clusters are chosen without a gradient, the means have one. Means are not
    brought to length 1 again: the paper's code does not, sentence-transformers' does.

    The number counts unprotected tokens, as sentence-transformers' module does; ColBERT's own counts all of them.
    ValueError: factor below 1, protected below 0, an unknown clustering, NaN in a real token.
    """
    check(x, mask)
    if how not in CLUSTERINGS:
        raise ValueError(f"no clustering {how!r}; there are {list(CLUSTERINGS)}")
    if not factor >= 1 or protected < 0:
        raise ValueError(f"factor must be 1 or more and protected 0 or more; got {factor} and {protected}")
    if is_padded(mask):
        x, mask = to_ragged(x, mask)
    lengths = mask.diff().tolist()
    seen = x.detach().to(torch.promote_types(x.dtype, torch.float32)).cpu()
    if not bool(seen.isfinite().all()):
        raise ValueError("a real token has NaN or infinity: distances to it are none")
    own, sizes = [], []
    for tokens in tqdm(seen.split(lengths), desc=how, leave=False, disable=not progress):
        kept = min(protected, len(tokens))
        rest = len(tokens) - kept
        wanted = max(int(rest // factor), 1)
        found = CLUSTERINGS[how](tokens[kept:], wanted) if wanted < rest else np.arange(rest)
        named = np.concatenate([np.arange(kept), kept + _by_first(found)])
        own.append(named)
        sizes.append(int(named.max()) + 1 if len(named) else 0)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    cluster = torch.from_numpy(np.concatenate([*(o + s for o, s in zip(own, starts, strict=False)), []]).astype(int))
    order = cluster.argsort(stable=True).to(x.device)
    of_clusters = torch.nn.functional.pad(torch.bincount(cluster, minlength=int(starts[-1])).cumsum(0), (1, 0))
    merged = segment_pool(x[order], of_clusters.to(x.device), "mean")
    return merged, torch.from_numpy(starts).to(mask)


def _by_first(labels: np.ndarray) -> np.ndarray:
    """Clusters numbered from 0 in the order of their first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first, kind="stable"), kind="stable")[inverse]


def _hierarchical(tokens: Float[Tensor, "N D"], clusters: int) -> np.ndarray:
    """Ward's merging on the condensed cosine distances 1 - cos, cut at a number of clusters (ties may give fewer).

    The distances themselves go in, as in pylate's mended form: ColBERT's own code gave scipy the square matrix, whose
    rows it then took for points. Ward's rule is exact for Euclidean distances; on cosine distances it is a rule.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    unit = torch.nn.functional.normalize(tokens, dim=-1)
    distance = (1 - unit @ unit.mT).clamp(0, 2).numpy().astype(float)
    return fcluster(linkage(squareform(distance, checks=False), method="ward"), clusters, criterion="maxclust")


def _k_means(tokens: Float[Tensor, "N D"], clusters: int, steps: int = 10) -> np.ndarray:
    """Lloyd's steps on tokens of length 1 from centres far from each other, each the farthest from those before it."""
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    nearest = torch.full((len(unit),), torch.inf)
    picked = []
    for _ in range(clusters):
        picked.append(int(nearest.argmax()))  # the first token to begin with: no draw, so no seed
        nearest = torch.minimum(nearest, 2 - 2 * unit @ unit[picked[-1]])
    centres, labels = unit[picked], None
    for _ in range(steps):
        before, labels = labels, (centres.square().sum(-1) - 2 * unit @ centres.mT).argmin(-1)
        if before is not None and torch.equal(before, labels):
            break
        mine = torch.nn.functional.one_hot(labels, clusters).to(unit.dtype)
        n = mine.sum(0)[:, None]
        centres = torch.where(n > 0, mine.mT @ unit / n.clamp(min=1), centres)  # an empty one stays where it was
    return labels.numpy()


def _sequential(tokens: Float[Tensor, "N D"], clusters: int) -> np.ndarray:
    """Runs of neighbouring tokens, as even as they can be."""
    return np.arange(len(tokens)) * clusters // max(len(tokens), 1)


# what merges tokens of one text [N, D] into a number of clusters: a label for each
CLUSTERINGS: dict[str, Callable[[Tensor, int], np.ndarray]] = {
    "hierarchical": _hierarchical,
    "k_means": _k_means,
    "sequential": _sequential,
}
