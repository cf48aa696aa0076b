"""An executed notebook becomes one HTML file: our own nbconvert exporter with our own small template."""

import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lab.reports import figures, length, markdown, notebook, outputs
from lab.reports.record import Record

TEMPLATES = Path(__file__).parent / "template"
SMALL = 200_000  # characters; larger outputs are left out when a page would be too large


@dataclass(frozen=True)
class Story:
    """A notebook's cells as HTML, in order, and what goes with them."""

    cells: list[dict]
    headings: list[markdown.Heading]
    figures: dict[str, dict]
    headline: str | None


def within(limit: int, executed: dict, record: Record, folder: Path) -> tuple[Record, str]:
    """The page and the record that knows its size. Above the limit the run counts as failed, and the page
    that says so leaves the large outputs out."""
    html = page(executed, record, folder)
    weight = len(html.encode())
    if weight > limit:
        reason = f"the report would have {weight / 1e6:.1f} MB, the limit is {limit / 1e6:.0f} MB"
        if not record.failed:
            record = dataclasses.replace(record, status="failed", error="ReportTooLarge", reason=reason)
        html = page(_without_large(executed), dataclasses.replace(record, figure=None), folder)
    return dataclasses.replace(record, bytes=len(html.encode())), html


def page(executed: dict, record: Record, folder: Path) -> str:
    """The whole report. folder: where the source notebook lies, for images beside it."""
    story = tell(executed["cells"], record, folder)
    exporter = _exporter()
    light = executed.copy() | {
        "cells": [_hollow(cell, told) for cell, told in zip(executed["cells"], story.cells, strict=True)]
    }
    resources = {
        "record": record,
        "story": story,
        "foot": _foot(executed, record),
        "nonce": nonce([executed, dataclasses.asdict(record)]),
    }
    html, _ = exporter.from_notebook_node(type(executed)(light), resources=resources)
    return _readable(html)


def tell(cells: Sequence[dict], record: Record, folder: Path) -> Story:
    """Each cell as {number, kind, html, code, outputs, seconds, failed}; the number is its place in the source."""
    told, headings, drawn, number = [], [], {}, 0
    opened = False
    for cell in cells:
        injected = notebook.tagged(cell, notebook.INJECTED)
        number += not injected
        one = {"number": number, "kind": "hidden" if injected else cell["cell_type"]}
        if cell["cell_type"] == "markdown":
            # the first one's title and question already stand at the top
            source = cell["source"] if opened else notebook.opening([cell])[2]
            opened = True
            taken = frozenset(heading.anchor for heading in headings)
            rendered = markdown.page(source, taken, folder, cell.get("attachments"))
            headings += rendered.headings
            one["html"] = rendered.html
        elif cell["cell_type"] == "code":
            one["outputs"] = []
            for output in outputs.joined(cell.get("outputs", [])):
                anchor = f"figure-{len(drawn) + 1}"
                if figures.MIME in output.get("data", {}):
                    drawn[anchor] = output["data"][figures.MIME]
                one["outputs"].append(outputs.shown(output, anchor))
            one["seconds"] = _seconds(cell)
            one["failed"] = record.failed and number == record.cell and not injected
            one["pending"] = cell["metadata"].get("papermill", {}).get("status") == "pending"
        told.append(one)
    first = next((anchor for anchor, figure in drawn.items() if figure is record.figure), None)
    return Story(told, headings, drawn, first)


def filled(template: str, more: Mapping[str, Callable] | None = None, **context: object) -> str:
    """A page that is no notebook, from one of our templates; more: filters beside the shared ones."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, finalize=length.brief)
    environment.filters |= filters() | dict(more or {})
    environment.globals["plotly"] = figures.plotly
    return _readable(environment.get_template(template).render(**context))


def _readable(html: str) -> str:
    """Without NUL, which a browser would drop in silence: the sign for what cannot be shown stands in its place."""
    return html.replace("\0", "\ufffd")


def filters() -> dict:
    """What the templates share."""
    return {
        "markdown": markdown.html,
        "plain": markdown.text,
        "box": figures.box,
        "data": figures.data,
        "duration": duration,
        "day": day,
        "size": size,
        "number": number,
    }


def duration(seconds: float) -> str:
    """A run time as people say it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def number(value: object) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(count: int) -> str:
    """A number of bytes as people say it."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def day(started: str) -> str:
    """A record's date as people say it."""
    when = datetime.datetime.fromisoformat(started)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def nonce(content: object) -> str:
    """Marks our own scripts to the browser. It follows from the content, so content cannot contain it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _hollow(cell: dict, told: dict) -> dict:
    # the template gets our HTML; copying and validating megabytes of figures again would buy nothing
    kept = type(cell)({**cell, "metadata": {"lab": told}})
    if cell["cell_type"] == "code":
        kept["outputs"] = []
    return kept


def _without_large(executed: dict) -> dict:
    from nbformat.v4 import new_output

    def lighter(output: dict) -> dict:
        weight = len(json.dumps(output))
        text = f"[left out: this output has {size(weight)}]"
        return output if weight <= SMALL else new_output("stream", name="stderr", text=text)

    cells = [
        type(cell)({**cell, "outputs": [lighter(o) for o in cell["outputs"]]}) if cell["cell_type"] == "code" else cell
        for cell in executed["cells"]
    ]
    return type(executed)({**executed, "cells": cells})


def _seconds(cell: dict) -> float:
    return cell["metadata"].get("papermill", {}).get("duration") or 0.0


def _foot(executed: dict, record: Record) -> dict:
    number, timed = 0, []
    for cell in executed["cells"]:
        number += not notebook.tagged(cell, notebook.INJECTED)
        lines = [line for line in cell["source"].splitlines() if line.strip() and not line.startswith("#")]
        if cell["cell_type"] == "code" and _seconds(cell) >= 0.1:
            timed.append((_seconds(cell), number, lines[0] if lines else ""))
    rows = [
        {
            "name": name,
            "value": repr(value),
            "changed": name in record.changed,
            "default": repr(record.changed.get(name)),
        }
        for name, value in record.parameters.items()
    ]
    return {"parameters": rows, "slowest": sorted(timed, reverse=True)[:5]}


@functools.cache
def _exporter():
    from nbconvert.exporters import TemplateExporter

    class Report(TemplateExporter):
        """nbconvert's cell loop and highlighter, our template, everything escaped unless it is Markup."""

        output_mimetype = "text/html"

        def _file_extension_default(self):
            return ".html"

        def _create_environment(self):
            environment = super()._create_environment()
            environment.autoescape = True
            environment.finalize = length.brief
            environment.filters |= filters() | {"python": _highlight}
            environment.globals["plotly"] = figures.plotly
            return environment

    return Report(
        extra_template_basedirs=[str(TEMPLATES.parent)], template_name=TEMPLATES.name, template_file="report.html.j2"
    )


def _highlight(source: str) -> Markup:
    from nbconvert.filters import Highlight2HTML

    return Markup(Highlight2HTML()(source, language="ipython3"))  # noqa: S704 (pygments escapes)
