"""What an embedding scores on each example of a data set, so that examples can be drawn again."""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.data.evaluation import Task
from lab.probes.linear import linear
from lab.probes.similarity import ranked, spearman

QUERIES = 128  # ranked at once, over all documents
RUNS = 4  # of k-means, each from other centres
NUMBERS = ("ndcg", "reciprocal_rank", "recall")  # in the order of `ranked`

Score = Callable[[Task, Tensor, int], np.ndarray]  # vectors of the task's texts, in float64, and a seed -> [N]


def answers(task: Task, h: Tensor, _: int, number: str = "ndcg") -> np.ndarray:
    """Per query: nDCG@10, the reciprocal rank of the first relevant document, or recall@10.

    Formulas, ties and sources as in `lab.probes.graded_retrieval`.
    """
    unit = torch.nn.functional.normalize(h, dim=-1)
    q, d = unit[task.first], unit[task.second]
    found = []
    for start in range(0, len(q), QUERIES):
        grades = torch.as_tensor(task.target[start : start + QUERIES].toarray())
        found.append(ranked(q[start : start + QUERIES] @ d.mT, grades, 10)[NUMBERS.index(number)])
    return torch.cat(found).numpy()


def agreement(task: Task, h: Tensor, _: int) -> np.ndarray:
    """Per pair: what it adds to Spearman's correlation rho of the cosines with the scores.

    rho + (n - 1) (mean_j rho_(j) - rho_(i)), rho_(i) without pair i: the jackknife's pseudo-values moved so that their
    mean is rho itself. A pair that is ranked as it is scored stands high. Where the cosines leave no order (all are
    equal), the correlation is taken for 0: such a space has no opinion.

    Tukey, 1958; Efron & Tibshirani, 1993, chapter 11 (numbers recalled).
    """
    unit = torch.nn.functional.normalize(h, dim=-1)
    # as in `spearman`: what differs by rounding alone is equal
    cosine, gold = np.round((unit[task.first] * unit[task.second]).sum(-1).numpy(), 12), task.target
    without = _without_each(cosine, gold)
    return np.nan_to_num(spearman(cosine, gold)) + (len(gold) - 1) * (without.mean() - without)


def _without_each(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation without pair i, for each i."""
    n = len(x)
    left = ~np.eye(n, dtype=bool)
    ranks = []
    for values in (x, y):
        below = (values[:, None] < values[None]).astype(float) + 0.5 * (values[:, None] == values[None])
        # [i, j]: the mean rank of j, less what i took of it
        rank = (below.sum(0) + 0.5)[None] - below
        ranks.append((rank - n / 2) * left)  # ranks of n - 1 have the mean n / 2
    product, sizes = (ranks[0] * ranks[1]).sum(1), np.square(ranks).sum(-1)
    size = np.sqrt(sizes[0] * sizes[1])
    return np.where(size > 0, product / np.where(size > 0, size, 1), 0)


def told(task: Task, h: Tensor, seed: int) -> np.ndarray:
    """Per text: 1 where `lab.probes.linear` told its label when it was held out, else 0; five folds, groups whole."""
    h = xr.DataArray(h[task.first].numpy()[None, None], dims=("layer", "pool", "example", "dim"))
    states = xr.Dataset({"h": h}, coords={"layer": [0], "pool": [""], "example": np.arange(len(task))})
    probe = linear(states, task.target, groups=task.groups, seed=seed, progress=False)
    return probe.correct.values[0, 0].astype(float)


def together(task: Task, h: Tensor, seed: int) -> np.ndarray:
    """Per text: what it adds to the V-measure of a clustering by k-means with as many clusters as labels.

    V = 2 I / (H(label) + H(cluster)), I the mutual information: Rosenberg & Hirschberg, 2007, with beta = 1. It is a
    number of the whole clustering, so the unit is the text within the clustering as it was found: V plus
    (n - 1) (mean_j V_(j) - V_(i)), V_(i) from the counts without text i, the clusters left as they are; the mean over
    texts is V. What another draw of texts would do to the centres is not in it. Mean of RUNS runs, each from its own
    k-means++ centres, of states brought to length 1.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    names, label = np.unique(task.target, return_inverse=True)
    x = torch.nn.functional.normalize(h[task.first], dim=-1).numpy()
    found = np.zeros(len(x))
    with threadpool_limits(1), warnings.catch_warnings():  # more threads cost more than they give at this size
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than labels: fewer clusters
        for run in range(RUNS):
            means = KMeans(len(names), n_init=1, random_state=seed * RUNS + run)
            found += v_shares(label, means.fit_predict(x)) / RUNS
    return found


def v_shares(label: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """What each text adds to the V-measure [N], from numbered labels and clusters, N >= 2; their mean is V."""
    counts = np.zeros((label.max() + 1, cluster.max() + 1))
    np.add.at(counts, (label, cluster), 1)
    tables = counts.sum(1), counts.sum(0), counts
    terms = [_terms(table).sum() for table in tables]
    # without a text, one is taken from its row, its column and its cell: of each sum one term changes
    own = tables[0][label], tables[1][cluster], counts[label, cluster]
    less = [term + _terms(count - 1) - _terms(count) for term, count in zip(terms, own, strict=True)]
    without = _v_measure(len(label) - 1, *less)
    return _v_measure(len(label), *terms) + (len(label) - 1) * (without.mean() - without)


def _terms(counts: np.ndarray) -> np.ndarray:
    """c ln c, 0 for a count of 0."""
    return counts * np.log(np.where(counts > 0, counts, 1))


def _v_measure(n: int, *terms: np.ndarray | np.floating) -> np.ndarray:
    """2 I / (H(row) + H(column)) of tables of counts, 1 where there is one row and one column.

    terms: the sums of c ln c over rows, columns and cells; an entropy is ln n less such a sum over n.
    """
    rows, columns, cells = (np.log(n) - term / n for term in terms)
    whole = rows + columns
    some = whole > 1e-12  # what rounding leaves of none
    return np.where(some, 2 * (whole - cells) / np.where(some, whole, 1), 1.0)


# what is measured on each kind of data set; the first of a kind is its usual one
MEASURES: dict[str, dict[str, Score]] = {
    "retrieval": {number: partial(answers, number=number) for number in NUMBERS},
    "similarity": {"spearman": agreement},
    "classification": {"accuracy": told},
    "clustering": {"v_measure": together},
}
