"""Layers to walk in: probe curves, how alike layers are, and the geometry, all marked where one is pointed at."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import traitlets
import xarray as xr

from lab.plots.panels import layer_panels
from lab.widgets.live import Live, finite, plain, script, style


class LayerBrowser(Live):
    """What `layers` gives. layer (-1 without one), pool and metric can be set from Python, and follow the page."""

    _esm = script("heat", "lines", "layers")
    _css = style()

    data = traitlets.Dict().tag(sync=True)
    layer = traitlets.Int(-1).tag(sync=True)
    pool = traitlets.Unicode().tag(sync=True)
    metric = traitlets.Unicode("").tag(sync=True)

    def __init__(self, parts: dict[str, Any], unit: str, **shown: Any) -> None:
        self.parts, self.unit = parts, unit
        super().__init__(**shown)

    def figure(self) -> go.Figure:
        return layer_panels(**self.parts, title="Layer by layer", unit=self.unit)

    def answers(self) -> dict[str, Callable[..., None]]:
        return {}  # the page has it all

    @traitlets.validate("pool")
    def _valid_pool(self, proposal: dict) -> str:
        return self._one_of("pool", proposal["value"], self.data["pools"])

    @traitlets.validate("metric")
    def _valid_metric(self, proposal: dict) -> str:
        return self._one_of("metric", proposal["value"], ["", *self.data["space"]])

    @traitlets.validate("layer")
    def _valid_layer(self, proposal: dict) -> int:
        return self._one_of("layer", proposal["value"], [-1, *self.data["layers"]])

    def _one_of(self, what: str, value: Any, known: list) -> Any:
        if value not in known:
            raise ValueError(f"no {what} {plain(value, 40)}; there are {known}")
        return value


def layers(
    scores: xr.Dataset | xr.DataArray | None = None,
    similarity: xr.DataArray | None = None,
    space: xr.Dataset | None = None,
    *,
    unit: str = "score",
    references: Mapping[str, float] | None = None,
) -> LayerBrowser:
    """Three figures of the same layers; pointing at a layer in one marks it in all, and says its numbers.

    scores: probe scores with the axes layer and pool; either estimate, low and high (lab.stats.bootstrap), or numbers,
    of whose other axes the mean is taken. similarity: [pool, layer, layer_] of lab.geometry.compare or cka. space: of
    lab.geometry.measure. Any one or two may be left out. unit: what the scores are; references: {name: height}.
    Read and set from Python: .layer, .pool, .metric.

    Raises ValueError where all are left out, for axes that are not there, and for parts that share no pool.
    """
    if scores is None and similarity is None and space is None:
        raise ValueError("nothing to browse: give scores, a similarity or a space")
    parts = {"scores": _scores(scores), "similarity": similarity, "space": space}
    for name, needed in (("similarity", {"pool", "layer", "layer_"}), ("space", {"layer", "pool"})):
        if parts[name] is not None and not needed <= set(parts[name].dims):
            raise ValueError(f"{name} needs the axes {sorted(needed)}; it has {list(parts[name].dims)}")
    there = [part for part in parts.values() if part is not None]
    pools = [pool for pool in there[0]["pool"].values.tolist() if all(pool in part["pool"].values for part in there)]
    if not pools:
        raise ValueError(f"the parts share no pool: {[part['pool'].values.tolist() for part in there]}")
    numbers = sorted({int(value) for part in there for value in part["layer"].values})
    data: dict[str, Any] = {"layers": numbers, "pools": [plain(pool, 60) for pool in pools], "unit": unit, "space": {}}
    data["references"] = [{"name": plain(name, 60), "height": float(h)} for name, h in (references or {}).items()]
    if parts["scores"] is not None:
        data["scores"] = {plain(pool, 60): _points(parts["scores"].sel(pool=pool)) for pool in pools}
    if similarity is not None:
        whole = similarity.sel(pool=pools).reindex(layer=numbers, layer_=numbers)
        values = {plain(pool, 60): finite(np.round(whole.sel(pool=pool).values.astype(float), 4)) for pool in pools}
        low, high = float(whole.min()), float(whole.max())
        data["similarity"] = {"name": plain(similarity.name or "similarity"), "values": values} | finite(
            {"low": min(0.0, low), "high": max(1.0, high)}
        )
    if space is not None:
        named = [name for name in space.data_vars if {"layer", "pool"} == set(space[name].dims)]
        parts["space"] = space[named]
        tables = {str(name): space[name].to_dataset(name="estimate") for name in named}
        data["space"] = {name: {plain(p, 60): _points(t.sel(pool=p)) for p in pools} for name, t in tables.items()}
    first = next(iter(data["space"]), "")
    return LayerBrowser(parts, unit, data=data, pool=data["pools"][0], metric=first)


def _scores(scores: xr.Dataset | xr.DataArray | None) -> xr.Dataset | None:
    """estimate [layer, pool], with low and high where they are known."""
    if scores is None:
        return None
    if isinstance(scores, xr.DataArray):
        scores = scores.to_dataset(name="estimate")
    if "estimate" not in scores:
        scores = scores.rename({next(iter(scores.data_vars)): "estimate"}) if scores.data_vars else scores
    if "estimate" not in scores or not {"layer", "pool"} <= set(scores["estimate"].dims):
        has = {str(name): part.dims for name, part in scores.data_vars.items()}
        raise ValueError(f"scores need the axes layer and pool; got {has}")
    kept = scores[[name for name in ("estimate", "low", "high") if name in scores]]
    return kept.mean([dim for dim in kept.dims if dim not in ("layer", "pool")])


def _points(line: xr.Dataset) -> list[list[Any]]:
    names = ["estimate", *(("low", "high") if "low" in line and "high" in line else ())]
    return [
        [int(layer), *(finite(float(line[name].sel(layer=layer))) for name in names)] for layer in line["layer"].values
    ]
