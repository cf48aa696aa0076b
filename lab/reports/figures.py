"""Plotly figures in a page: each an empty box and its JSON; plotly's script once, compressed, for all of them."""

import base64
import functools
import gzip
import json
from collections.abc import Mapping
from importlib.resources import files

from markupsafe import Markup

from lab.reports import length, rounding

MIME = "application/vnd.plotly.v1+json"


def box(figure: Mapping, anchor: str) -> Markup:
    """The place of a figure, with the height that it will have so that nothing jumps when it is drawn."""
    layout = figure.get("layout") or {}
    height = int(layout.get("height") or 450)
    said = caption(figure)
    shown = Markup("<figcaption>{}</figcaption>").format(said) if said else ""
    return Markup(
        '<figure><div class="plot" role="img" aria-label="{}" data-figure="{}" style="height:{}px"></div>{}</figure>'
    ).format(label(figure), anchor, height, shown)


def data(figure: Mapping, anchor: str) -> Markup:
    """A figure's JSON where no parser can leave its script element: every < is written as an escape."""
    kept = {name: figure[name] for name in ("data", "layout", "frames", "config") if figure.get(name)}
    light = length.cut_words(rounding.light(kept))
    text = json.dumps(light, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return Markup('<script type="application/json" id="{}">{}</script>').format(anchor, Markup(text))  # noqa: S704


def label(figure: Mapping) -> str:
    """What a reader who does not see the figure is told: its title and caption, else its kind and axes."""
    said = [part for part in (title(figure), caption(figure)) if part]
    if said:
        return ". ".join(part.rstrip(". ") for part in said)
    layout = figure.get("layout") or {}
    kinds = " and ".join(dict.fromkeys(str(trace.get("type", "scatter")) for trace in figure.get("data") or ()))
    axes = [name for axis in ("xaxis", "yaxis") if (name := _heading(layout.get(axis) or {}))]
    return f"figure: {kinds or 'empty'}" + (f" of {' and '.join(axes)}" if axes else "")


def title(figure: Mapping) -> str:
    """A figure's title as plain text, "" where it has none."""
    return _heading(figure.get("layout") or {})


def caption(figure: Mapping) -> str:
    """The words below a figure, layout.meta's caption; "" where there are none."""
    meta = (figure.get("layout") or {}).get("meta")
    return _plain(meta.get("caption")) if isinstance(meta, Mapping) else ""


def _heading(place: Mapping) -> str:
    heading = place.get("title") or ""
    return _plain(heading.get("text") if isinstance(heading, Mapping) else heading)


def _plain(text: object) -> str:
    if not isinstance(text, str):
        return ""
    # before the tags are taken away too: each comment is a copy of the text
    return length.cut(Markup(length.cut(text, 10 * length.WORDS)).striptags(), length.WORDS)  # noqa: S704


@functools.cache
def plotly() -> Markup:
    """plotly.js from the installed wheel, gzipped and in base64: 2 MB in place of 4.8."""
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return Markup(base64.b64encode(gzip.compress(script, 9, mtime=0)).decode())  # noqa: S704 (letters and digits)
