"""Run notebooks, render what they found, list it: one HTML file each, and one index.

    lab.reports.run("notebooks/tour.ipynb", "reports/", preset="quick")  -> Record
    lab report tour -p n 500                                             the same from a shell
    lab.reports.sweep("notebooks/tour.ipynb", {"n": [100, 500]})         over a grid: one table, one page

What a notebook does to become a good report:

- its first markdown cell starts with `# Title` and holds a paragraph that starts with `**Question.**`;
- a cell tagged `parameters` holds lines `name: type = default  # help`; these are its interface, and
  `preset: str = "quick"  # smoke | quick | full` is among them;
- the first figure of the cell tagged `headline` stands on the first screen;
- the cell tagged `verdict` ends in a `text/markdown` output, computed from the numbers; it stands beside it;
- figures are plotly, left to its default renderer; `figure.layout.meta = {"caption": "..."}` is shown below one;
- `lab.reports.result(mrr=0.71)` as the last expression of a cell hands numbers over to its record and a sweep's table;
- a widget stands beside a static figure: without a kernel a widget is dead, so reports leave it out.

A notebook without a headline shows its first figure, one without a verdict says so.

The kernel is the Python that runs `lab`, with its environment; the working directory is the folder where
the command was given, so relative paths in parameters mean what they mean in that shell. Each notebook has a
fresh kernel, one deadline for all its cells, and leaves out/<stem>.ipynb, .html and .json whatever happens.

Two runs are laid side by side by `lab report --compare a b`; `lab docs` writes the reference of the package beside the
reports; `questions`, `uses` and `Form` are the start page.

Reading order: parameters, notebook, kernel, job, pool, record, runner, sweep; then markdown, rounding, figures, result,
outputs, render, thumbnail, index, compare; then docstring, reference; start, form; machine, doctor, cli.
"""

from lab.reports.form import Form
from lab.reports.job import Job, prepare
from lab.reports.record import Record
from lab.reports.result import result
from lab.reports.runner import run, run_all
from lab.reports.start import contents, questions, uses
from lab.reports.sweep import sweep

__all__ = [
    "Form",
    "Job",
    "Record",
    "contents",
    "prepare",
    "questions",
    "result",
    "run",
    "run_all",
    "sweep",
    "uses",
]
