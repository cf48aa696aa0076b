"""Who is held out when: labels balanced, groups kept whole, and nothing fitted before the labels are known to do."""

from collections.abc import Iterable, Sequence

import numpy as np

from lab.data.labels import as_labels


def stratified_splits(
    y: np.ndarray, groups: Iterable | None, folds: int, seed: int, n: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test indices of each fold, labels balanced, groups kept whole; checked against n examples."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    units = checked_groups(y, groups, n)
    if missing := _missing(y):
        raise ValueError(f"{len(missing)} labels are missing, the first at {missing[:3]}: leave those examples out")
    names = np.unique(y)
    if len(names) < 2:
        raise ValueError(f"a probe needs two labels or more to tell apart; all are {str(names[0])!r}")
    fewest, rarest = min((len(set(units[y == label])), str(label)) for label in names)
    if folds < 2 or fewest < folds:
        kind = "examples" if groups is None else "groups"
        raise ValueError(f"{folds} folds need 2 or more, and as many {kind} of every label; {rarest!r} has {fewest}")
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(n), y, None if groups is None else units))


def stratified_folds(y: np.ndarray, groups: Iterable | None, folds: int, seed: int, n: int) -> np.ndarray:
    """The fold [n] in which each example is held out."""
    fold = np.empty(n, dtype=int)
    for number, (_, test) in enumerate(stratified_splits(y, groups, folds, seed, n)):
        fold[test] = number
    return fold


def plain_folds(groups: Iterable | None, folds: int, seed: int, n: int) -> np.ndarray:
    """The fold [n] of each example, in folds of equal size as far as groups, kept whole, allow."""
    units = np.arange(n) if groups is None else checked_groups(np.zeros(n), groups, n)
    names, unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
    if folds < 2 or len(names) < folds:
        kind = "examples" if groups is None else "groups"
        raise ValueError(f"{folds} folds need 2 or more, and as many {kind}; got {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names))
    home, load = np.empty(len(names), dtype=int), np.zeros(folds)
    for one in order[np.argsort(-sizes[order], kind="stable")]:  # the largest first, each where there is most room
        home[one] = load.argmin()
        load[home[one]] += sizes[one]
    return home[unit]


def multilabel_folds(y: np.ndarray, names: Sequence, groups: Iterable | None, folds: int, seed: int) -> np.ndarray:
    """The fold [N] of each example for labels y [N, C] of 0 and 1, each label spread evenly, groups kept whole.

    Label by label, the rarest of what is left first, each unit that has it goes where most of it is still wanted.
    Iterative stratification: Sechidis, Tsoumakas & Vlahavas, 2011 (recalled). ValueError where a label has too few
    examples (groups) with it, or without it, for every fold to hold one.
    """
    n = len(y)
    units = checked_groups(np.zeros(n), groups, n)
    _, unit = np.unique(units, return_inverse=True)
    count = unit.max() + 1
    held = np.zeros((count, y.shape[1]))
    np.add.at(held, unit, y)
    lacked = np.bincount(unit)[:, None] - held
    kind = "examples" if groups is None else "groups"
    for label, with_it, without in zip(names, (held > 0).sum(0), (lacked > 0).sum(0), strict=True):
        if folds < 2 or min(with_it, without) < folds:
            raise ValueError(
                f"{folds} folds need 2 or more, and as many {kind} with each label and without it; "
                f"{label!r} has {with_it} with and {without} without"
            )
    draw = np.random.default_rng(seed)
    home = np.full(count, -1)
    wanted = np.repeat(held.sum(0)[None] / folds, folds, axis=0)
    room = np.full(folds, n / folds)
    sizes = np.bincount(unit)
    while (home < 0).any():
        open_ = home < 0
        left = (held[open_] > 0).sum(0)
        # units without any label are placed last, by room alone
        label = int(np.where(left > 0, left, count + 1).argmin()) if left.any() else None
        chosen = np.flatnonzero(open_ & (held[:, label] > 0) if label is not None else open_)
        for one in draw.permutation(chosen):
            need = wanted[:, label] if label is not None else room
            best = np.flatnonzero(need >= need.max() - 1e-9)
            home[one] = best[room[best].argmax()]
            wanted[home[one]] -= held[one]
            room[home[one]] -= sizes[one]
    return home[unit]


def checked_groups(y: np.ndarray, groups: Iterable | None, n: int) -> np.ndarray:
    units = np.arange(n) if groups is None else as_labels(groups)
    if y.shape != (n,) or units.shape != (n,):
        raise ValueError(f"states hold {n} examples; got labels {y.shape} and groups {units.shape}")
    if missing := _missing(units):
        raise ValueError(f"{len(missing)} groups are missing, the first at {missing[:3]}: leave those examples out")
    return units


def codes(labels: Iterable) -> tuple[np.ndarray, np.ndarray]:
    """Labels as an array [N], and what they are called, sorted; they are numbered by their place among the names."""
    y = as_labels(labels)
    return y, np.unique(y) if not _missing(y) else y[:0]


def chance(y: np.ndarray) -> float:
    """Accuracy of always naming the commonest label."""
    return float(np.unique(y, return_counts=True)[1].max() / len(y))


def _missing(y: np.ndarray) -> list[int]:
    import pandas as pd

    return np.flatnonzero(pd.isna(y)).tolist() if y.ndim == 1 else []
