"""Plotly figures in a page: each an empty box and its JSON; plotly's script once, compressed, for all of them."""

import base64
import functools
import gzip
import json
from collections.abc import Mapping
from importlib.resources import files

from markupsafe import Markup

MIME = "application/vnd.plotly.v1+json"


def box(figure: Mapping, anchor: str, *, small: bool = False) -> Markup:
    """The place of a figure, with the height that it will have so that nothing jumps when it is drawn."""
    layout = figure.get("layout") or {}
    height = 300 if small else int(layout.get("height") or 450)
    caption = _caption(layout)
    shown = Markup("<figcaption>{}</figcaption>").format(caption) if caption and not small else ""
    return Markup(
        '<figure><div class="plot{}" role="img" aria-label="{}" data-figure="{}" style="height:{}px"></div>{}</figure>'
    ).format(" small" if small else "", title(figure) or caption or "figure", anchor, height, shown)


def data(figure: Mapping, anchor: str) -> Markup:
    """A figure's JSON where no parser can leave its script element: every < is written as an escape."""
    kept = {name: figure[name] for name in ("data", "layout", "frames", "config") if figure.get(name)}
    text = json.dumps(kept, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return Markup('<script type="application/json" id="{}">{}</script>').format(anchor, Markup(text))  # noqa: S704


def title(figure: Mapping) -> str:
    """A figure's title as plain text, "" where it has none."""
    layout = figure.get("layout") or {}
    heading = layout.get("title") or ""
    return _plain(heading.get("text") if isinstance(heading, Mapping) else heading)


def _caption(layout: Mapping) -> str:
    meta = layout.get("meta")
    return _plain(meta.get("caption")) if isinstance(meta, Mapping) else ""


def _plain(text: object) -> str:
    return Markup(text).striptags() if isinstance(text, str) else ""  # noqa: S704 (only to take tags away)


@functools.cache
def plotly() -> str:
    """plotly.js from the installed wheel, gzipped and in base64: 2 MB in place of 4.8."""
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode()
