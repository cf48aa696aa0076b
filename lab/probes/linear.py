"""Can a linear map read a label off the states? Cross-validated, in every layer and pool."""

from collections.abc import Iterable

import numpy as np
import xarray as xr
from tqdm import tqdm


def linear(
    states: xr.Dataset,
    labels: Iterable,
    *,
    groups: Iterable | None = None,
    folds: int = 5,
    penalty: float = 100.0,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Cross-validated accuracy of a multinomial logistic regression on each layer and pool.

    labels: one per example; groups: examples that must not be split between training and test (a module, a
    document), so that the probe cannot read the group instead of the label. States are standardised inside each
    training fold; penalty is the inverse of scikit-learn's C.

    Returns score[layer, pool, fold], the accuracy in each fold; correct[layer, pool, example], whether the example
    was told right when it was held out; and in the attributes chance, the share of the commonest label.

    Linear probes: Alain & Bengio, 2016. https://arxiv.org/abs/1610.01644
    Raises ValueError where labels or groups do not match the examples, or a label has fewer examples (with groups:
    is in fewer groups) than there are folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    h = states["h"].transpose("layer", "pool", "example", "dim")
    y = np.array(list(labels))
    splits = stratified_splits(y, groups, folds, seed, h.sizes["example"])
    score = np.empty((*h.shape[:2], folds))
    correct = np.empty(h.shape[:3], dtype=bool)
    cells = list(np.ndindex(*h.shape[:2]))
    # scikit-learn's logistic regression is several times slower when BLAS threads fight over small products
    with threadpool_limits(1, "blas"):
        for cell in tqdm(cells, unit="probe", desc="linear probes", leave=False, disable=not progress):
            x = h[cell].values  # one layer and pool at a time: states may be a store larger than memory
            for fold, (train, test) in enumerate(splits):
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000))
                correct[cell][test] = probe.fit(x[train], y[train]).predict(x[test]) == y[test]
                score[cell][fold] = correct[cell][test].mean()
    return xr.Dataset(
        {"score": (("layer", "pool", "fold"), score), "correct": (("layer", "pool", "example"), correct)},
        coords={axis: h[axis] for axis in ("layer", "pool", "example")},
        attrs={"chance": chance(y), "folds": folds, "penalty": penalty, "grouped": groups is not None},
    )


def stratified_splits(
    y: np.ndarray, groups: Iterable | None, folds: int, seed: int, n: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test indices of each fold, labels balanced, groups kept whole; checked against n examples."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    units = np.arange(n) if groups is None else np.array(list(groups))
    if y.shape != (n,) or units.shape != (n,):
        raise ValueError(f"states hold {n} examples; got labels {y.shape} and groups {units.shape}")
    fewest, rarest = min((len(set(units[y == label])), str(label)) for label in np.unique(y))
    if folds < 2 or fewest < folds:
        kind = "examples" if groups is None else "groups"
        raise ValueError(f"{folds} folds need 2 or more, and as many {kind} of every label; {rarest!r} has {fewest}")
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(n), y, None if groups is None else units))


def chance(y: np.ndarray) -> float:
    """Accuracy of always naming the commonest label."""
    return float(np.unique(y, return_counts=True)[1].max() / len(y))
