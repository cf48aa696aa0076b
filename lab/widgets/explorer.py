"""An embedding space to walk in: one map per layer, pool and method, moved into each other, with the texts behind."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import traitlets
import xarray as xr
from torch import nn

from lab.models import Loaded
from lab.widgets.around import around
from lab.widgets.live import Live, plain, script, style
from lab.widgets.maps import METHODS, Maps
from lab.widgets.packing import Hues, hues
from lab.widgets.replies import REPLIES, rows
from lab.widgets.still import still
from lab.widgets.table import Words, table_of, text_column, to_colour
from lab.widgets.weights import built, token_weights


class Explorer(Live):
    """What `explorer` gives. layer, pool, method, colour and query can be set from Python, and follow the page."""

    _esm = script("scatter", "card", "pixels", "pace", "grid", "words", "tables", "explorer")
    _css = style()
    alone = frozenset({"focus"})

    layers = traitlets.List().tag(sync=True)
    pools = traitlets.List().tag(sync=True)
    methods = traitlets.List(list(METHODS)).tag(sync=True)
    columns = traitlets.List().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    pool = traitlets.Unicode().tag(sync=True)
    method = traitlets.Unicode("pca").tag(sync=True)
    colour = traitlets.Unicode("").tag(sync=True)
    query = traitlets.Unicode("").tag(sync=True)
    n = traitlets.Int().tag(sync=True)
    focus = traitlets.Int(-1).tag(sync=True)

    def __init__(
        self,
        states: xr.Dataset,
        data: pd.DataFrame,
        text: str,
        model: Loaded | None,
        own: dict,
        seed: int,
        **shown: Any,
    ) -> None:
        self.states, self.data, self.text = states, data, text
        self._model, self._own = model, own
        self._selected = np.empty(0, np.int64)
        self.maps = Maps(states, seed)
        self._hues: dict[str, Hues] = {}
        super().__init__(n=len(data), **shown)

    # --- read from Python

    @property
    def selected(self) -> np.ndarray:
        """Numbers of the selected examples, in order; set it to select."""
        return self._selected.copy()

    @selected.setter
    def selected(self, numbers: Any) -> None:
        asked = np.asarray(numbers)
        if asked.size and (asked.ndim != 1 or asked.dtype.kind not in "iu" or asked.min() < 0 or asked.max() >= self.n):
            raise ValueError(
                f"selected must be whole numbers from 0 to {self.n - 1} in a row; got {plain(numbers, 80)}"
            )
        self.take(asked.astype(np.int64))
        self.send({"answer": "selected"}, [self._selected.astype("<u4").tobytes()])

    def take(self, numbers: np.ndarray) -> None:
        """Select what the page itself chose: it is sent the rows, but not told its own choice."""
        self._selected = np.unique(numbers)
        rows(self)

    @property
    def table(self) -> pd.DataFrame:
        """The table's rows of the selected examples."""
        return self.data.iloc[self._selected]

    @property
    def neighbours(self) -> xr.Dataset:
        """number, cosine [layer, rank] and together [layer] of the selected examples in the pool on show; see `around`.

        Without any selected: of no example, -1 and NaN.
        """
        chosen = self._selected  # one: a page may choose others meanwhile
        if len(chosen):
            return around(self.states, chosen, self.pools.index(self.pool))
        none = np.empty((len(self.layers), 0))
        empty = {"number": (("layer", "rank"), none.astype(int)), "cosine": (("layer", "rank"), none)}
        alone = {"together": ("layer", np.full(len(self.layers), np.nan))}
        return xr.Dataset(empty | alone, coords={"layer": self.layers}, attrs={"chance": 0.0, "chosen": 0})

    @property
    def found(self) -> np.ndarray:
        """Numbers of the examples whose row contains the query, in any case, in any column."""
        return self.words.rows_with(self.query)

    def map(self, layer: int | None = None, pool: str | None = None, method: str | None = None) -> xr.DataArray:
        """The places on the map on show, or on another: [example, axis] in [-1, 1]."""
        layer, pool = self.layer if layer is None else layer, self.pool if pool is None else pool
        method = self.method if method is None else method
        xy = self.maps(self.layers.index(self._known(layer)), self.pools.index(self._pooled(pool)), self._way(method))
        return xr.DataArray(xy, dims=("example", "axis"), attrs={"layer": layer, "pool": pool, "method": method})

    def weights(self, number: int) -> pd.DataFrame:
        """What each pool of the states listens to in one text, pools by tokens; see lab.widgets.weights."""
        if not 0 <= number < self.n:
            raise ValueError(f"there are examples 0 to {self.n - 1}; got {number}")
        shares, words = token_weights(
            self._loaded, str(self.data[self.text].iloc[number]), self._weighers, self.layer,
            self.states.attrs.get("max_length") or None,
        )  # fmt: skip
        return shares.set_axis(words, axis=1)

    def figure(self) -> go.Figure:
        """All layers and pools by PCA under a slider, for reports: at most 1,500 points, drawn evenly."""
        return still(self)

    def answers(self) -> dict[str, Callable[..., None]]:
        return {name: partial(reply, self) for name, reply in REPLIES.items()}

    # --- behind them

    @cached_property
    def words(self) -> Words:
        """Every cell in lower case, for the search box."""
        return Words(self.data)

    def hued(self, name: str) -> Hues:
        """A column of the table, or of the states, as colours."""
        if name not in self._hues:
            self._hues[name] = hues(self.data[name] if name in self.data else self.states[name].to_series())
        return self._hues[name]

    @cached_property
    def _loaded(self) -> Loaded:
        if self._model is not None:
            return self._model
        from lab.models import load

        name = self.states.attrs.get("model")
        if name != "minilm":  # the bundled one needs no network and two seconds; others may be gigabytes
            raise ValueError(
                "the weights of the tokens come from the model itself: explorer(states, table, model=model); these "
                f"states say they are of {plain(name, 80)}"
            )
        return load(name)

    @cached_property
    def _weighers(self) -> dict[str, nn.Module]:
        ready = {name: self._own[name] for name in self.pools if name in self._own}
        return ready | built([name for name in self.pools if name not in ready], self._loaded.dim)

    def _known(self, layer: object) -> int:
        if layer not in self.layers:
            raise ValueError(f"no layer {plain(layer, 40)}; there are {self.layers}")
        return int(layer)

    def _pooled(self, pool: object) -> str:
        if pool not in self.pools:
            raise ValueError(f"no pool {plain(pool, 40)}; there are {self.pools}")
        return str(pool)

    def _way(self, method: object) -> str:
        if method not in METHODS:
            raise ValueError(f"no projection {plain(method, 40)}; there are {list(METHODS)}")
        return str(method)

    @traitlets.validate("layer")
    def _valid_layer(self, proposal: dict) -> int:
        return self._known(proposal["value"])

    @traitlets.validate("pool")
    def _valid_pool(self, proposal: dict) -> str:
        return self._pooled(proposal["value"])

    @traitlets.validate("method")
    def _valid_method(self, proposal: dict) -> str:
        return self._way(proposal["value"])

    @traitlets.validate("colour")
    def _valid_colour(self, proposal: dict) -> str:
        if proposal["value"] and proposal["value"] not in self.columns:
            raise ValueError(f"no column {plain(proposal['value'], 60)} to colour by; there are {self.columns}")
        return proposal["value"]


