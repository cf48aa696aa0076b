"""A notebook's parameters as a form: choose, fill in, run in the background, open the report.

The run is the one of `lab report`: the same check of the values, the same papermill run in a fresh kernel, the same
files, in a process of its own that ends with the kernel of the form. A report has no kernel, and shows a table instead.
"""

import contextlib
import html
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from urllib.parse import quote

from lab.reports import markdown, notebook, parameters, record, render, start
from lab.reports.record import Record

# a shell has what it starts in the background ignore interrupts, and so would this: Stop is one
WORK = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from lab.reports.form import work; work()"
)


class Form:
    """Controls for the parameters of the notebooks of a folder, with Run and Stop; displayed by being a cell's value.

    notebooks, out: folders, as in `lab.reports.questions`. `chosen` names the notebook, `values()` is what its
    controls say, `start()` and `stop()` are the buttons, `wait()` gives the record of the run. What does not fit a
    parameter's type is said below the form, and nothing starts. ValueError: a folder without notebooks.
    """

    def __init__(self, notebooks: str | Path = "", out: str | Path = "") -> None:
        import ipywidgets as widgets

        self.folder = start.folder(notebooks)
        self.out = Path(out).resolve() if out else self.folder.parent / "reports"
        found = [path for path in sorted(self.folder.glob("*.ipynb")) if path.stem != start.START]
        self.sources = {path.stem: notebook.load(path) for path in found}
        titles = [(f"{name}: {markdown.text(source.title)}", name) for name, source in self.sources.items()]
        broad = widgets.Layout(width="46rem")
        self.choice = widgets.Dropdown(options=titles, description="notebook", layout=broad)
        self.question = widgets.HTML(layout=broad)
        self.fields = widgets.VBox()
        self.run_button = widgets.Button(description="Run", button_style="primary", icon="play")
        self.stop_button = widgets.Button(description="Stop", disabled=True, icon="stop")
        self.progress = widgets.IntProgress(min=0, max=1, description="", layout=widgets.Layout(visibility="hidden"))
        self.said = widgets.HTML(layout=broad)
        buttons = widgets.HBox([self.run_button, self.stop_button, self.progress])
        self.view = widgets.VBox([self.choice, self.question, self.fields, buttons, self.said])
        self.controls: dict[str, widgets.Widget] = {}
        self.record: Record | None = None
        self._process: subprocess.Popen | None = None
        self._reader: threading.Thread | None = None
        self.choice.observe(lambda _: self._lay_out(), "value")
        self.run_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self._lay_out()

    def _repr_mimebundle_(self, **kwargs: object) -> object:
        if start.live():
            return self.view._repr_mimebundle_(**kwargs)
        table = self.table()
        return {"text/html": table.to_html(), "text/plain": table.to_string()}

    def table(self):
        """The parameters of all notebooks as they stand, a pandas table: what a report shows in the form's place."""
        import pandas as pd

        known = [(name, one) for name, source in self.sources.items() for one in source.known.values()]
        rows = [{"type": one.type, "default": as_text(one.default), "help": one.help} for _, one in known]
        return pd.DataFrame(
            rows, pd.MultiIndex.from_tuples([(n, p.name) for n, p in known], names=["notebook", "parameter"])
        )

    @property
    def chosen(self) -> str:
        """The name of the notebook that the form shows."""
        return self.choice.value

    @chosen.setter
    def chosen(self, name: str) -> None:
        if name not in self.sources:
            raise ValueError(f"there is no notebook {name!r}; there are {list(self.sources)}")
        self.choice.value = name

    def values(self) -> dict[str, object]:
        """What the controls say, by parameter. ValueError: one of them does not fit its type."""
        known, path = self.sources[self.chosen].known, self.sources[self.chosen].path
        given = {
            name: parameters.parse(path.name, known[name], control.value)
            if isinstance(control.value, str)
            else control.value
            for name, control in self.controls.items()
        }
        return parameters.check(path.name, known, given)

    def start(self) -> None:
        """Begin the run; a value that does not fit is said instead, and so is a run that is still going."""
        if self.running:
            self._say("A run is going; stop it first, or wait.")
            return
        try:
            values = self.values()
        except ValueError as error:
            self._say(str(error), bad=True)
            return
        source = self.sources[self.chosen]
        asked = {name: value for name, value in values.items() if value != source.known[name].default}
        self.record = None
        self._begin({"notebook": str(source.path), "out": str(self.out), "parameters": asked})

    def stop(self) -> None:
        """Stop the run as Ctrl-C would: its report keeps the part it got through."""
        if self.running:
            _end(self._process, signal.SIGINT)

    def wait(self, timeout: float | int | None = None) -> Record | None:
        """The record of the run once it is over; None where none began, or it is not over within `timeout` seconds."""
        if self._reader is not None:
            self._reader.join(timeout)
        return self.record

    @property
    def running(self) -> bool:
        """Whether a run of this form is going."""
        return self._reader is not None and self._reader.is_alive()

    def _lay_out(self) -> None:
        """The controls of the chosen notebook."""
        import ipywidgets as widgets

        source = self.sources[self.chosen]
        self.question.value = f"<p>{html.escape(' '.join(markdown.text(source.question).split()))}</p>"
        self.controls, rows = {}, []
        for name, known in source.known.items():
            self.controls[name] = control = _control(known)
            told = widgets.HTML(f"<span style='opacity:.75'>{html.escape(known.help)}</span>")
            rows.append(widgets.HBox([control, told]))
        self.fields.children = rows

    def _begin(self, job: dict) -> None:
        errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115 (the reader closes it)
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own line)
            [sys.executable, "-c", WORK],
            cwd=self.folder.parent,  # where `lab report` is given, so that relative paths mean the same
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # interrupting a cell of this notebook is not meant for the run
        )
        weakref.finalize(self, _end, self._process, signal.SIGKILL)
        self._process.stdin.write(json.dumps(job))
        self._process.stdin.close()
        self.run_button.disabled, self.stop_button.disabled = True, False
        self.progress.value, self.progress.layout.visibility = 0, "visible"
        self._say(f"{self.chosen} is running.")
        self._reader = threading.Thread(target=self._follow, args=(self._process, errors), daemon=True)
        self._reader.start()

    def _follow(self, process: subprocess.Popen, errors) -> None:
        """Show what the run says, line by line, until it ends."""
        with process, errors:
            for line in process.stdout:
                told = json.loads(line)
                if "of" in told:
                    self.progress.max, self.progress.value = told["of"], told["done"]
                    self.progress.description = f"{told['done']}/{told['of']}"
                else:
                    self.record = record.read(Path(told["record"]))
            process.wait()
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no reason was given"])[-1]
        self._over(last)

    def _over(self, last: str) -> None:
        self.run_button.disabled, self.stop_button.disabled = False, True
        self.progress.layout.visibility = "hidden"
        if self.record is None:
            self._say(f"The run ended without a report: {last}", bad=True)
            return
        page = self.out / f"{self.record.name}.html"
        style = "text-decoration:underline"
        link = f'<a href="{html.escape(address(page))}" target="_blank" style="{style}">Open the report</a>'
        if self.record.failed:
            self._say(f"Failed: {self.record.problem}", bad=True, more=link)
        else:
            self._say(f"Done in {render.duration(self.record.seconds)}.", more=link)

    def _say(self, words: str, *, bad: bool = False, more: str = "") -> None:
        colour = "color:color-mix(in srgb, var(--jp-error-color1, #d33) 70%, currentColor)" if bad else ""
        self.said.value = f"<p style='white-space:pre-wrap;{colour}'>{html.escape(words)} {more}</p>"


