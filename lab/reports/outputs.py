"""What a cell shows: each output becomes one piece of safe HTML, and the headline and verdict are found."""

import base64
from collections.abc import Sequence

from markupsafe import Markup

from lab.reports import figures, length, markdown, notebook
from lab.reports.result import MIME as RESULT

# the richest form that a page without kernel and network can show
_ORDER = (
    figures.MIME,
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/latex",
    "text/plain",
)
_WIDGET = "application/vnd.jupyter.widget-view+json"


def figures_of(cell: dict) -> list[dict]:
    return [o["data"][figures.MIME] for o in cell.get("outputs", []) if figures.MIME in o.get("data", {})]


def headline(cells: Sequence[dict]) -> dict | None:
    """The first figure of the cell tagged headline; without one, the notebook's first figure."""
    tagged = [cell for cell in cells if notebook.tagged(cell, "headline")]
    return next((figure for cell in (*tagged, *cells) for figure in figures_of(cell)), None)


def verdict(cells: Sequence[dict]) -> str:
    """The last markdown output of the cell tagged verdict, "" where there is none."""
    found = ""
    for cell in cells:
        if notebook.tagged(cell, "verdict"):
            for output in cell.get("outputs", []):
                found = output.get("data", {}).get("text/markdown", found)
    return found


def results(cells: Sequence[dict]) -> dict:
    """What the notebook handed over, by name; a later value takes the place of an earlier one."""
    found = {}
    for cell in cells:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).get(RESULT, {})
    return found


def joined(outputs: Sequence[dict]) -> list[dict]:
    """The outputs, neighbouring pieces of one stream as one: a progress bar arrives in hundreds of them."""
    whole: list[dict] = []
    for output in outputs:
        last = whole[-1] if whole else {}
        if output["output_type"] == last.get("output_type") == "stream" and output["name"] == last["name"]:
            whole[-1] = {**last, "text": last["text"] + output["text"]}
        else:
            whole.append(output)
    return whole


def shown(output: dict, anchor: str) -> Markup:
    """One output as HTML. A figure becomes a box for `anchor`, also one that stands beside a widget; a widget alone,
    which would be dead here, and a cleared bar become nothing."""
    kind = output["output_type"]
    if kind == "stream":
        text = _ansi(output["text"])
        return Markup('<pre class="{}">{}</pre>').format(output["name"], text) if text.strip() else Markup("")
    if kind == "error":
        traceback = "\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}"
        return Markup('<pre class="traceback">{}</pre>').format(_ansi(traceback))
    data = output["data"]
    mime = next((mime for mime in _ORDER if mime in data), None)
    if mime is None or (_WIDGET in data and mime != figures.MIME):
        return Markup("")
    if mime == "text/html" and not markdown.is_plain(data[mime]) and not _is_useless(data.get("text/plain")):
        mime = "text/plain"  # made for its own style sheet or script: its text form reads better without
    return _as(mime, data[mime], anchor, data.get("text/plain", ""))


def _as(mime: str, content: object, anchor: str, plain: str) -> Markup:
    match mime:
        case figures.MIME:
            return figures.box(content, anchor)
        case "text/html":
            return Markup('<div class="wide html">{}</div>').format(markdown.safe(content))
        case "text/markdown":
            return Markup('<div class="prose">{}</div>').format(markdown.html(content))
        case "text/latex":
            return Markup('<div class="equation">{}</div>').format(markdown.mathml(content.strip("$ \n"), "block"))
        case "text/plain":
            return Markup("<pre>{}</pre>").format(_ansi(content))
        case "image/svg+xml":
            content = base64.b64encode(content.encode()).decode()  # as an image it cannot run scripts
    source = f"data:{mime};base64,{content}".replace("\n", "")
    return Markup('<img src="{}" alt="{}">').format(source, length.cut(plain, length.WORDS) or "image")


def _is_useless(plain: str | None) -> bool:
    return plain is None or plain.startswith("<IPython.core.display")


def _ansi(text: str) -> Markup:
    from nbconvert.filters import ansi2html

    # progress bars return to the start of their line; what a terminal would show is the last state
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return Markup(ansi2html(length.cut("\n".join(lines), length.OUTPUT)))  # noqa: S704 (escapes first)
