"""A text under every pooling: what each listens to, and what stands near the text then."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import traitlets
import xarray as xr
from torch import nn

from lab import capture
from lab.models import Loaded
from lab.plots import token_shares
from lab.widgets.live import Live, finite, plain, script, style
from lab.widgets.table import table_of, text_column
from lab.widgets.weights import built, token_weights

USUAL = ("mean", "max", "first", "last", "gem", "softmax", "norm_weighted_mean", "position_mean")
CORPUS = 5000  # texts of the table that neighbours are looked for among


class Inspector(Live):
    """What `inspector` gives. text and layer can be set from Python, and follow the page."""

    _esm = script("words", "tables", "inspector")
    _css = style()
    alone = frozenset({"look"})

    text = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    layers = traitlets.List().tag(sync=True)

    def __init__(
        self, model: Loaded, corpus: list[str], pools: dict[str, nn.Module], k: int, max_length: int, **shown: Any
    ) -> None:
        self.model, self.corpus, self.pools, self.k, self.max_length = model, corpus, pools, k, max_length
        self._states: dict[int, xr.Dataset] = {}
        super().__init__(layers=list(range(model.depth + 1)), **shown)

    @property
    def weights(self) -> pd.DataFrame:
        """Shares, pools by tokens, of the text and layer on show; see lab.widgets.weights."""
        shares, words = self._weights(self.text, self.layer)
        return shares.set_axis(words, axis=1)

    @property
    def neighbours(self) -> pd.DataFrame:
        """The texts nearest to the one on show by cosine: a row per pool, a column per rank."""
        number, _ = self._near(self.text, self.layer)
        table = pd.DataFrame(np.array(self.corpus, dtype=object)[number], index=list(self.pools))
        return table.set_axis(range(1, number.shape[1] + 1), axis=1)

    def figure(self) -> go.Figure:
        title = f"What each pooling hears of a text, layer {self.layer} of {plain(self.model.name, 60)}"
        shares, words = self._weights(self.text, self.layer)
        return token_shares(shares, [plain(word, 40) for word in words], title=title)

    def answers(self) -> dict[str, Callable[..., None]]:
        return {"look": self._answer_look}

    def _answer_look(self, asked: dict, _: list) -> None:
        text, layer = str(asked.get("text", "")), self._known(asked.get("layer"))
        here = {"answer": "look", "text": text, "layer": layer, "words": [], "pools": [], "near": [], "most": 0}
        if not text.strip():
            self.message = "type a text: there is nothing to weigh in an empty one"
            self.send(here)
            return
        shares, words = self._weights(text, layer)
        number, cosine = self._near(text, layer)
        self.message = ""
        here |= {
            "words": [plain(word, 60) for word in words],
            "pools": [
                {"name": str(name), "shares": finite(row)}
                for name, row in zip(shares.index, shares.to_numpy(float), strict=True)
            ],
            "most": number.shape[1],
            "near": [
                {
                    "pool": name,
                    "texts": [f"{c:.2f}  {plain(self.corpus[j], 120)}" for j, c in zip(row, near, strict=True)],
                }
                for name, row, near in zip(self.pools, number.tolist(), cosine.tolist(), strict=True)
            ],
        }
        self.send(here)

    def _weights(self, text: str, layer: int) -> tuple[pd.DataFrame, list[str]]:
        return token_weights(self.model, text, self.pools, layer, self.max_length)

    def _near(self, text: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and cosines [pool, rank] of the nearest texts of the corpus that are not the text itself."""
        among = self._captured(self.corpus, layer, keep=True)
        own = self._captured([text], layer, keep=False)
        cosines = (among * own).sum(-1)  # [pool, example]
        cosines[:, [i for i, other in enumerate(self.corpus) if other == text]] = -2
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : self.k]
        return order, np.take_along_axis(cosines, order, 1)

    def _captured(self, texts: list[str], layer: int, *, keep: bool) -> np.ndarray:
        """Unit states [pool, example, dim]; zeros stay zeros."""
        if keep and layer in self._states:
            return self._states[layer]
        found = capture.states(
            self.model, texts, pools=self.pools, layers=[layer], max_length=self.max_length, progress=False
        )  # fmt: skip
        h = found.h.values[0]
        length = np.linalg.norm(h, axis=-1, keepdims=True)
        unit = h / np.where(length > 0, length, 1)
        if keep:
            self._states[layer] = unit
        return unit

    def _known(self, layer: Any) -> int:
        if layer not in self.layers:
            raise ValueError(f"no layer {plain(layer, 40)}; there are {self.layers}")
        return int(layer)

    @traitlets.validate("layer")
    def _valid_layer(self, proposal: dict) -> int:
        return self._known(proposal["value"])


def inspector(
    model: Any,
    table: Any,
    *,
    pools: Any = USUAL,
    text: str | None = None,
    column: str | None = None,
    layer: int | None = None,
    k: int = 5,
    max_length: int = 128,
) -> Inspector:
    """Type a text: every pooling's weight of each token of it, and the texts of the table nearest to it then.

    Weights are lab.pooling.anatomy.gradient_share on the states of the layer on show; neighbours are by cosine of the
    pooled states. Pools that learn have random weights unless {name: pool} is given. table: texts, or a table with
    them in `column`; at most 5,000. text: what is shown first, the table's first without. Read and set from Python:
    .text, .layer; read: .weights, .neighbours.

    The corpus is run once for each layer looked at, while the kernel waits. Raises TypeError for what lab.models did
    not load and for pools that are neither names nor a mapping; ValueError for an empty table, one that is too large,
    unknown pools, columns and layers, and k below 1.
    """
    if not isinstance(model, Loaded):
        raise TypeError(f"expected a model from lab.models.load or tiny; got {type(model).__name__}")
    data = table_of(table)
    if not 1 <= len(data) <= CORPUS or k < 1:
        raise ValueError(f"needed are 1 to {CORPUS:,} texts and k of at least 1; got {len(data):,} and {k}")
    if isinstance(pools, str) or not isinstance(pools, Mapping | Sequence):
        raise TypeError(f"pools must be names or {{name: pool}}; got {type(pools).__name__}")
    made = dict(pools) if isinstance(pools, Mapping) else built(list(pools), model.dim)
    corpus = [value if isinstance(value, str) else str(value) for value in data[text_column(data, column)]]
    first = corpus[0] if text is None else text
    return Inspector(model, corpus, made, k, max_length, text=first, layer=model.depth if layer is None else layer)