def work() -> None:
    """The process of a run: a job on stdin, lines of progress on stdout, then the place of the record."""
    from lab.reports.runner import run

    # whatever else is printed, by the kernel too, must not come between the lines
    with os.fdopen(os.dup(1), "w", buffering=1) as told:
        os.dup2(2, 1)
        job = json.load(sys.stdin)
        place = Path(job["out"]) / f"{Path(job['notebook']).stem}.json"

        def see(done: int, of: int) -> None:
            told.write(json.dumps({"done": done, "of": of}) + "\n")

        with contextlib.suppress(KeyboardInterrupt):  # its report says so
            run(job["notebook"], job["out"], see=see, **job["parameters"])
        if place.is_file():
            told.write(json.dumps({"record": str(place)}) + "\n")


def address(page: Path) -> str:
    """Where a browser finds a file: through the Jupyter server that started this kernel, else on disk."""
    server = _server()
    if server and page.is_relative_to(server["root_dir"]):
        return f"{server['url']}files/{quote(page.relative_to(server['root_dir']).as_posix())}"
    return page.as_uri()


def _server() -> dict | None:
    """What the server that is this kernel's parent wrote down about itself; None outside one."""
    from ipykernel.connect import get_connection_file

    try:
        written = Path(get_connection_file()).parent / f"jpserver-{os.getppid()}.json"
        return json.loads(written.read_text(encoding="utf-8"))
    except (RuntimeError, OSError, ValueError):  # no kernel, or one that no server started
        return None


def _control(known: parameters.Parameter):
    """The widget for one parameter; whatever is neither a preset nor yes or no is text, read as the type says."""
    import ipywidgets as widgets

    wide = {"style": {"description_width": "8rem"}, "layout": widgets.Layout(width="24rem")}
    if known.name == "preset":
        return widgets.Dropdown(options=parameters.PRESETS, value=known.default, description=known.name, **wide)
    if known.type == "bool":
        return widgets.Checkbox(value=known.default, description=known.name, **wide)
    return widgets.Text(value=as_text(known.default), description=known.name, continuous_update=False, **wide)


def as_text(value: object) -> str:
    """A value as one would type it on the command line; `lab.reports.parameters.parse` reads it back."""
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    return "none" if value is None else str(value)


def _end(process: subprocess.Popen, how: int) -> None:
    """Signal the run; the kernel that it started looks for its parent and leaves."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, how)
