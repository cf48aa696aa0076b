"""Numbers and label sets read off the states by ridge regression, in every layer and pool."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from lab.probes.cells import Cells, checked_cells
from lab.probes.fits import checked_penalties, ridge
from lab.probes.folds import multilabel_folds, plain_folds
from lab.probes.nested import from_sums, held_out, squared


def regression(
    states: xr.Dataset,
    targets: Iterable,
    *,
    names: Sequence[str] | None = None,
    groups: Iterable | None = None,
    folds: int = 5,
    penalty: float | Sequence[float] | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Held-out R^2 = 1 - sum (y - y')^2 / sum (y - mean)^2 of ridge regression on each layer and pool.

    targets: [N] numbers or [N, C], called names (0 ... C - 1 when not given); targets are brought to one scale, so
    that the penalty, shared by them, is chosen by all alike. The rest is as in `linear`; the mean is that of the
    held-out fold, so 0 is no better than knowing it and below 0 is worse.

    Returns score[layer, pool, target, fold], prediction[layer, pool, example, target] in the targets' units, penalty
    [layer, pool, fold] and held_out[example], the fold.

    Raises ValueError, before anything is fitted, for targets of another length, missing or infinite ones, one that is
    the same in all of a fold, fewer examples (groups) than folds, and as `linear` does.
    """
    penalties = checked_penalties(penalty, folds)
    y = np.asarray(list(targets), float)
    y = y[:, None] if y.ndim == 1 else y
    cells_n = states["h"].sizes["example"] if "h" in states else len(y)
    names = _named(y, names, cells_n)
    if not np.isfinite(y).all():
        raise ValueError(f"{int((~np.isfinite(y)).any(1).sum())} targets are missing or infinite: leave them out")
    fold = plain_folds(groups, folds, seed, cells_n)
    flat = [(name, f) for f in range(folds) for i, name in enumerate(names) if np.ptp(y[fold == f, i]) == 0]
    if flat:
        raise ValueError(f"R^2 needs a target that varies in every fold; {flat[0][0]!r} does not in fold {flat[0][1]}")
    cells = checked_cells(states, layers, device)
    mean, spread = y.mean(0), y.std(0)
    outputs, chosen = _fitted(cells, (y - mean) / spread, fold, penalties, "regressions" if progress else None)
    outputs = outputs * spread + mean
    score = np.stack([_r2(outputs[:, :, fold == f], y[fold == f]) for f in range(folds)], axis=-1)
    return _labelled(cells, fold, names, "target", score, outputs, chosen, penalties)


def multilabel(
    states: xr.Dataset,
    labels: Iterable,
    *,
    names: Sequence[str] | None = None,
    groups: Iterable | None = None,
    folds: int = 5,
    penalty: float | Sequence[float] | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Held-out area under the ROC curve of each of several labels an example may have, on each layer and pool.

    labels: [N, C] of 0 and 1, called names; each is read by ridge regression on -1 and 1, and the area is the chance
    that an example with the label is ranked above one without it, ties counting half: 0.5 knows nothing, whatever
    the label's frequency. Folds hold every label, spread evenly.

    Returns score[layer, pool, target, fold], prediction[layer, pool, example, target], the ridge outputs (above 0:
    has it), penalty [layer, pool, fold] and held_out[example], the fold.

    Raises ValueError, before anything is fitted, for labels that are not 0 and 1 or of another length, a label with
    fewer examples (groups) with it or without it than folds, and as `linear` does.
    """
    penalties = checked_penalties(penalty, folds)
    y = np.asarray(list(labels), float)
    cells_n = states["h"].sizes["example"] if "h" in states else len(y)
    if y.ndim != 2:
        raise ValueError(f"labels must be [examples, labels] of 0 and 1; got the shape {y.shape}")
    names = _named(y, names, cells_n)
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels must be 0 and 1, none missing; got also {y[~np.isin(y, (0, 1))][:3].tolist()}")
    fold = multilabel_folds(y, names, groups, folds, seed)
    cells = checked_cells(states, layers, device)
    outputs, chosen = _fitted(cells, 2 * y - 1, fold, penalties, "multi-label probes" if progress else None)
    score = np.stack([_area(outputs[:, :, fold == f], y[fold == f]) for f in range(folds)], axis=-1)
    return _labelled(cells, fold, names, "target", score, outputs, chosen, penalties)


def _named(y: np.ndarray, names: Sequence[str] | None, n: int) -> list:
    if y.ndim != 2 or len(y) != n or not y.shape[1]:
        raise ValueError(f"states hold {n} examples; got targets of the shape {y.shape}")
    found = list(range(y.shape[1])) if names is None else list(names)
    if len(found) != y.shape[1]:
        raise ValueError(f"got {len(found)} names for {y.shape[1]} targets")
    return found


def _fitted(
    cells: Cells, y: np.ndarray, fold: np.ndarray, penalties: Sequence[float], desc: str | None
) -> tuple[np.ndarray, np.ndarray]:
    targets = torch.as_tensor(y, device=cells.device)
    where_held = torch.as_tensor(fold, device=cells.device)
    folds = int(fold.max()) + 1
    outputs = np.empty((*cells.shape, *y.shape))
    chosen = np.empty((*cells.shape, folds))
    bar = tqdm(cells, total=np.prod(cells.shape), unit="probe", desc=desc, leave=False, disable=desc is None)
    for where, cell in bar:
        train = from_sums(ridge, cell, targets, where_held, folds)
        found, chosen[where] = held_out(cell, targets, where_held, folds, train, penalties, squared)
        outputs[where] = found.cpu().numpy()
    return outputs, chosen


def _labelled(cells: Cells, fold, names, axis, score, outputs, chosen, penalties) -> xr.Dataset:
    return xr.Dataset(
        {
            "score": (("layer", "pool", axis, "fold"), score),
            "prediction": (("layer", "pool", "example", axis), outputs),
            "penalty": (("layer", "pool", "fold"), chosen),
        },
        coords={**cells.coords("layer", "pool", "example"), axis: names, "held_out": ("example", fold)},
        attrs={"folds": int(fold.max() + 1), "penalties": list(penalties)},
    )


def _r2(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 1 - np.square(outputs - y).sum(2) / np.square(y - y.mean(0)).sum(0)


def _area(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(output with the label > output without it), ties half: from the sum of ranks."""
    from scipy.stats import rankdata

    ranks, with_it = rankdata(outputs, axis=2), y.sum(0)
    return ((ranks * y).sum(2) - with_it * (with_it + 1) / 2) / (with_it * (len(y) - with_it))
