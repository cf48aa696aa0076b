"""Is the probe reading the layer, or learning by heart? Labels drawn by type, and what is left above them."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import xarray as xr

from lab.probes.cells import checked_cells
from lab.probes.fits import checked_penalties
from lab.probes.folds import chance, codes, stratified_folds
from lab.probes.linear import classified
from lab.probes.nested import FITS


def selectivity(
    states: xr.Dataset,
    labels: Iterable,
    types: Iterable,
    *,
    controls: int = 5,
    groups: Iterable | None = None,
    folds: int = 5,
    penalty: float | Sequence[float] | None = None,
    fit: str = "discriminant",
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Accuracy of a linear probe minus its accuracy on control tasks: labels drawn at random for each type.

    types: one per example, of which many examples share one: for words the word itself; for texts something that can
    be learned by heart from the states, such as the first word (`first_words`) or a bin of the length. A label drawn
    for each text anew would be at chance when held out, whatever the layer, and say nothing. Each control draws a
    label for each type from the frequencies of the real ones. Everything else is as in `linear`, the folds too.

    Returns score and control [layer, pool, fold] (the controls' mean), selectivity = score - control, control_correct
    [draw, layer, pool, example], and correct, prediction and penalty of the task.

    Control tasks and selectivity: Hewitt & Liang, 2019. https://arxiv.org/abs/1909.03368
    Raises ValueError as `linear` does, for types of another length or missing, and where no type is shared.
    """
    penalties = checked_penalties(penalty, folds)
    if fit not in FITS:
        raise ValueError(f"fit must be one of {list(FITS)}; got {fit!r}")
    if controls < 1:
        raise ValueError(f"one control task or more is needed; got {controls}")
    y, names = codes(labels)
    types, kinds = codes(types)
    fold = stratified_folds(y, groups, folds, seed, states["h"].sizes["example"] if "h" in states else len(y))
    if types.shape != y.shape or not len(kinds):
        raise ValueError(f"one type for each of {len(y)} examples is needed, none missing; got {types.shape}")
    if len(kinds) == len(y):
        raise ValueError(f"{len(kinds)} types for {len(y)} examples: none is shared, so a control could not be learned")
    cells = checked_cells(states, layers, device)
    task = classified(cells, y, names, fold, fit, penalties, "linear probes" if progress else None)
    drawn = [
        classified(cells, control, names, fold, fit, penalties, f"control {i + 1}" if progress else None)
        for i, control in enumerate(control_labels(y, types, controls, seed))
    ]
    control = xr.concat([one["score"] for one in drawn], "control").mean("control")
    right = xr.concat([one["correct"] for one in drawn], "draw")
    return task.assign(control=control, selectivity=task["score"] - control, control_correct=right).assign_attrs(
        chance=chance(y), folds=folds, controls=controls, types=len(kinds), fit=fit, grouped=groups is not None
    )


def control_labels(labels: Iterable, types: Iterable, controls: int = 1, seed: int = 0) -> list[np.ndarray]:
    """Labels [N] of each control task: one for each type, drawn as often as the labels are."""
    y, types = np.array(list(labels)), np.array(list(types))
    if y.shape != types.shape:
        raise ValueError(f"one type for each label is needed; got {y.shape} and {types.shape}")
    kind = np.unique(types, return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    return [generator.choice(y, size=kind.max() + 1)[kind] for _ in range(controls)]


def first_words(texts: Iterable[str]) -> list[str]:
    """The first word of each text in lower case, "" for none: types for a control task on texts."""
    return [(text.lower().split(maxsplit=1) or [""])[0] for text in texts]