def explorer(
    states: Any,
    table: Any,
    *,
    model: Loaded | None = None,
    pools: Any = None,
    text: str | None = None,
    colour: str | None = None,
    layer: int | None = None,
    pool: str | None = None,
    method: str = "pca",
    seed: int = 0,
) -> Explorer:
    """A map of the examples that moves from layer to layer and pool to pool, with the texts behind the points.

    Drag to move, wheel to come nearer, double-click for all; with the lasso (or Shift) draw around points: their rows
    fill a table, with their neighbours in every layer. A click on a point shows what each pool of the states listens to
    in its text. Everything chosen is there in Python: .selected, .table, .neighbours, .focus, .found, .map().

    states: of lab.capture.states or open_store, h[layer, pool, example, dim]. table: a row per example, or the texts
    alone. text: the column with the texts, otherwise the first of "text", "summary", "sentence", else the first of
    strings. colour, layer, pool, method ("pca", "umap", "tsne"): what is shown first; the last layer when not given.
    model: what the states came from, for the weights of tokens; the bundled one is loaded by itself. pools: {name:
    pool} for states pooled by pools of one's own.

    Maps are in [-1, 1], each turned onto the one of the layer before it (lab.geometry.align). Up to a million examples
    are drawn; umap takes 20,000 and tsne 5,000. In a report, which has no kernel, a figure with its own slider stands
    in its place.

    Raises TypeError for what is no states or table, ValueError for a table of another length, no examples, and names
    that are not there. What goes wrong later is said in the widget.
    """
    if not isinstance(states, xr.Dataset) or set(getattr(states.get("h"), "dims", ())) != {
        "layer",
        "pool",
        "example",
        "dim",
    }:
        raise TypeError("states must be what lab.capture.states gives, a Dataset with h[layer, pool, example, dim]")
    data = table_of(table)
    n = states.sizes["example"]
    if len(data) != n or n == 0:
        raise ValueError(f"one row of the table per example, one or more; got {len(data)} rows and {n} examples")
    if pools is not None and not isinstance(pools, Mapping):
        raise TypeError(f"pools must be {{name: pool}}; got {type(pools).__name__}")
    named = text_column(data, text)
    layers, names = [int(value) for value in states.layer.values], [str(value) for value in states["pool"].values]
    own = [name for name in ("tokens",) if name in states and states[name].dims == ("example",) and name not in data]
    columns = [*to_colour(data, named), *own]
    if colour is not None and colour not in columns:
        raise ValueError(f"no column {colour!r} to colour by; there are {columns}")
    return Explorer(
        states, data, named, model, dict(pools or {}), seed, layers=layers, pools=names, columns=columns,
        layer=layers[-1] if layer is None else layer, pool=names[0] if pool is None else pool, method=method,
        colour=colour or (columns[0] if columns else ""),
    )  # fmt: skip
