"""Sinks to walk in: a mosaic of heads, and what the chosen one does with a text, under any normalizer."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import plotly.graph_objects as go
import traitlets
import xarray as xr

from lab import attention, capture
from lab.models import Loaded
from lab.plots import mosaic
from lab.widgets.live import Live, finite, plain, script, style


class SinkViewer(Live):
    """What `sinks` gives. layer, head, text and normalizer can be set from Python, and follow the page."""

    _esm = script("heat", "lines", "sinks")
    _css = style()
    alone = frozenset({"mosaic", "places", "pattern"})

    layer = traitlets.Int(1).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    text = traitlets.Int(0).tag(sync=True)
    normalizer = traitlets.Unicode("softmax").tag(sync=True)
    normalizers = traitlets.List().tag(sync=True)
    n = traitlets.Int().tag(sync=True)

    def __init__(self, model: Loaded, texts: list[str], threshold: float, max_length: int, **shown: Any) -> None:
        self.model, self.texts, self.threshold, self.max_length = model, texts, threshold, max_length
        self._seen: dict[str, xr.Dataset] = {}
        super().__init__(n=len(texts), normalizers=list(attention.NORMALIZERS), **shown)

    @property
    def seen(self) -> xr.Dataset:
        """All that lab.attention.watch saw of these texts under the normalizer on show."""
        return self._watched(self.normalizer)

    @property
    def rates(self) -> xr.DataArray:
        """The share of texts whose first token receives more than the threshold, [layer, head]."""
        return self._rates(self.normalizer)

    @property
    def pattern(self) -> xr.Dataset:
        """weight[head, query, key] of the layer and text on show; see lab.attention.pattern."""
        return self._pattern(self.layer, self.text, self.normalizer)

    def figure(self) -> go.Figure:
        title = f"Heads whose first token receives more than {self.threshold}: {self.model.name}, {self.normalizer}"
        figure = mosaic(self.rates, title=plain(title), unit="share of texts", reach=(0, 1))
        told = f"{len(self.texts)} texts of at most {self.max_length} tokens. In a notebook with a kernel a click on a "
        return figure.update_layout(meta={"caption": told + "head shows its pattern."})

    def answers(self) -> dict[str, Callable[..., None]]:
        return {"mosaic": self._answer_mosaic, "places": self._answer_places, "pattern": self._answer_pattern}

    def _answer_mosaic(self, asked: dict, _: list) -> None:
        rates = self._rates(asked["normalizer"])
        self.send(
            {
                "answer": "mosaic", "normalizer": asked["normalizer"], "threshold": self.threshold,
                "rate": finite(rates.values), "layers": rates["layer"].values.tolist(),
                "heads": rates["head"].values.tolist(),
            }
        )  # fmt: skip

    def _answer_places(self, asked: dict, _: list) -> None:
        here = self._head(asked)
        seen = self._watched(here["normalizer"]).sel(layer=here["layer"], head=here["head"])
        told = {"mass": finite(seen.mass.values), "norms": finite(seen.value_norm.values)}
        self.send({"answer": "places"} | here | told)

    def _answer_pattern(self, asked: dict, _: list) -> None:
        here = self._head(asked)
        found = self._pattern(here["layer"], here["text"], here["normalizer"])
        weights = found.weight.values[here["head"]]
        told = {
            "words": plain(self.texts[here["text"]], 600),
            "tokens": [plain(word, 40) for word in found.token.values],
            "weights": finite(np.round(weights.astype(float), 5)),
            "high": float(np.nanmax(weights)) if weights.size else 1.0,
        }
        self.send({"answer": "pattern"} | here | told)

    def _head(self, asked: dict) -> dict[str, Any]:
        """The question's layer, head, text and normalizer, checked."""
        here = {name: asked.get(name) for name in ("layer", "head", "text", "normalizer")}
        heads = self._rates(here["normalizer"]).sizes["head"]
        reach = {"layer": (1, self.model.depth), "head": (0, heads - 1), "text": (0, len(self.texts) - 1)}
        for name, (low, high) in reach.items():
            if not isinstance(here[name], int) or not low <= here[name] <= high:
                raise ValueError(f"{name} must be from {low} to {high}; got {plain(here[name], 40)}")
        return here

    def _rates(self, normalizer: str) -> xr.DataArray:
        return self._watched(normalizer).sink_rate.isel(threshold=0).sel(position=1, drop=True)

    def _watched(self, normalizer: str) -> xr.Dataset:
        if normalizer not in self._seen:
            with ExitStack() as hold:
                if normalizer != "softmax":
                    hold.enter_context(attention.use(self.model, normalizer))
                watched = hold.enter_context(attention.watch(self.model, thresholds=(self.threshold,)))
                last = [self.model.depth]
                capture.states(self.model, self.texts, layers=last, max_length=self.max_length, progress=False)
                self._seen[normalizer] = watched.result()
        return self._seen[normalizer]

    def _pattern(self, layer: int, text: int, normalizer: str) -> xr.Dataset:
        return attention.pattern(
            self.model, self.texts[text], layer, normalizer=normalizer, max_length=self.max_length
        )  # fmt: skip


def sinks(
    model: Any,
    texts: Sequence[str],
    *,
    normalizer: str = "softmax",
    threshold: float | int = 0.3,
    max_length: int = 64,
) -> SinkViewer:
    """A mosaic of all heads by how often their first token is a sink; a click shows what a head does with a text.

    Beside the pattern (query down, key across) stand alpha_k, the attention that each place receives, and |v_k|, both
    means over the texts, as lab.attention.watch defines them; the menu exchanges the normalizer, as lab.attention.use
    does, and all is run again. Chosen from Python: .layer, .head, .text, .normalizer; read: .seen, .rates, .pattern.

    texts: a few; the model runs over them once for each normalizer looked at, while the kernel waits. max_length: in
    tokens, at most 256, and longer ones are cut.

    Raises TypeError for what lab.models did not load; ValueError for no texts, an unknown normalizer, a threshold
    outside [0, 1), and a model whose attention cannot be watched.
    """
    if not isinstance(model, Loaded):
        raise TypeError(f"expected a model from lab.models.load or tiny; got {type(model).__name__}")
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"needed are texts that are not empty, one or more; got {plain(texts, 80)}")
    if normalizer not in attention.NORMALIZERS:
        raise ValueError(f"no normalizer {normalizer!r}; there are {list(attention.NORMALIZERS)}")
    if not 0 <= threshold < 1 or not 1 <= max_length <= 256:
        raise ValueError(f"needed are a threshold in [0, 1) and 1 to 256 tokens; got {threshold} and {max_length}")
    viewer = SinkViewer(model, texts, float(threshold), max_length, normalizer=normalizer)
    rates = viewer.rates  # refusals come at once
    layer, head = np.unravel_index(int(np.nanargmax(rates.values)), rates.shape)
    viewer.layer, viewer.head = int(rates["layer"][layer]), int(head)
    return viewer
