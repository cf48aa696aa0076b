"""Probes that are trained by gradient descent: a small network on pooled states, attention over the tokens."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from lab.probes.cells import checked_cells
from lab.probes.folds import chance, codes, stratified_folds
from lab.probes.linear import by_fold


class AttentiveProbe(nn.Module):
    """Classes from tokens x [B, T, D]: y = W sum_t a_t x_t + b, a = softmax_t(q x_t / sqrt(D)) over real tokens.

    A learned query, then a linear map. A text without a real token has weights 0 and is told by b alone.
    Attentive probing: Chen et al., 2024, Context Autoencoder; Bardes et al., 2024, V-JEPA (recalled), here with one
    query and no further layers, so that what it finds was there to be read.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))  # at first the mean of the tokens
        self.linear = nn.Linear(dim, classes)

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, T], summing to 1 over the real tokens of each text."""
        scores = (x @ self.query / x.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        return torch.where(mask.any(1, keepdim=True), scores, 0).softmax(-1).masked_fill(~mask, 0)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.masked_fill(~mask[..., None], 0)
        return self.linear((self.attention(x, mask)[:, None] @ x)[:, 0])


def mlp(
    states: xr.Dataset,
    labels: Iterable,
    *,
    hidden: int = 64,
    groups: Iterable | None = None,
    folds: int = 5,
    epochs: int = 30,
    rate: float = 1e-3,
    decay: float = 0.1,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Accuracy of a network with one hidden layer, W2 gelu(W1 x + b1) + b2, on each layer and pool.

    States are standardised inside each training fold. AdamW in batches of 64; a tenth of the training rows (of their
    groups) is kept aside to choose the epoch. What it tells beyond a linear probe may be the network's own work: read
    it beside `selectivity`. Returns and refuses what `linear` does, except for penalties.

    Non-linear probes: Conneau et al., 2018; Hewitt & Liang, 2019 (recalled).
    """
    _check_training(epochs, rate, decay, hidden)
    y, names = codes(labels)
    n = states["h"].sizes["example"] if "h" in states else len(y)
    fold = stratified_folds(y, groups, folds, seed, n)
    cells = checked_cells(states, layers, device)
    code = torch.as_tensor(np.searchsorted(names, y), device=cells.device)
    units = np.arange(n) if groups is None else np.unique(np.array(list(groups)), return_inverse=True)[1]
    prediction = np.empty((*cells.shape, n), dtype=int)
    bar = tqdm(total=np.prod(cells.shape) * folds, unit="fit", desc="networks", leave=False, disable=not progress)
    for where, cell in cells:
        x = torch.cat([block for _, block in cell]).float()
        for f in range(folds):
            train, kept = _kept_aside(fold != f, units, seed)
            z = _standardised(x, train)
            with _drawn(seed + f):
                network = nn.Sequential(nn.Linear(cell.width, hidden), nn.GELU(), nn.Linear(hidden, len(names)))
            network = _fitted(
                network.to(cells.device), lambda at, z=z: (z[at],), code, train, kept, epochs, rate, decay, seed + f
            )
            test = np.flatnonzero(fold == f)
            with torch.inference_mode():
                prediction[where][test] = network(z[test]).argmax(-1).cpu().numpy()
            bar.update()
    bar.close()
    correct = names[prediction] == y
    return xr.Dataset(
        {
            "score": (("layer", "pool", "fold"), by_fold(correct, fold)),
            "correct": (("layer", "pool", "example"), correct),
            "prediction": (("layer", "pool", "example"), names[prediction]),
        },
        coords={**cells.coords("layer", "pool", "example"), "held_out": ("example", fold)},
        attrs={"chance": chance(y), "folds": folds, "hidden": hidden, "epochs": epochs, "grouped": groups is not None},
    )


