"""scikit-learn's probes, looped over layers and folds as people loop them, each example told when held out."""

from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

Folds = list[tuple[np.ndarray, np.ndarray]]
STRENGTHS = np.logspace(-1, 5, 10)


def looped(make: Callable, h: np.ndarray, y: np.ndarray, folds: Folds) -> np.ndarray:
    """h [layer, example, dim], y [example] -> said [layer, example], each fold by what was fitted on the others."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    said = np.empty(h.shape[:2], dtype=y.dtype)
    # with BLAS at its default threads the logistic regression is several times slower: the peer is at its best
    with threadpool_limits(1, "blas"):
        for layer, x in enumerate(h):
            for train, test in folds:
                said[layer, test] = make_pipeline(StandardScaler(), make()).fit(x[train], y[train]).predict(x[test])
    return said


def logistic(c: float = 0.01) -> object:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=1000)


def logistic_ten() -> object:
    from sklearn.linear_model import LogisticRegressionCV

    return LogisticRegressionCV(
        Cs=1 / STRENGTHS, cv=5, max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy"
    )


def ridge(alpha: float = 300.0) -> object:
    from sklearn.linear_model import RidgeClassifier

    return RidgeClassifier(alpha=alpha)


def ridge_ten() -> object:
    from sklearn.linear_model import RidgeClassifierCV

    return RidgeClassifierCV(alphas=STRENGTHS)
