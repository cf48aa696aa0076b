"""Which layer's classifier holds when the data shift? Fitted at home or on a few from away, judged away."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from lab.probes.cells import Cell, Cells, checked_cells
from lab.probes.fits import checked_penalties, discriminant
from lab.probes.folds import codes, stratified_folds
from lab.probes.nested import from_sums, held_out, wrong
from lab.probes.sums import gather


def shifted(
    home: xr.Dataset,
    home_labels: Iterable,
    away: xr.Dataset,
    away_labels: Iterable,
    *,
    away_groups: Iterable | None = None,
    select: float = 0.2,
    shots: int = 16,
    folds: int = 5,
    penalty: float | Sequence[float] | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Intermediate-layer classifiers out of distribution: a linear classifier on every layer, in three protocols.

    home, away: states of the same model on data in and out of distribution, of the same labels. away is divided once,
    stratified: `shots` examples of each label to train on, a share `select` of the rest to choose a layer by, and
    what remains to judge. protocol "home" is fitted on home, judged on home by cross-validation; "zero_shot" is
    fitted on all of home, judged away; "few_shot" is fitted on the shots alone. Penalties are chosen by folds of the
    data that are fitted; the shots of a few-shot classifier are cut in folds too (as many as they allow, 3 or more).
    "Zero-shot" means no label from away in the weights: the layer is chosen on some, and attributes say how many.

    Returns accuracy and worst_group [protocol, layer, pool] on the examples that judge (worst_group: the lowest
    accuracy of the away_groups there, labels when not given), chosen_on[protocol, layer, pool], the accuracy by which
    a layer is chosen (home: by cross-validation), correct[protocol, layer, pool, judged] of the two away protocols
    for intervals of differences, and chosen[protocol, pool], the best layer before the last by chosen_on: hold it
    against the last layer. sensitivity[layer, pool] = accuracy home - accuracy zero_shot.

    Uselis & Oh, 2025, Intermediate Layer Classifiers for OOD generalization, https://arxiv.org/abs/2504.05461
    (protocol from notes; address recalled). With a regularised discriminant for theirs, trained by gradient descent.
    Raises ValueError as `linear` does for either data set, for labels at home or away only, other layers, pools or
    widths, too few examples of a label away, and fewer than two layers.
    """
    penalties = checked_penalties(penalty, folds)
    y, names = codes(home_labels)
    z, others = codes(away_labels)
    for states, labels, where in ((home, y, "home"), (away, z, "away")):
        n = states["h"].sizes["example"] if "h" in states else len(labels)
        if labels.shape != (n,):
            raise ValueError(f"{where} holds {n} examples; got labels {labels.shape}")
    fold = stratified_folds(y, None, folds, seed, len(y))
    if names.tolist() != others.tolist():
        raise ValueError(
            f"home and away need the same labels, none missing; got {names.tolist()} and {others.tolist()}"
        )
    groups = z if away_groups is None else np.array(list(away_groups))
    if groups.shape != z.shape:
        raise ValueError(f"away holds {len(z)} examples; got groups {groups.shape}")
    role = _roles(z, names, shots, select, seed)
    here, there = checked_cells(home, layers, device), checked_cells(away, layers, device)
    for axis in ("layer", "pool"):
        ours, theirs = here.h[axis].values.tolist(), there.h[axis].values.tolist()
        if ours != theirs:
            raise ValueError(f"home and away need the same {axis}s; got {ours} and {theirs}")
    if not np.array_equal(here.widths, there.widths):
        raise ValueError(f"home and away need states of the same widths; got {here.widths} and {there.widths}")
    if here.shape[0] < 2:
        raise ValueError("two layers or more are needed, the last and one before it; got 1")
    return _judged(here, there, y, z, names, fold, role, groups, penalties, progress)


