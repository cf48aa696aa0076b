"""Can a linear map read labels off the states? Cross-validated, in every layer and pool."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from lab.probes.cells import Cells, checked_cells
from lab.probes.fits import checked_penalties
from lab.probes.folds import chance, codes, stratified_folds
from lab.probes.nested import FITS, held_out, wrong


def linear(
    states: xr.Dataset,
    labels: Iterable,
    *,
    groups: Iterable | None = None,
    folds: int = 5,
    penalty: float | Sequence[float] | None = None,
    fit: str = "discriminant",
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Cross-validated accuracy of a linear classifier on each layer and pool.

    labels: one per example; groups: examples that must not be split between training and test (a module, a
    document), so that the probe cannot read the group instead of the label. States are standardised inside each
    training fold. penalty: one number, added to the sum of squares of standardised columns, or several, of which
    each training fold chooses by its own inner folds (three folds or more); when not given PENALTIES, or 100 with two
    folds.
    fit: "discriminant", Gaussians of one regularised covariance, fitted without iterations; "ridge", ridge regression
    on one-hot labels, which overlooks a class that lies between two others; or "logistic", multinomial logistic
    regression, better where classes are far from Gaussian, many times slower, its training rows in memory.
    layers: of the states' layers, all when not given. device: where the arithmetic is done.

    One layer and pool is in memory at a time, or a gigabyte of it, the rest read again as it is needed: the fits need
    sums only.

    Returns score[layer, pool, fold], the accuracy in each fold; correct[layer, pool, example], whether the example
    was told right when it was held out; prediction[layer, pool, example], what it was said to be; penalty[layer,
    pool, fold], the chosen one; fold[example]; and in the attributes chance, the share of the commonest label.

    Linear probes: Alain & Bengio, 2016. https://arxiv.org/abs/1610.01644
    Raises ValueError, before anything is fitted, where labels or groups do not match the examples, labels are missing
    or all the same, a label has fewer examples (with groups: is in fewer groups) than there are folds, states are
    not finite, or a layer, fit or penalty is not there.
    """
    if fit not in FITS:
        raise ValueError(f"fit must be one of {list(FITS)}; got {fit!r}")
    penalties = checked_penalties(penalty, folds)
    y, names = codes(labels)
    n = states["h"].sizes["example"] if "h" in states else len(y)
    fold = stratified_folds(y, groups, folds, seed, n)
    cells = checked_cells(states, layers, device)
    told = classified(cells, y, names, fold, fit, penalties, "linear probes" if progress else None)
    return told.assign_attrs(
        chance=chance(y), folds=folds, penalties=list(penalties), fit=fit, grouped=groups is not None
    )


def classified(
    cells: Cells,
    y: np.ndarray,
    names: np.ndarray,
    fold: np.ndarray,
    fit: str,
    penalties: Sequence[float],
    desc: str | None,
) -> xr.Dataset:
    """The variables of `linear` for checked cells and labels; desc names the bar of progress, None for no bar."""
    device, folds = cells.device, int(fold.max()) + 1
    code = torch.as_tensor(np.searchsorted(names, y), device=device)
    one_hot = torch.nn.functional.one_hot(code, len(names)).double()
    where_held = torch.as_tensor(fold, device=device)
    prediction = np.empty((*cells.shape, cells.n), dtype=int)
    chosen = np.empty((*cells.shape, folds))
    bar = tqdm(cells, total=np.prod(cells.shape), unit="probe", desc=desc, leave=False, disable=desc is None)
    for where, cell in bar:
        train = FITS[fit](cell, one_hot, where_held, folds)
        outputs, chosen[where] = held_out(cell, one_hot, where_held, folds, train, penalties, wrong)
        prediction[where] = outputs.argmax(-1).cpu().numpy()
    correct = names[prediction] == y
    return xr.Dataset(
        {
            "score": (("layer", "pool", "fold"), by_fold(correct, fold)),
            "correct": (("layer", "pool", "example"), correct),
            "prediction": (("layer", "pool", "example"), names[prediction]),
            "penalty": (("layer", "pool", "fold"), chosen),
        },
        coords={**cells.coords("layer", "pool", "example"), "held_out": ("example", fold)},
    )


def by_fold(values: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Means over the examples [.., example] of each fold, [.., fold]."""
    return np.stack([values[..., fold == number].mean(-1) for number in range(fold.max() + 1)], axis=-1)