def attentive(
    tokens: xr.Dataset,
    labels: Iterable,
    *,
    groups: Iterable | None = None,
    folds: int = 5,
    epochs: int = 30,
    rate: float = 1e-3,
    decay: float = 0.1,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Accuracy of an `AttentiveProbe` on the tokens of each layer: where the label is, before any pooling lost it.

    tokens: from lab.capture.tokens, h[layer, token, dim] with example[token]; labels: one per example. Tokens are
    standardised by the training texts. Trained as `mlp` is.

    Returns score[layer, fold], correct and prediction [layer, example], weight[layer, token], the attention each token
    had when its text was held out (summing to 1 in each text), and held_out[example], the fold.
    Raises ValueError as `linear` does, and for tokens that are not of lab.capture.tokens.
    """
    _check_training(epochs, rate, decay, 1)
    if "h" not in tokens or set(tokens["h"].dims) != {"layer", "token", "dim"} or "example" not in tokens.coords:
        raise ValueError("tokens need h[layer, token, dim] and example[token], as lab.capture.tokens returns them")
    h = tokens["h"].transpose("layer", "token", "dim")
    if not np.isfinite(h.values).all():
        raise ValueError("token states must be finite; some are NaN or infinite")
    y, names = codes(labels)
    text = tokens["example"].values
    order = np.argsort(text, kind="stable")
    lengths = np.bincount(text, minlength=len(y))
    if len(lengths) != len(y) or not lengths.all():
        raise ValueError(f"one label for each example that has tokens, {len(np.unique(text))}; got {len(y)} labels")
    fold = stratified_folds(y, groups, folds, seed, len(y))
    units = np.arange(len(y)) if groups is None else np.unique(np.array(list(groups)), return_inverse=True)[1]
    device = torch.device(device)
    code = torch.as_tensor(np.searchsorted(names, y), device=device)
    mask = torch.arange(lengths.max(), device=device) < torch.as_tensor(lengths, device=device)[:, None]
    prediction = np.empty((h.sizes["layer"], len(y)), dtype=int)
    weight = np.empty(h.shape[:2], dtype=np.float32)
    bar = tqdm(total=h.sizes["layer"] * folds, unit="fit", desc="attention", leave=False, disable=not progress)
    for layer in range(h.sizes["layer"]):
        flat = torch.as_tensor(h[layer].values[order], device=device).float()
        owner = torch.as_tensor(text[order], device=device)
        for f in range(folds):
            train, kept = _kept_aside(fold != f, units, seed)
            known = torch.isin(owner, torch.as_tensor(train, device=device))
            x = torch.zeros(*mask.shape, flat.shape[1], device=device)
            x[mask] = _standardised(flat, known)
            with _drawn(seed + f):
                probe = AttentiveProbe(flat.shape[1], len(names)).to(device)
            probe = _fitted(
                probe, lambda at, x=x: (x[at], mask[at]),
                code, train, kept, epochs, rate, decay, seed + f,
            )  # fmt: skip
            test = np.flatnonzero(fold == f)
            with torch.inference_mode():
                prediction[layer][test] = probe(x[test], mask[test]).argmax(-1).cpu().numpy()
                seen = probe.attention(x[test], mask[test])[mask[test]].cpu().numpy()
            weight[layer][order[np.isin(text[order], test)]] = seen
            bar.update()
    bar.close()
    correct = names[prediction] == y
    return xr.Dataset(
        {
            "score": (("layer", "fold"), by_fold(correct, fold)),
            "correct": (("layer", "example"), correct),
            "prediction": (("layer", "example"), names[prediction]),
            "weight": (("layer", "token"), weight),
        },
        coords={"layer": h["layer"], "held_out": ("example", fold)},
        attrs={"chance": chance(y), "folds": folds, "epochs": epochs, "grouped": groups is not None},
    )


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """Weights of the same draw for each layer, so that layers differ by their states alone; the caller's are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _fitted(
    module: nn.Module,
    inputs: Callable,
    code: Tensor,
    train: np.ndarray,
    kept: np.ndarray,
    epochs: int,
    rate: float,
    decay: float,
    seed: int,
) -> nn.Module:
    """The module as it was after the epoch of the least loss on the rows kept aside."""
    order = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay, fused=True)
    least, best = float("inf"), deepcopy(module.state_dict())
    for _ in range(epochs):
        for at in np.array_split(order.permutation(train), max(1, len(train) // 64)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(*inputs(at)), code[at]).backward()
            optimizer.step()
        with torch.inference_mode():
            lost = nn.functional.cross_entropy(module(*inputs(kept)), code[kept]).item()
        if lost < least:
            least, best = lost, deepcopy(module.state_dict())
    module.load_state_dict(best)
    return module


def _kept_aside(train: np.ndarray, units: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the training rows, in those to fit and the tenth, of whole groups, to choose the epoch by."""
    there = np.unique(units[train])
    kept = np.random.default_rng(seed).permutation(there)[: max(1, len(there) // 10)]
    aside = np.isin(units, kept)
    return np.flatnonzero(train & ~aside), np.flatnonzero(train & aside)


def _standardised(x: Tensor, train: object) -> Tensor:
    spread = x[train].std(0, correction=0)
    # a column that does not vary here has nothing to say, and must not divide by nothing
    return (x - x[train].mean(0)) * torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), 0)


def _check_training(epochs: int, rate: float, decay: float, hidden: int) -> None:
    if epochs < 1 or hidden < 1 or not 0 < rate < 1 or decay < 0:
        raise ValueError(
            f"needed are one epoch and one hidden unit or more, a rate in (0, 1) and a decay of 0 or more; got "
            f"epochs={epochs}, hidden={hidden}, rate={rate}, decay={decay}"
        )
