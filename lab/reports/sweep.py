"""One notebook over a grid of parameters: a report for each cell of the grid, one table, one page."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.reports import parameters, pool, record, render
from lab.reports.job import Finish, Job, prepare
from lab.reports.runner import TIMEOUT, Place, carry_out, reports_folder

if TYPE_CHECKING:
    import pandas as pd

    from lab.reports.record import Record

FACTS = ("status", "seconds", "problem", "report")


def sweep(
    notebook: str | Path,
    grid: object,
    out: str | Path = "sweeps",
    *,
    workers: int | None = None,
    client: Any = None,
    timeout: int | float | None = TIMEOUT,
    force: bool = False,
    say: Callable[[str], object] = print,
    **given: object,
) -> "pd.DataFrame":
    """Run a notebook for every cell of a grid; the table also stands in out/<stem>/results.csv, its page beside it.

    grid: {parameter: list of values}, each value with each of the others; or a list of such, one grid after another;
        what is no list is one value. Or a yaml file of either. given: parameters that are the same everywhere.
    workers: kernels at a time, one a core up to four when not given. client: a dask client, in place of them (the
        cluster extra): then each cell of the grid is a task, and relative paths are those of the workers.
    timeout: seconds for each. force: run again what is up to date.

    One row a cell, in the grid's order: the parameters that the grid sets, what the notebook handed over by
    `lab.reports.result`, status, seconds, problem and the report's path. A cell whose report is still true is not run
    again, so that a sweep that was killed, or a grid that has grown, goes on. A kernel that dies, or a worker that
    does, costs its cell another try, and after that fails it with the reason; the other cells go on.

    ValueError before anything runs: a grid that is none, a cell that stands in it twice, an unknown parameter or a
    value of the wrong type; and as soon as it is seen, a result that has the name of another column.
    """
    jobs, swept = _jobs(Path(notebook), read(grid) if isinstance(grid, str | Path) else grid, given)
    place = Place(reports_folder(Path(out) / Path(notebook).stem))
    workers = pool.default_workers() if workers is None else workers

    def execute(todo: Sequence[Job], finish: Finish) -> None:
        if client is not None:
            pool.on_cluster(client, todo, finish, timeout=timeout)
        else:
            pool.side_by_side(todo, finish, workers=workers, timeout=timeout, tries=2)

    def write(records: list["Record"]) -> None:
        rows = table(records, swept)
        record.replace(place.folder / "results.csv", rows.to_csv(index=False))
        record.replace(place.folder / "index.html", _page(jobs[0], records, rows, len(jobs)))

    return table(carry_out(jobs, place, execute, write, force=force, say=say), swept)


def read(path: str | Path) -> object:
    """The grid in a yaml (or json) file. ValueError: no such file, or not one of ours."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no grid {path}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not yaml: {' '.join(str(error).split())}") from None


def expand(grid: object) -> list[dict[str, object]]:
    """The cells of a grid, in order: {"a": [1, 2], "b": "x"} is two. ValueError for what is no grid."""
    parts = [grid] if isinstance(grid, Mapping) else grid
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise ValueError(f"a grid is {{parameter: [values]}}, or a list of such; got {grid!r}")
    cells = []
    for part in parts:
        if not isinstance(part, Mapping) or not part or not all(isinstance(name, str) for name in part):
            raise ValueError(f"a grid is {{parameter: [values]}}, or a list of such; got {part!r}")
        if empty := [name for name, values in part.items() if values == []]:
            raise ValueError(f"the grid has no value for {', '.join(empty)}")
        values = [value if isinstance(value, list) else [value] for value in part.values()]
        cells += [dict(zip(part, chosen, strict=True)) for chosen in itertools.product(*values)]
    return cells


def _jobs(path: Path, grid: object, given: Mapping[str, object]) -> tuple[list[Job], list[str]]:
    """A checked job for each cell, named by its values; and the parameters that the grid sets."""
    known = prepare(path).source.known
    cells = expand(grid)
    swept = list(dict.fromkeys(name for cell in cells for name in cell))
    if both := sorted(set(swept) & set(given)):
        raise ValueError(f"{', '.join(both)} is in the grid, and given beside it")
    jobs: dict[str, Job] = {}
    for cell in cells:
        values = {name: _typed(path, known.get(name), value) for name, value in (cell | dict(given)).items()}
        job = prepare(path, **values)
        digest = hashlib.sha256(json.dumps(sorted((n, repr(v)) for n, v in job.values.items())).encode())
        name = f"{path.stem}-{digest.hexdigest()[:10]}"
        if name in jobs:
            raise ValueError(f"the grid has a cell twice: {cell}")
        jobs[name] = dataclasses.replace(job, name=name)
    return list(jobs.values()), swept


def _typed(path: Path, parameter: parameters.Parameter | None, value: object) -> object:
    # yaml reads 1e-3 as a word; a word is read as on the command line
    return parameters.parse(path.name, parameter, value) if parameter and isinstance(value, str) else value


def table(records: Sequence["Record"], swept: Sequence[str]) -> "pd.DataFrame":
    """One row a record: the swept parameters, the results, then the facts. ValueError where two have one name."""
    import pandas as pd

    results = list(dict.fromkeys(name for one in records for name in one.results))
    if twice := sorted({*swept, *FACTS} & set(results)):
        raise ValueError(f"a result has the name of another column, {', '.join(twice)}: call it something else")
    rows = [
        {name: _cell(one.parameters[name]) for name in swept}
        | {name: one.results.get(name) for name in results}
        | dict(
            zip(FACTS, (one.status, one.seconds, one.problem if one.failed else "", f"{one.name}.html"), strict=True)
        )
        for one in records
    ]
    return pd.DataFrame(rows, columns=[*swept, *results, *FACTS])


def _cell(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _page(job: Job, records: Sequence["Record"], rows: "pd.DataFrame", planned: int) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(render.TEMPLATES), autoescape=True)
    environment.filters |= render.filters()
    names = [name for name in rows.columns if name not in FACTS]
    facts = [dict(zip(rows.columns, row, strict=True)) for row in rows.astype(object).where(rows.notna(), "").values]
    content = {"title": job.source.title, "question": job.source.question, "names": names, "rows": facts}
    return environment.get_template("sweep.html.j2").render(
        **content, planned=planned, failed=sum(one.failed for one in records), nonce=render.nonce(content), figures={}
    )


def cluster(stack: ExitStack, scheduler: str | None, workers: int) -> Any:
    """A dask client of a scheduler, or of a LocalCluster of its own; both close with the stack.

    Ours hands back at once what a dying worker had: pool.on_cluster tries it again by itself. ValueError: no dask here,
    no scheduler there.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("sweeps on a cluster need dask: pip install '.[cluster]'") from None
    if scheduler is None:
        own = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        scheduler = stack.enter_context(LocalCluster(**own, scheduler_kwargs={"allowed_failures": 0}))
    try:
        return stack.enter_context(Client(scheduler, timeout="20s"))
    except (OSError, ValueError) as error:
        raise ValueError(f"no dask scheduler answers at {scheduler}: {error}") from error
