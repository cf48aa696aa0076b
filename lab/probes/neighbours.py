"""Probes that fit nothing: what the nearest examples say, and which class's centre is nearest."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from lab.probes.cells import Cell, checked_cells
from lab.probes.folds import chance, codes, stratified_folds
from lab.probes.linear import by_fold

ROWS = 2048  # rows of the similarity matrix that are there at once


def neighbours(
    states: xr.Dataset,
    labels: Iterable,
    *,
    k: int = 10,
    groups: Iterable | None = None,
    folds: int = 5,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Accuracy of the vote of the k nearest examples by cosine, outside the example's own fold, on each layer and pool.

    Each neighbour has one vote; of labels with equal votes the one of the largest summed cosine wins. A zero vector
    has cosine 0 with everything. Needs no fit, sees curved borders, and suffers where all states point one way.

    Returns score[layer, pool, fold], correct and prediction [layer, pool, example] and held_out[example], the fold, as
    `linear` does. Cover & Hart, 1967. Raises ValueError as `linear` does, and for a k that a training fold lacks.
    """
    y, names, fold, cells = _checked(states, labels, groups, folds, layers, seed, device)
    most = len(y) - np.bincount(fold).max()
    if not 1 <= k <= most:
        raise ValueError(f"k must be from 1 to {most}, the smallest training fold; got {k}")
    code, where_held = (torch.as_tensor(one, device=cells.device) for one in (np.searchsorted(names, y), fold))

    def vote(cell: Cell) -> Tensor:
        units = torch.nn.functional.normalize(_whole(cell), dim=-1)
        said = []
        for rows, own in zip(units.split(ROWS), where_held.split(ROWS), strict=True):
            near = (rows @ units.mT).masked_fill(own[:, None] == where_held, -torch.inf).topk(k)
            votes = torch.zeros(len(rows), len(names), dtype=torch.double, device=cells.device)
            # a cosine is below one vote, also when k of them are summed
            worth = 1 + (near.values + 1) / (4 * k)
            said.append(votes.scatter_add(1, code[near.indices], worth).argmax(-1))
        return torch.cat(said)

    return _told(cells, y, names, fold, vote, "neighbours" if progress else None).assign_attrs(k=k)


def centroid(
    states: xr.Dataset,
    labels: Iterable,
    *,
    groups: Iterable | None = None,
    folds: int = 5,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Accuracy of naming the class of the nearest mean, in Euclidean distance, on each layer and pool.

    argmin_k |x - m_k|, the means over the training folds: how far classes have drawn together around their centres,
    by no weights at all. The rest as in `neighbours`. Nearest class-centre decisions: Papyan, Han & Donoho, 2020 (NC4).
    """
    y, names, fold, cells = _checked(states, labels, groups, folds, layers, seed, device)
    code, where_held = (torch.as_tensor(one, device=cells.device) for one in (np.searchsorted(names, y), fold))
    one_hot = torch.nn.functional.one_hot(code, len(names)).double()

    def nearest(cell: Cell) -> Tensor:
        x = _whole(cell)
        x = x - x.mean(0)  # distances are the same, and keep their digits
        said = torch.empty_like(code)
        for f in range(folds):
            train, test = where_held != f, where_held == f
            count = one_hot[train].sum(0)
            means = one_hot[train].mT @ x[train] / count.clamp(min=1)[:, None]
            closeness = x[test] @ means.mT - means.square().sum(-1) / 2
            said[test] = closeness.masked_fill(count == 0, -torch.inf).argmax(-1)
        return said

    return _told(cells, y, names, fold, nearest, "centroids" if progress else None)


def _checked(states, labels, groups, folds, layers, seed, device):
    y, names = codes(labels)
    fold = stratified_folds(y, groups, folds, seed, states["h"].sizes["example"] if "h" in states else len(y))
    return y, names, fold, checked_cells(states, layers, device)


def _told(cells, y, names, fold, say, desc: str | None) -> xr.Dataset:
    prediction = np.empty((*cells.shape, cells.n), dtype=int)
    bar = tqdm(cells, total=np.prod(cells.shape), unit="probe", desc=desc, leave=False, disable=desc is None)
    for where, cell in bar:
        prediction[where] = say(cell).cpu().numpy()
    correct = names[prediction] == y
    return xr.Dataset(
        {
            "score": (("layer", "pool", "fold"), by_fold(correct, fold)),
            "correct": (("layer", "pool", "example"), correct),
            "prediction": (("layer", "pool", "example"), names[prediction]),
        },
        coords={**cells.coords("layer", "pool", "example"), "held_out": ("example", fold)},
        attrs={"chance": chance(y), "folds": int(fold.max()) + 1},
    )


def _whole(cell: Cell) -> Tensor:
    """All rows of a cell as they came: distances are not those of standardised columns."""
    return torch.cat([x * cell.scale + cell.shift for _, x in cell])
