"""What the tokens of a corpus look like in each layer, without keeping any of them."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.capture.batches import Batch
from lab.capture.checks import Count, Examples, Layers
from lab.capture.passes import read
from lab.capture.states import plain_source
from lab.models import Loaded


def moments(
    model: Loaded,
    texts: Examples,
    layers: Layers = "all",
    *,
    site: str = "layer",
    covariance: bool = False,
    max_length: Count | None = None,
    batch_tokens: Count | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Running statistics over all real tokens x of the texts, layer by layer; memory is that of the forward pass.

    Per coordinate d, [layer, dim]:
        mean, std     population's
        kurtosis      E (x_d - mean_d)^4 / std_d^4; 3 for a normal distribution, NaN for a coordinate that
                      stands still: std <= 1e-6 of |mean_d| or of the root of E x^2 over all coordinates
        absmax        max |x_d|
        share         E x_d^2 / sum_e E x_e^2: of a layer's squared length, how much is this coordinate's
        outlier       share more than 3 standard deviations above its mean over the coordinates: a rogue dimension, as
                      Kovaleva et al., 2021 count them among weights (recalled). https://arxiv.org/abs/2105.06990
    Per layer, [layer]:
        norm, norm_std, norm_max      of the tokens' L2 norms
        influence     1 - E cos(x before the block, x after it): block influence, ShortGPT (Men et al., 2024), eq. 1
                      (recalled); https://arxiv.org/abs/2403.03853. NaN for a layer whose predecessor is not watched
        change        E |x after - x before| / |x before|
    covariance=True adds covariance[layer, dim, dim_], population's: dim^2 numbers a layer.
    tokens is how many there were. Sums are of deviations from the first batch's mean, in float64.

    Layers of different widths leave NaN beyond their own. Raises as `states` does.
    """
    source, numbers = plain_source(model, texts, layers, site, max_length, batch_tokens)
    widths = model.widths_at(site)
    found = {layer: _Sums(widths[layer], covariance) for layer in numbers}
    here: dict[int, list[Tensor]] = {}
    previous: tuple[int, Tensor] | None = None

    def see(layer: int, state: Tensor, mask: Tensor) -> None:
        nonlocal previous
        x = state[mask].float()
        before = (
            previous[1] if previous is not None and previous[0] == layer - 1 and previous[1].shape == x.shape else None
        )
        here[layer] = found[layer].of(x, before)
        previous = layer, x

    def done(_: Batch) -> None:
        for layer, sums in here.items():
            found[layer].add(sums)
        here.clear()

    read(model, source, numbers, see, done, site=site, budget=batch_tokens, progress=progress)
    parts = [found[layer].result(max(widths[layer] for layer in numbers)) for layer in numbers]
    together = xr.concat(parts, dim="layer", join="override", combine_attrs="override")
    return together.assign_coords(layer=list(numbers)).assign_attrs(
        model=model.name, source=model.source, site=site, tokens=found[numbers[0]].n, device=str(model.device)
    )


class _Sums:
    """Sums of one layer: of powers of the deviation from a fixed point near the mean, and of a few norms."""

    def __init__(self, width: int, covariance: bool) -> None:
        self.width, self.covariance = width, covariance
        self.n = 0
        self.near: Tensor | None = None
        self.total: list[np.ndarray] = []
        self.most: list[np.ndarray] = []

    def of(self, x: Tensor, before: Tensor | None) -> list[Tensor]:
        """The sums of one batch of tokens [N, D]: what is added up, then what is maximised."""
        if self.near is None:
            self.near = x.mean(0) if len(x) else x.new_zeros(self.width)
            self.near_norm = x.norm(dim=1).mean() if len(x) else x.new_zeros(())
        away, norm = x - self.near, x.norm(dim=1)
        longer = norm - self.near_norm
        square = away.square()
        turned = moved = x.new_full((), torch.nan)
        if before is not None:
            length = before.norm(dim=1)
            turned = (1 - (x * before).sum(1) / (norm * length).clamp(min=1e-30)).sum()
            moved = ((x - before).norm(dim=1) / length.clamp(min=1e-30)).sum()
        powers = [away.sum(0), square.sum(0), (square * away).sum(0), square.square().sum(0), x.square().sum(0)]
        norms = torch.stack([longer.sum(), longer.square().sum(), turned, moved, x.new_tensor(len(x))])
        products = [away.T @ away] if self.covariance else []
        most = [x.abs().amax(0), norm.amax()[None]] if len(x) else [x.new_zeros(self.width), x.new_zeros(1)]
        return [*powers, norms, *products, *most]

    def add(self, sums: list[Tensor]) -> None:
        *summed, absmax, longest = [part.double().cpu().numpy() for part in sums]
        self.total = [a + b for a, b in zip(self.total, summed, strict=True)] if self.total else summed
        most = [absmax, longest]
        self.most = [np.maximum(a, b) for a, b in zip(self.most, most, strict=True)] if self.most else most
        self.n = int(self.total[5][4])

    def result(self, width: int) -> xr.Dataset:
        one, two, three, four, square, norms = (part / max(self.n, 1) for part in self.total[:6])
        near = self.near.double().cpu().numpy()
        variance = two - one**2
        fourth = four - 4 * one * three + 6 * one**2 * two - 3 * one**4
        still = variance <= 1e-12 * np.maximum((near + one) ** 2, square.mean())
        share = square / square.sum()
        found = {
            "mean": near + one,
            "std": np.sqrt(np.maximum(variance, 0)),
            "kurtosis": np.where(still, np.nan, fourth / np.where(still, 1, variance) ** 2),
            "absmax": self.most[0],
            "share": share,
            "outlier": (share > share.mean() + 3 * share.std()).astype(float),
        }
        pad = (0, width - self.width)
        data = {name: ("dim", np.pad(values, pad, constant_values=np.nan)) for name, values in found.items()}
        longer, longer_square, influence, change, _ = norms
        data |= {"norm": float(self.near_norm) + longer, "norm_max": self.most[1][0]}
        data["norm_std"] = np.sqrt(max(longer_square - longer**2, 0))
        data |= {"influence": influence, "change": change, "width": self.width}
        if self.covariance:
            matrix = self.total[6] / max(self.n, 1) - np.outer(one, one)
            data["covariance"] = (("dim", "dim_"), np.pad(matrix, (pad, pad), constant_values=np.nan))
        return xr.Dataset(data)
