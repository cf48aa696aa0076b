"""Notebooks that the report tests run once and share: one that is well, and ways to fail."""

import contextlib
import functools
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

from lab.reports import cli, record

EVIL = "<script>alert(1)</script>"
PARAMETERS = """\
preset: str = "quick"  # smoke | quick | full
n: int = 3  # how many
rate: float = 0.5
pools: tuple[str, ...] = ("mean", "last")  # which
note: str | None = None  # free text
deep: bool = False"""


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


def text(source):
    return new_markdown_cell(source)


def write(path, *cells, parameters=PARAMETERS):
    """A notebook at `path`: a parameters cell, then these; its path."""
    opening = [code(parameters, "parameters")] if parameters is not None else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(writes(new_notebook(cells=[*opening, *cells])))
    return path


FIGURE = f"""\
import plotly.graph_objects as go
figure = go.Figure(go.Scatter(x=[0, 1, 2], y=[1, 3, n], text=["{EVIL}"] * 3, mode="lines+markers"))
figure.update_layout(title="Score by layer {EVIL}", xaxis_title="layer", yaxis_title="MRR")
figure.update_layout(meta={{"caption": "Notice the second layer."}})"""


def good(path):
    return write(
        path,
        text(f"# Where does *meaning* live? {EVIL}\n\n**Question.** Which layer? {EVIL}\n\nThe rest of the opening."),
        text(
            "## By layer\n\nThe mean is $\\bar h = \\frac{1}{T} \\sum_t h_t$ and\n\n$$a^2 + b^2 = c^2$$\n\n"
            "but `$code$` stays; broken: $x_a_b$.\n\n![remote](http://example.org/a.png) [link](http://example.org/)\n\n"
            '<iframe src="http://example.org/"></iframe>\n\n### Below\n\n## By layer'
        ),
        code(f"go_on = True\nprint('{EVIL}')\nprint('\\x1b[31mred\\x1b[0m')\nprint('10%\\r100%')"),
        code("import warnings\nwarnings.warn('only a warning')"),
        code(FIGURE + "\nfigure", "headline"),
        code("go.Figure(go.Heatmap(z=[[1, 2], [3, 4]])).update_layout(xaxis_title='pool', yaxis_title='layer')"),
        code("go.Figure(go.Scattergl(x=[0, 1], y=[1, 0], mode='markers'))"),
        code(
            f"import pandas as pd\nwide = {{f'column {{i}}': [0.5, 0.5] for i in range(12)}}\n"
            f"pd.DataFrame({{'pool': ['mean', {EVIL!r}]}} | wide)"
        ),
        code(
            f"from IPython.display import HTML, Markdown\nHTML('<b>bold</b>{EVIL}<img src=\"http://example.org/x.png\">')"
        ),
        code(
            "from IPython.display import display\n"
            "widget = {'application/vnd.jupyter.widget-view+json': {'model_id': 'x'}, 'text/plain': 'dead widget'}\n"
            "display(widget, raw=True)"
        ),
        code(
            "from pathlib import Path\nprint('running in', Path.cwd())\nimport sys\nprint('running on', sys.executable)"
        ),
        code(f"Markdown(f'The **mean** wins with n = {{n}} ($p < 0.01$). {EVIL}')", "verdict"),
    )


def raises(path):
    return write(path, text("# Raises"), code("1 / 0"), code("open('never', 'w')"))


def kills(path):
    return write(
        path, text("# Kills"), code("import os\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)"), code("1")
    )


def hangs(path):
    return write(path, text("# Hangs"), code("import time\ntime.sleep(0.1)"), code("time.sleep(600)"), code("1"))


def leaves(path):
    return write(path, text("# Leaves"), code("import sys\nsys.exit(0)"), code("1"))


@dataclass(frozen=True)
class Shelf:
    """What a `lab report` over good and failing notebooks left."""

    folder: Path
    exit_code: int
    said: str

    @property
    def out(self):
        return self.folder / "reports"

    def record(self, name):
        return record.read(self.out / f"{name}.json")

    def html(self, name):
        return (self.out / f"{name}.html").read_text()


@functools.cache
def run():
    """Run them once for all tests. The good one comes last: failures must not stop it."""
    keep = tempfile.TemporaryDirectory(prefix="lab-shelf-")
    folder = Path(keep.name)
    run.keep = keep  # lives as long as the tests
    names = [make(folder / f"{make.__name__}.ipynb").name for make in (raises, kills, leaves, good)]
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        exit_code = cli.main(["report", *names, "-p", "note", EVIL, "-p", "n", "4"])
    return Shelf(folder, exit_code, said.getvalue())
