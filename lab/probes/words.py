"""What the bare words give away: TF-IDF baselines that any state of a model should beat."""

from collections.abc import Iterable

import numpy as np
import torch
import xarray as xr

from lab.probes.folds import codes, stratified_splits
from lab.probes.retrieval import by_rank, mean_ranks


def words_retrieval(queries: Iterable[str], documents: Iterable[str]) -> xr.Dataset:
    """The variables of `retrieval` over [example], ranked by the cosine of TF-IDF vectors fitted on the documents."""
    queries, documents = list(queries), list(documents)
    if len(queries) != len(documents):
        raise ValueError(f"query i belongs to document i; got {len(queries)} queries and {len(documents)} documents")
    vectorizer = _vectorizer()
    d = vectorizer.fit_transform(documents)
    q = vectorizer.transform(queries)
    rank = mean_ranks(torch.from_numpy((q @ d.T).toarray())).numpy()
    return xr.Dataset({name: ("example", numbers) for name, numbers in by_rank(rank).items()})


def words_linear(
    texts: Iterable[str], labels: Iterable, *, groups: Iterable | None = None, folds: int = 5, seed: int = 0
) -> xr.DataArray:
    """correct[example] of a logistic regression on TF-IDF, over the same folds as `linear`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    (y, _), texts = codes(labels), np.array(list(texts), dtype=object)
    correct = np.empty(len(y), dtype=bool)
    for train, test in stratified_splits(y, groups, folds, seed, len(texts)):
        probe = make_pipeline(_vectorizer(), LogisticRegression(C=10, max_iter=1000)).fit(texts[train], y[train])
        correct[test] = probe.predict(texts[test]) == y[test]
    return xr.DataArray(correct, dims="example", name="correct")


def _vectorizer() -> object:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # identifiers are split at underscores, so that `read_csv` shares words with "read a csv file"
    return TfidfVectorizer(sublinear_tf=True, token_pattern=r"[A-Za-z]+|[0-9]+")  # noqa: S106 (no password)
