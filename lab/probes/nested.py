"""Cross-validation inside cross-validation: each fold's penalty is chosen without looking at it."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from lab.probes.cells import Cell
from lab.probes.fits import discriminant, ridge
from lab.probes.logistic import logistic
from lab.probes.sums import Sums, gather

Fit = Callable[[Sums, Sequence[float]], tuple[Tensor, Tensor]]
Train = Callable[[tuple[int, ...], Sequence[float]], tuple[Tensor, Tensor]]  # without these folds, at these penalties
Loss = Callable[[Tensor, Tensor], Tensor]  # outputs [n, A, C] and targets [n, C] -> [A], summed over the rows


def held_out(
    cell: Cell, y: Tensor, fold: Tensor, folds: int, train: Train, penalties: Sequence[float], loss: Loss
) -> tuple[Tensor, np.ndarray]:
    """What each row is given by the fit that did not see its fold [N, C], and the penalty of each fold [folds].

    The penalty of fold f has the least loss on the other folds, each told by a fit that saw neither it nor f; the
    stronger of equals. Leaving out f and g serves both f and g, so there are folds (folds - 1) / 2 inner fits. Rows
    of one group share a fold, so groups are whole there too.
    """
    lost = torch.zeros(folds, len(penalties), dtype=torch.double, device=y.device)
    if len(penalties) > 1:
        for f, g in combinations(range(folds), 2):
            weights, bias = train((f, g), penalties)
            for own, other in ((f, g), (g, f)):
                for at, x in cell.rows(fold == other):
                    lost[own] += loss(_outputs(x, weights, bias), y[at])
    # the last of equals: flipped, argmin finds the first
    best = [len(penalties) - 1 - int(row.flip(0).argmin()) for row in lost.cpu()]
    outputs = torch.empty_like(y)
    for f, chosen in enumerate(best):
        weights, bias = train((f,), [penalties[chosen]])
        for at, x in cell.rows(fold == f):
            outputs[at] = _outputs(x, weights, bias)[:, 0]
    return outputs, np.array([penalties[chosen] for chosen in best])


def from_sums(fit: Fit, cell: Cell, y: Tensor, fold: Tensor, folds: int) -> Train:
    """Trains from sums: gathered once, and what is left out is taken away from them."""
    sums = gather(cell, y, fold, folds)
    total = sums.total()

    def train(without: tuple[int, ...], penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
        left = total
        for number in without:
            left = left - sums.part(number)
        return fit(left, penalties)

    return train


def from_rows(fit: Callable, cell: Cell, y: Tensor, fold: Tensor, folds: int) -> Train:
    """Trains from the rows themselves, all of the training folds in memory."""

    def train(without: tuple[int, ...], penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
        there = (fold >= 0) & (fold < folds)
        for number in without:
            there &= fold != number
        return fit(torch.cat([x for _, x in cell.rows(there)]), y[there], penalties)

    return train


# how a linear classifier is trained on the rows of some folds
FITS = {
    "discriminant": partial(from_sums, discriminant),
    "ridge": partial(from_sums, ridge),
    "logistic": partial(from_rows, logistic),
}


def _outputs(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """[n, A, C]: one product for all penalties."""
    n_penalties, dim, n_targets = weights.shape
    return (x @ weights.transpose(0, 1).reshape(dim, -1)).view(-1, n_penalties, n_targets) + bias


def wrong(outputs: Tensor, y: Tensor) -> Tensor:
    """How many rows are given another class than their own, y one-hot."""
    return (outputs.argmax(-1) != y.argmax(-1)[:, None]).sum(0).double()


def squared(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y[:, None]).square().sum((0, 2))
