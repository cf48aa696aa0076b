"""What the explorer's page asks of the kernel, and what it is told: REPLIES, one function for each question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lab.widgets.live import finite, plain
from lab.widgets.packing import packed

if TYPE_CHECKING:
    from lab.widgets.explorer import Explorer

CHUNK = 1024  # texts sent at a time
ROWS = 200  # of a selection shown on the page; .table has all


def a_map(widget: Explorer, asked: dict, _: list) -> None:
    key = [asked.get(name) for name in ("layer", "pool", "method")]
    if key[2] != "pca":
        widget.busy = f"{key[2]} of layer {key[0]}, {key[1]} ... the first one takes half a minute"
    xy = widget.map(*key).values
    kind, sent = packed(xy)
    widget.busy = ""
    widget.send({"answer": "map", "key": key, "kind": kind, "note": _odd(xy)}, [sent])


def _odd(xy: np.ndarray) -> str:
    """What a map does not show by itself: points without a place, one point, all in one place."""
    real = xy[np.isfinite(xy[:, 0])]
    if not len(real):
        return "no example has finite states here"
    gone = len(xy) - len(real)
    said = [f"{gone:,} of {len(xy):,} examples have states that are not finite, and no place"] if gone else []
    if len(real) == 1:
        said.append("one point: there is no map of a single example")
    elif (real == real[0]).all():
        said.append("all examples are in one place: their states are equal here")
    return "; ".join(said)


def colours(widget: Explorer, asked: dict, _: list) -> None:
    name = asked.get("column")
    if name not in widget.columns:
        raise ValueError(f"no column {plain(name)}; there are {widget.columns}")
    found = widget.hued(name)
    about = {"answer": "hues", "column": name, "palette": list(found.palette), "legend": found.legend}
    widget.send(about, [found.codes.tobytes()])


def texts(widget: Explorer, asked: dict, _: list) -> None:
    begin = int(asked.get("chunk", 0)) * CHUNK
    said = [plain(value) for value in widget.data[widget.text].iloc[begin : begin + CHUNK]]
    widget.send({"answer": "texts", "chunk": begin // CHUNK, "texts": said})


def search(widget: Explorer, asked: dict, _: list) -> None:
    query = str(asked.get("query", ""))
    found = widget.words.rows_with(query)
    widget.send({"answer": "search", "query": query}, [found.astype("<u4").tobytes()])


def select(widget: Explorer, asked: dict, buffers: list) -> None:
    numbers = np.frombuffer(buffers[0], "<u4").astype(np.int64) if buffers else np.empty(0, np.int64)
    widget.take(numbers[numbers < widget.n])
    widget.later("around", neighbours, widget, asked, [])  # not before the choice is known


def rows(widget: Explorer) -> None:
    """The table of what is selected, as the page shows it."""
    chosen = widget.selected
    first = widget.data.iloc[chosen[:ROWS]]
    cells = [[plain(value, 160) for value in row] for row in first.itertuples(index=False)]
    columns = [plain(name, 60) for name in widget.data.columns]
    numbers = chosen[:ROWS].tolist()
    widget.send({"answer": "table", "n": len(chosen), "columns": columns, "numbers": numbers, "rows": cells})


def again(widget: Explorer, _: dict, __: list) -> None:
    """A page that comes later is told what was selected before."""
    if len(widget.selected):
        widget.selected = widget.selected


def neighbours(widget: Explorer, asked: dict, _: list) -> None:
    found = widget.neighbours
    told = [
        {
            "layer": int(layer),
            "together": finite(found.together.values[i]),
            "near": [
                {"number": int(j), "cosine": finite(c), "text": plain(widget.data[widget.text].iloc[j], 120)}
                for j, c in zip(found.number.values[i], found.cosine.values[i], strict=True)
                if j >= 0
            ],
        }
        for i, layer in enumerate(found.layer.values)
        if found.attrs["chosen"]
    ]
    widget.send({"answer": "around", "version": asked.get("version"), "chance": found.attrs["chance"], "rows": told})


def one_text(widget: Explorer, asked: dict, _: list) -> None:
    number = int(asked.get("number", -1))
    if not 0 <= number < widget.n:
        raise ValueError(f"there are examples 0 to {widget.n - 1}; got {number}")
    text = plain(widget.data[widget.text].iloc[number], 4000)
    told: dict[str, Any] = {"answer": "focus", "number": number, "text": text, "words": [], "pools": []}
    try:
        shares = widget.weights(number)
    except ValueError as error:
        told["note"] = plain(error, 400)
    else:
        told["words"] = [plain(word, 60) for word in shares.columns]
        told["pools"] = [
            {"name": str(name), "shares": finite(row)}
            for name, row in zip(shares.index, shares.to_numpy(), strict=True)
        ]
    widget.send(told)


REPLIES = {
    "map": a_map, "hues": colours, "texts": texts, "search": search, "select": select, "around": neighbours,
    "focus": one_text, "again": again,
}  # fmt: skip