def _judged(
    here: Cells, there: Cells, y, z, names, fold, role, groups, penalties: Sequence[float], progress: bool
) -> xr.Dataset:
    code, other = (torch.as_tensor(np.searchsorted(names, one), device=here.device) for one in (y, z))
    train, choose, judge = (np.flatnonzero(role == part) for part in (0, 1, 2))
    shots_fold = stratified_folds(z[train], None, min(5, len(train) // len(names)), 0, len(train))
    part = np.full(len(z), -1)
    part[train] = shots_fold
    right = np.empty((2, *here.shape, len(z)), dtype=bool)
    at_home = np.empty(here.shape)
    bar = tqdm(here, total=np.prod(here.shape), unit="cell", desc="shift", leave=False, disable=not progress)
    for where, cell in bar:
        away = _like(there.cell(where), cell)
        folds = torch.as_tensor(fold, device=here.device)
        one_hot, count = _one_hot(code, names), int(folds.max()) + 1
        train_on = from_sums(discriminant, cell, one_hot, folds, count)
        told, _ = held_out(cell, one_hot, folds, count, train_on, penalties, wrong)
        at_home[where] = (told.argmax(-1) == code).double().mean().item()
        weights = _chosen_fit(cell, one_hot, folds, penalties)
        few = _chosen_fit(away, _one_hot(other, names), torch.as_tensor(part, device=here.device), penalties)
        for protocol, (w, b) in enumerate((weights, few)):
            for at, x in away:
                right[(protocol, *where)][at] = ((x @ w + b).argmax(-1) == other[at]).cpu().numpy()
    axes = ("layer", "pool")
    names_of = ["home", "zero_shot", "few_shot"]
    accuracy = np.stack([at_home, *right[..., judge].mean(-1)])
    by_group = np.stack([right[..., judge[groups[judge] == one]].mean(-1) for one in np.unique(groups[judge])])
    chosen_on = np.stack([at_home, *right[..., choose].mean(-1)])
    best = here.h["layer"].values[:-1][chosen_on[:, :-1].argmax(1)]
    return xr.Dataset(
        {
            "accuracy": (("protocol", *axes), accuracy),
            "worst_group": (("away_protocol", *axes), by_group.min(0)),
            "chosen_on": (("protocol", *axes), chosen_on),
            "chosen": (("protocol", "pool"), best),
            "sensitivity": (axes, accuracy[0] - accuracy[1]),
            "correct": (("away_protocol", *axes, "judged"), right[..., judge]),
        },
        coords={**here.coords(*axes), "protocol": names_of, "away_protocol": names_of[1:], "judged": judge},
        attrs={"shots": len(train) // len(names), "n_select": len(choose), "n_judge": len(judge), "n_home": len(y)},
    )


def _one_hot(code: Tensor, names: np.ndarray) -> Tensor:
    return torch.nn.functional.one_hot(code, len(names)).double()


def _chosen_fit(cell: Cell, one_hot: Tensor, fold: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weights and intercept on all rows that have a fold, at the penalty of the fewest mistakes held out."""
    folds = int(fold.max()) + 1
    sums = gather(cell, one_hot, fold, folds)
    lost = torch.zeros(len(penalties), dtype=torch.double, device=fold.device)
    for f in range(folds):
        weights, bias = discriminant(sums.total() - sums.part(f), penalties)
        for at, x in cell.rows(fold == f):
            lost += wrong(torch.einsum("nd,adk->nak", x, weights) + bias, one_hot[at])
    best = len(penalties) - 1 - int(lost.flip(0).argmin())
    weights, bias = discriminant(sums.total(), [penalties[best]])
    return weights[0], bias[0]


def _roles(z: np.ndarray, names: np.ndarray, shots: int, select: float, seed: int) -> np.ndarray:
    """0 to train on, 1 to choose by, 2 to judge: `shots` of each label, a share of the rest, what remains."""
    fewest, rarest = min((int((z == name).sum()), str(name)) for name in names)
    left = fewest - shots
    if shots < 3 or not 0 < select < 1 or round(select * left) < 1 or left - round(select * left) < 1:
        raise ValueError(
            "each label needs 3 shots or more, and of the rest some to choose by and to judge; "
            f"{rarest!r} has {fewest} away, got shots={shots}, select={select}"
        )
    role, generator = np.full(len(z), 2), np.random.default_rng(seed)
    for name in names:
        own = generator.permutation(np.flatnonzero(z == name))
        role[own[:shots]] = 0
        role[own[shots : shots + round(select * (len(own) - shots))]] = 1
    return role


def _like(cell: Cell, other: Cell) -> Cell:
    """The cell, moved and scaled as the other is, so that one's weights fit the other."""
    return Cell(
        cell.h, cell.width, cell.size, cell.device, other.shift, other.scale,
        None if cell.kept is None else other.moved(cell.kept * cell.scale + cell.shift),
    )  # fmt: skip
