"""Sums over sequences of what their attention showed, from calls as they come to one labelled result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.attention.chunks import SUMS
from lab.attention.sinks import Seen

PLACES = ("mass", "share", "lift", "value_mass", "value_norm")  # means over sequences, at [layer, head, position]
RATES = {"sink_rate": "share", "mass_rate": "mass"}  # sequences above each threshold, by which of PLACES
SINGLES = ("first_token", "first_share", *SUMS)  # of each sequence, at [layer, head, sequence]


@dataclass
class _Open:
    """One layer's sums over a batch of sequences that may yet grow, as they do while a model generates."""

    columns: Tensor
    shares: Tensor
    even: Tensor
    totals: Tensor
    value_norm: Tensor
    tokens: Tensor
    asks: Tensor  # bool [B, T]: queries that were seen
    cached: bool  # some keys are older than this pass
    lone: bool  # a single query asks
    ahead: bool
    backend: str

    @classmethod
    def of(cls, seen: Seen) -> "_Open":
        asks = seen.tokens.clone()
        asks[:, : asks.shape[1] - seen.queries] = False
        parts = (seen.columns, seen.shares, seen.even, seen.totals, seen.value_norm)
        cached = seen.queries < asks.shape[1]
        sums = (x.float().cpu() for x in parts)
        return cls(*sums, seen.tokens.cpu(), asks.cpu(), cached, seen.queries == 1, seen.ahead, seen.backend)

    def goes_on_in(self, later: "_Open") -> bool:
        """Whether the later call's queries are new tokens of the sequences seen so far."""
        new = later.tokens.shape[1] - self.tokens.shape[1]
        return (
            later.cached
            and new > 0
            and self.columns.shape[:2] == later.columns.shape[:2]
            and not later.asks[:, :-new].any()
            and torch.equal(later.tokens[:, :-new], self.tokens)
        )

    def with_more(self, later: "_Open") -> "_Open":
        new = later.tokens.shape[1] - self.tokens.shape[1]

        asks = torch.nn.functional.pad(self.asks, (0, new)) | later.asks

        def sum_with(name: str) -> Tensor:
            return torch.nn.functional.pad(getattr(self, name), (0, new)) + getattr(later, name)

        return _Open(
            sum_with("columns"), sum_with("shares"), sum_with("even"), self.totals + later.totals, later.value_norm,
            later.tokens, asks, self.cached, later.lone, self.ahead or later.ahead,
            self.backend if self.backend == later.backend else f"{self.backend}, {later.backend}",
        )  # fmt: skip


