"""What the widgets share: a page script of our own, work beside the kernel's thread, and a figure for reports."""

import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import anywidget
import numpy as np
import plotly.graph_objects as go
import traitlets

FIGURE = "application/vnd.plotly.v1+json"


def script(*names: str) -> str:
    """Files of lab/widgets/page as one module: widgets load from the kernel, and a module of theirs cannot import."""
    return "\n".join(_page(f"{name}.js") for name in ("dom", *names))


def style() -> str:
    return _page("style.css")


def _page(name: str) -> str:
    return files("lab.widgets").joinpath("page", name).read_text(encoding="utf-8")


class Live(anywidget.AnyWidget):
    """A widget that answers what its page asks, and says in its message what went wrong instead of dying of it.

    answers: {what the page asks: the method that gives the answer, called with the question and its buffers}. Each kind
    of question has a thread of its own, where questions keep their order: hovering goes on while a map is made, and the
    kernel's own thread stays free. It waits for those in `alone`, which run a model: two threads must not do that at
    once, and a cell may be about to. `figure` is what a report shows in its place.
    """

    message = traitlets.Unicode("").tag(sync=True)
    busy = traitlets.Unicode("").tag(sync=True)
    alone: frozenset[str] = frozenset()

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._lines: dict[str, ThreadPoolExecutor] = {}
        self._jobs: list[Future] = []
        self._lock = threading.Lock()
        self.on_msg(self._heard)

    def figure(self) -> go.Figure:
        """The same as a figure that needs no kernel."""
        raise NotImplementedError

    def answers(self) -> dict[str, Callable[..., None]]:
        """What the page may ask, and who answers."""
        raise NotImplementedError

    def _heard(self, _: Any, asked: dict[str, Any], buffers: list[memoryview]) -> None:
        known = self.answers()
        if (name := asked.get("ask")) in known:
            job = self.later(name, known[name], asked, buffers)
            if name in self.alone:
                job.exception()
        else:
            self.message = f"the page asks for {plain(name)}, which is not known here; reload it"

    def later(self, line: str, work: Callable[..., None], *given: Any) -> Future:
        """The work in the thread of this line; what it raises becomes the message."""
        if line not in self._lines:
            self._lines[line] = ThreadPoolExecutor(1, thread_name_prefix=f"lab {line}")
        job = self._lines[line].submit(work, *given)
        with self._lock:
            self._jobs = [other for other in self._jobs if not other.done()] + [job]
        job.add_done_callback(self._told)
        return job

    def _told(self, job: Future) -> None:
        if not job.cancelled() and (error := job.exception()) is not None:
            self.busy, self.message = "", plain(f"{type(error).__name__}: {error}", most=600)

    def settle(self, timeout: float | int = 600) -> None:
        """Wait until all that was asked so far is answered; TimeoutError after so many seconds."""
        while left := [job for job in self._jobs if not job.done()]:
            left[0].exception(timeout)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        """The widget for a page with a kernel, the figure for one without."""
        data, about = super()._repr_mimebundle_(**kwargs)
        return data | {FIGURE: json.loads(self.figure().to_json())}, about

    def __repr__(self) -> str:
        return f"{type(self).__name__}: a widget of lab; a figure stands in its place where there is no kernel"


# what a page would not show, or what turns the direction of all that follows
UNSEEN = {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {9, 10, 13}
CONTROL = {code: f"[U+{code:04X}]" for code in UNSEEN}


def plain(value: object, most: int = 300) -> str:
    """Any value as text that a page can hold: cut, control characters made visible, half characters replaced."""
    whole = (
        value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
    )
    text = whole[:most].translate(CONTROL).encode("utf-8", "replace").decode("utf-8")
    return text if len(whole) <= most else f"{text} …"


def finite(value: object) -> Any:
    """Numbers as JSON has them, so nested lists and arrays too: what is not finite is None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None
