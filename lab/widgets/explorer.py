"""An embedding space to walk in: one map per layer, pool and method, moved into each other, with the texts behind."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import traitlets
import xarray as xr
from torch import nn

from lab.models import Loaded
from lab.plots import morphing_map
from lab.widgets.around import around
from lab.widgets.live import Live, finite, plain, script, style
from lab.widgets.maps import METHODS, Maps
from lab.widgets.packing import Hues, hues, packed
from lab.widgets.weights import built, token_weights

CHUNK = 1024  # texts sent at a time
ROWS = 200  # of a selection shown on the page; .table has all
LOOKED_AT = 20_000  # rows that tell whether a column's words come again
STATIC = 1500  # points of the figure that needs no kernel, and with all its maps:
PLACES = 60_000


class Explorer(Live):
    """What `explorer` gives. layer, pool, method, colour and query can be set from Python, and follow the page."""

    _esm = script("scatter", "grid", "words", "tables", "explorer")
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
        self._model, self._own, self._seed = model, own, seed
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
        self._select(asked.astype(np.int64))
        self.send({"answer": "selected"}, [self._selected.astype("<u4").tobytes()])

    @property
    def table(self) -> pd.DataFrame:
        """The table's rows of the selected examples."""
        return self.data.iloc[self._selected]

    @property
    def neighbours(self) -> xr.Dataset:
        """number, cosine [layer, rank] and together [layer] of the selected examples in the pool on show; see `around`.

        Without any selected: of no example, -1 and NaN.
        """
        return self._around(self._selected)

    @property
    def found(self) -> np.ndarray:
        """Numbers of the examples whose row contains the query, in any case, in any column."""
        return self._search(self.query)

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
        many = len(self.layers) * len(self.pools)
        size = min(self.n, STATIC, max(100, PLACES // many))
        some = np.linspace(0, self.n - 1, size).round().astype(int)
        states = self.states.isel(example=some)
        maps, whole = Maps(states, self._seed), self.maps if self.n <= 5000 else None
        places = np.full((len(self.layers), len(self.pools), size, 2), np.nan)
        with_states = np.isfinite(states.h.transpose("layer", "pool", "example", "dim").values).all(-1).any(-1)
        for layer, pool in np.argwhere(with_states):
            at = int(layer), int(pool)
            places[at] = whole(*at)[some] if whole else maps(*at)
        columns = [self.colour, *(name for name in self.columns if name != self.colour)][:6]
        colours = {name: self._hued(name) for name in columns if name}
        axes = {"layer": self.layers, "pool": self.pools}
        figure = morphing_map(
            xr.DataArray(places, dims=("layer", "pool", "example", "axis"), coords=axes),
            {name: {"codes": h.codes[some], "palette": h.palette, "legend": h.legend} for name, h in colours.items()},
            [plain(value, 240) for value in self.data[self.text].iloc[some]],
            title=f"{self.n:,} examples, layer by layer (PCA)",
            start=self.layers.index(self.layer),
        )
        lost = "" if with_states.all() else " Layers without finite states are blank."
        shown = f"{size:,} of {self.n:,} examples" if size < self.n else f"All {size:,} examples"
        told = f"{shown}; each layer's map is turned onto the one before it, so that points move as little as they can."
        return figure.update_layout(meta={"caption": told + lost})

    # --- what the page asks

    def answers(self) -> dict[str, Callable[..., None]]:
        return {
            "map": self._answer_map, "hues": self._answer_hues, "texts": self._answer_texts,
            "search": self._answer_search, "select": self._answer_select, "around": self._answer_around,
            "focus": self._answer_focus, "again": self._answer_again,
        }  # fmt: skip

    def _answer_map(self, asked: dict, _: list) -> None:
        key = [asked.get(name) for name in ("layer", "pool", "method")]
        if key[2] != "pca":
            self.busy = f"{key[2]} of layer {key[0]}, {key[1]} ... the first one takes half a minute"
        xy = self.map(*key).values
        kind, sent = packed(xy)
        self.busy = ""
        gone = int(np.isnan(xy[:, 0]).sum())
        self.send({"answer": "map", "key": key, "kind": kind, "note": self._note(xy, gone)}, [sent])

    def _note(self, xy: np.ndarray, gone: int) -> str:
        if gone == len(xy):
            return "no example has finite states here"
        said = [f"{gone:,} of {self.n:,} examples have states that are not finite, and no place"] if gone else []
        real = xy[np.isfinite(xy[:, 0])]
        if len(real) == 1:
            said.append("one point: there is no map of a single example")
        elif (real == real[0]).all():
            said.append("all examples are in one place: their states are equal here")
        return "; ".join(said)

    def _answer_hues(self, asked: dict, _: list) -> None:
        name = asked.get("column")
        if name not in self.columns:
            raise ValueError(f"no column {plain(name)}; there are {self.columns}")
        found = self._hued(name)
        about = {"answer": "hues", "column": name, "palette": list(found.palette), "legend": found.legend}
        self.send(about, [found.codes.tobytes()])

    def _answer_texts(self, asked: dict, _: list) -> None:
        begin = int(asked.get("chunk", 0)) * CHUNK
        texts = [plain(value) for value in self.data[self.text].iloc[begin : begin + CHUNK]]
        self.send({"answer": "texts", "chunk": begin // CHUNK, "texts": texts})

    def _answer_search(self, asked: dict, _: list) -> None:
        found = self._search(str(asked.get("query", "")))
        self.send({"answer": "search", "query": asked.get("query", "")}, [found.astype("<u4").tobytes()])

    def _answer_select(self, asked: dict, buffers: list) -> None:
        numbers = np.frombuffer(buffers[0], "<u4").astype(np.int64) if buffers else np.empty(0, np.int64)
        self._select(numbers[numbers < self.n])
        self.later("around", self._answer_around, asked, [])  # not before the choice is known

    def _answer_again(self, _: dict, __: list) -> None:
        """A page that comes later is told what was selected before."""
        if len(self._selected):
            self.selected = self._selected

    def _answer_around(self, asked: dict, _: list) -> None:
        chosen = self._selected
        if not len(chosen):
            self.send({"answer": "around", "version": asked.get("version"), "rows": []})
            return
        found = self._around(chosen)
        rows = [
            {
                "layer": int(layer),
                "together": finite(found.together.values[i]),
                "near": [
                    {"number": int(j), "cosine": finite(c), "text": plain(self.data[self.text].iloc[j], 120)}
                    for j, c in zip(found.number.values[i], found.cosine.values[i], strict=True)
                    if j >= 0
                ],
            }
            for i, layer in enumerate(found.layer.values)
        ]
        self.send({"answer": "around", "version": asked.get("version"), "chance": found.attrs["chance"], "rows": rows})

    def _answer_focus(self, asked: dict, _: list) -> None:
        number = int(asked.get("number", -1))
        if not 0 <= number < self.n:
            raise ValueError(f"there are examples 0 to {self.n - 1}; got {number}")
        text = plain(self.data[self.text].iloc[number], 4000)
        told: dict[str, Any] = {"answer": "focus", "number": number, "text": text, "words": [], "pools": []}
        try:
            shares = self.weights(number)
        except ValueError as error:
            told["note"] = plain(error, 400)
        else:
            told["words"] = [plain(word, 60) for word in shares.columns]
            told["pools"] = [
                {"name": str(name), "shares": finite(row)}
                for name, row in zip(shares.index, shares.to_numpy(), strict=True)
            ]
        self.send(told)

    # --- behind them

    def _select(self, numbers: np.ndarray) -> None:
        self._selected = np.unique(numbers)
        first = self.data.iloc[self._selected[:ROWS]]
        cells = [[plain(value, 160) for value in row] for row in first.itertuples(index=False)]
        columns = [plain(name, 60) for name in self.data.columns]
        numbers = self._selected[:ROWS].tolist()
        self.send({"answer": "table", "n": len(self._selected), "columns": columns, "numbers": numbers, "rows": cells})

    def _around(self, chosen: np.ndarray) -> xr.Dataset:
        if not len(chosen):
            none = np.empty((len(self.layers), 0))
            empty = {"number": (("layer", "rank"), none.astype(int)), "cosine": (("layer", "rank"), none)}
            return xr.Dataset(
                empty | {"together": ("layer", np.full(len(self.layers), np.nan))}, coords={"layer": self.layers}
            )
        return around(self.states, chosen, self.pools.index(self.pool))

    @cached_property
    def _rows(self) -> list[list[str]]:
        """Every column as lower-case text; Python's, since pandas' own has no half characters."""
        return [[str(value).lower() for value in self.data[name]] for name in self.data.columns]

    def _search(self, query: str) -> np.ndarray:
        if not query.strip():
            return np.empty(0, np.int64)
        word = query.strip().lower()
        hit = np.zeros(self.n, bool)
        for column in self._rows:
            hit |= np.fromiter((word in text for text in column), bool, self.n)
        return np.flatnonzero(hit)

    def _hued(self, name: str) -> Hues:
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
    columns = [*_to_colour(data, named), *own]
    if colour is not None and colour not in columns:
        raise ValueError(f"no column {colour!r} to colour by; there are {columns}")
    return Explorer(
        states, data, named, model, dict(pools or {}), seed, layers=layers, pools=names, columns=columns,
        layer=layers[-1] if layer is None else layer, pool=names[0] if pool is None else pool, method=method,
        colour=colour or (columns[0] if columns else ""),
    )  # fmt: skip


def table_of(table: Any) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        names = table.columns.map(plain)
        if repeated := names[names.duplicated()].tolist():
            raise ValueError(f"two columns of the table have one name, {repeated}")
        return table.rename(columns=plain).reset_index(drop=True)
    if isinstance(table, str) or not isinstance(table, Sequence | pd.Series | np.ndarray):
        raise TypeError(f"table must be a DataFrame or a list of texts; got {type(table).__name__}")
    return pd.DataFrame({"text": pd.Series(list(table), dtype=object)})


def text_column(data: pd.DataFrame, text: str | None) -> str:
    if text is not None and text not in data:
        raise ValueError(f"the table has no column {text!r}; it has {list(data.columns)}")
    words = [name for name in data if any(isinstance(value, str) for value in data[name].iloc[:100])]
    order = [text, *(name for name in ("text", "summary", "sentence") if name in data), *words, *data.columns]
    found = next((name for name in order if name is not None), None)
    if found is None:
        raise ValueError("the table has no column at all, so there is no text to show")
    return found


def _to_colour(data: pd.DataFrame, text: str) -> list[str]:
    """Columns that a colour can tell apart: numbers, and words that come again."""
    found = []
    for name in data.columns:
        column = data[name]
        if name == text:
            continue
        if pd.api.types.is_numeric_dtype(column.dtype):
            found.append(name)
            continue
        some = column.iloc[:LOOKED_AT]
        if len({plain(value, 60) for value in some}) <= max(20, len(some) // 3):
            found.append(name)
    return found