class Tally:
    """Adds up calls, layer by layer; a batch is closed when the next is not its continuation."""

    def __init__(self, thresholds: Sequence[float], first: int) -> None:
        self.thresholds, self.first = tuple(thresholds), first
        self.open: dict[int, _Open] = {}
        self.sums: dict[int, dict[str, Tensor]] = {}  # of each layer: PLACES and RATES, [..., H, P], in float64
        self.singles: dict[int, list[Tensor]] = {}  # of each layer: [len(SINGLES), H, B] of each batch
        self.counts = torch.zeros(0, dtype=torch.float64)  # [P], sequences that have the position
        self.queries = torch.zeros(0, dtype=torch.float64)  # [P], the queries behind their alpha
        self.lengths: list[Tensor] = []
        self.backends: dict[int, str] = {}

    def add(self, batch: dict[int, Seen]) -> None:
        """The calls of one forward pass, {layer: what was seen}."""
        later = {layer: _Open.of(seen) for layer, seen in batch.items()}
        if later.keys() == self.open.keys() and all(self.open[i].goes_on_in(later[i]) for i in later):
            self.open = {i: self.open[i].with_more(later[i]) for i in later}
            return
        # one query on as many keys or fewer; several on one more are a whole text beside a learned key bias
        short = {i: part for i, part in later.items() if part.cached and i in self.open and part.lone}
        cut = [i for i, part in short.items() if part.tokens.shape[1] <= self.open[i].tokens.shape[1]]
        if cut:
            raise ValueError(
                f"the cached keys of layer {cut} were cut to a window, so their positions are not known any more: "
                "watch the whole text in one pass without a cache, or a generation that is shorter than the window"
            )
        self.close()
        self.open = later

    def close(self) -> None:
        """No later call belongs to the open batch."""
        if not self.open:
            return
        for i, (layer, part) in enumerate(sorted(self.open.items())):
            self._close_layer(layer, part, alone=i == 0)
        self.open = {}

    def _close_layer(self, layer: int, part: _Open, *, alone: bool) -> None:
        there = part.tokens.any(1)  # a sequence without tokens is none
        order = (~part.tokens[there]).int().argsort(dim=1, stable=True)  # real tokens first, as they stand
        tokens = part.tokens[there].gather(1, order)
        asks = part.asks[there].gather(1, order).double()

        def aligned(x: Tensor) -> Tensor:
            x = x[there].double()
            return x.gather(2, order[:, None].expand_as(x)) * tokens[:, None]

        n = asks.sum(1, keepdim=True).expand_as(asks)
        behind = n if part.ahead else asks.flip(1).cumsum(1).flip(1)  # queries that alpha_k is a mean of
        rows = behind[:, None].clamp(min=1)
        columns, shares, even, norm = (aligned(x) for x in (part.columns, part.shares, part.even, part.value_norm))
        alpha, proxy = columns / rows, shares / rows
        lift = torch.where(even > 0, shares / torch.where(even > 0, even, 1), 0)
        found = {"mass": alpha, "share": proxy, "lift": lift, "value_mass": alpha * norm, "value_norm": norm}
        sums = {name: values.sum(0) for name, values in found.items()}
        for name, of in RATES.items():
            above = [((found[of] > eps) & tokens[:, None]).double().sum(0) for eps in self.thresholds]
            sums[name] = torch.stack(above)
        old = self.sums.get(layer)
        self.sums[layer] = sums if old is None else {name: _plus(old[name], sums[name]) for name in sums}
        everyone = part.asks[there].sum(1).double()[:, None].clamp(min=1)
        singles = [proxy[..., 0], shares[..., : self.first].sum(-1) / everyone]
        singles += [part.totals[there][..., i].double() / everyone for i in range(len(SUMS))]
        self.singles.setdefault(layer, []).append(torch.stack(singles).transpose(1, 2).float())
        self.backends[layer] = part.backend
        if alone:
            self.counts = _plus(self.counts, tokens.double().sum(0))
            self.queries = _plus(self.queries, (behind * tokens).sum(0))
            self.lengths.append(tokens.sum(1))

    def result(self) -> xr.Dataset:
        layers = sorted(self.sums)
        if not layers:
            raise ValueError("nothing was watched: run the model inside the `with` block, or after it was opened")
        heads = max(self.sums[i]["mass"].shape[0] for i in layers)
        support = self.counts.numpy()

        def stacked(parts: list[Tensor]) -> np.ndarray:
            """Layers together; heads that a layer does not have are NaN."""
            padded = [torch.nn.functional.pad(x, (0, 0, 0, heads - x.shape[-2]), value=torch.nan) for x in parts]
            return torch.stack(padded).numpy()

        data = {
            name: (("layer", "head", "position"), stacked([self.sums[i][name] for i in layers]) / support)
            for name in PLACES
        }
        for name in RATES:
            rates = stacked([self.sums[i][name] for i in layers]) / support
            data[name] = (("layer", "head", "threshold", "position"), rates.swapaxes(1, 2))
        each = stacked([torch.cat(self.singles[i], -1) for i in layers])  # [layer, of SINGLES, head, sequence]
        data |= {name: (("layer", "head", "sequence"), each[:, i]) for i, name in enumerate(SINGLES)}
        data["support"] = ("position", support.astype(int))
        data["queries"] = ("position", self.queries.numpy() / support)
        data["length"] = ("sequence", torch.cat(self.lengths).numpy())
        data["backend"] = ("layer", [self.backends[i] for i in layers])
        axes = {"layer": layers, "head": range(heads), "position": range(1, len(support) + 1)}
        result = xr.Dataset(data, {**axes, "threshold": list(self.thresholds), "sequence": range(each.shape[-1])})
        return result.assign_attrs(first=self.first)


def _plus(a: Tensor, b: Tensor) -> Tensor:
    """Sums over positions, of which one may have more."""
    n = max(a.shape[-1], b.shape[-1])
    return torch.nn.functional.pad(a, (0, n - a.shape[-1])) + torch.nn.functional.pad(b, (0, n - b.shape[-1]))
