"""Outliers among the hidden states of a corpus, layer by layer: what goes with attention sinks, as a rule."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.capture.batches import Batch
from lab.capture.checks import Count, Examples, Layers
from lab.capture.passes import read
from lab.capture.states import plain_source
from lab.models import Loaded

MASSIVE, TIMES = 100.0, 1000.0  # Sun et al.'s two conditions


def activations(
    model: Loaded,
    texts: Examples,
    layers: Layers = "all",
    *,
    max_length: Count | None = None,
    batch_tokens: Count | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """How far the largest coordinates of the hidden states stand out; padding is never read.

    At [layer, sequence], over all tokens and coordinates x of one text:
        median        of |x|
        largest       [.., rank], the three largest |x|; position [.., rank], the token of each, from 1; dim [.., rank]
        ratio         largest / median
        massive       how many x have |x| > 100 and |x| > 1000 median: massive activations, Sun, Chen, Kolter & Liu,
                      COLM 2024, https://arxiv.org/abs/2402.17762 (the two thresholds are from third parties' notes)
    At [layer], over all texts:
        kurtosis      E (x - mean)^4 / std^4 over all tokens and coordinates together, 3 for a normal distribution: one
                      rogue coordinate or one massive token raises it. lab.capture.moments has it for each coordinate
                      alone, with the tokens' norms
    length [sequence]: tokens. One pass over the texts, memory that of the forward pass. Value norms stand with the
    attention they weigh: lab.attention.watch.

    Raises as lab.capture.states does, and ValueError for texts without a token.
    """
    source, numbers = plain_source(model, texts, layers, "layer", max_length, batch_tokens)
    n = len(source.lengths)
    found = {layer: np.full((n, 11), np.nan) for layer in numbers}
    length = np.zeros(n, dtype=int)
    powers = {layer: _Powers() for layer in numbers}
    here: dict[int, tuple[Tensor, Tensor, list[int]]] = {}

    def see(layer: int, state: Tensor, mask: Tensor) -> None:
        texts = [row[real].float() for row, real in zip(state, mask, strict=True) if real.any()]
        rows = torch.stack([_largest(x) for x in texts]) if texts else state.new_zeros(0, 11)
        sums = sum((powers[layer].of(x) for x in texts), torch.zeros(5, dtype=torch.float64))
        here[layer] = rows, sums, mask.sum(1).tolist()

    def done(batch: Batch) -> None:
        for layer, (rows, sums, lengths) in here.items():
            powers[layer].sums += sums
            there = np.array(lengths) > 0
            found[layer][np.asarray(batch.index)[there]] = rows.double().cpu().numpy()
            length[batch.index] = lengths
        here.clear()

    read(model, source, numbers, see, done, budget=batch_tokens, progress=progress)
    if not length.all():
        raise ValueError(f"texts {np.flatnonzero(length == 0)[:9].tolist()} have no token: leave them out")
    every = np.stack([found[layer] for layer in numbers])  # [layer, sequence, 11]
    parts = {"largest": every[..., 2:5], "position": every[..., 5:8].astype(int), "dim": every[..., 8:].astype(int)}
    data = {name: (("layer", "sequence", "rank"), values) for name, values in parts.items()}
    data |= {"median": (("layer", "sequence"), every[..., 0]), "massive": (("layer", "sequence"), every[..., 1])}
    result = xr.Dataset(data, {"layer": list(numbers), "rank": [1, 2, 3]})
    result["ratio"] = result.largest / result["median"].where(result["median"] > 0)
    result["length"] = ("sequence", length)
    result["kurtosis"] = ("layer", [powers[layer].kurtosis() for layer in numbers])
    return result.assign_attrs(model=model.name, source=model.source, device=str(model.device))


def _largest(x: Tensor) -> Tensor:
    """Of one text's states [T, D]: median, massive, three largest, their positions, their dims; NaN where too few."""
    size = x.abs().flatten()
    median = size.median()  # the lower of two
    top = size.topk(min(3, len(size)))
    massive = ((size > MASSIVE) & (size > TIMES * median)).sum()
    at = top.indices
    parts = [top.values, (at // x.shape[1] + 1).float(), (at % x.shape[1]).float()]
    fill = [torch.nn.functional.pad(part, (0, 3 - len(at)), value=torch.nan) for part in parts]
    return torch.cat([torch.stack([median, massive.float()]), *fill])


class _Powers:
    """Sums of the powers of x - near, near a first guess of the mean, in float64: one pass, and nothing cancels."""

    def __init__(self) -> None:
        self.near: float | None = None
        self.sums = torch.zeros(5, dtype=torch.float64)  # of powers 0 to 4

    def of(self, x: Tensor) -> Tensor:
        if self.near is None:
            self.near = float(x.mean())
        away = x.flatten().double() - self.near
        square = away.square()
        powers = (torch.ones_like(away), away, square, square * away, square.square())
        return torch.stack([power.sum() for power in powers]).cpu()

    def kurtosis(self) -> float:
        one, two, three, four = (self.sums[1:] / self.sums[0]).tolist()
        variance = two - one**2
        if variance <= 1e-12 * (self.near + one) ** 2:
            return float("nan")
        return (four - 4 * one * three + 6 * one**2 * two - 3 * one**4) / variance**2
