"""Check a notebook's parameters, run it, leave its report; several of them, with resume."""

import datetime
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.reports import index, kernel, machine, notebook, outputs, parameters, record, render
from lab.reports.record import Record

LIMIT = 12_000_000  # bytes; a report above this is failed: nobody mails it, phones do not open it
TIMEOUT = 3600.0  # seconds for one notebook


@dataclass(frozen=True)
class Job:
    """A notebook and the values it will run with, all checked."""

    source: notebook.Source
    given: dict[str, object]

    @property
    def name(self) -> str:
        return self.source.path.stem

    @property
    def values(self) -> dict[str, object]:
        return {name: parameter.default for name, parameter in self.source.known.items()} | self.given


def prepare(path: str | Path, /, **given: object) -> Job:
    """Check everything that can be checked before a kernel starts.

    ValueError: no notebook there, not a notebook, no parameters cell, an unknown parameter, a wrong type.
    """
    source = notebook.load(path)
    job = Job(source, parameters.check(source.path.name, source.known, given))
    if job.name == "index":
        raise ValueError(f"{path}: a notebook cannot be called index, the list of reports is index.html")
    return job


def run(
    notebook: str | Path,
    out: str | Path = "reports",
    *,
    timeout: int | float | None = TIMEOUT,
    see: Callable[[int, int], object] | None = None,
    **parameters: object,
) -> Record:
    """Run one notebook in a fresh kernel and leave out/<stem>.ipynb, .html, .json and out/index.html.

    timeout: seconds for the whole notebook, None = no limit. see(n, of): called when n of its cells are done.
    ValueError before any kernel starts if the
    notebook or a parameter is not right; whatever happens after that is told by the record.
    """
    job = prepare(notebook, **parameters)
    return _carry_out(job, _folder(out), timeout, machine.versions(), machine.device(), see)


def run_all(
    jobs: Sequence[Job],
    out: str | Path = "reports",
    *,
    timeout: int | float | None = TIMEOUT,
    force: bool = False,
    say: Callable[[str], object] = print,
) -> list[Record]:
    """Run the jobs in order; a failed one does not stop the others. The records, in the same order.

    A job whose finished report is still true (same key) is skipped, unless force; a failed one runs again.
    So a run that was killed carries on where it stopped. ValueError: two notebooks of one name.
    """
    names = [job.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two notebooks would write the same report: {', '.join(twice)}")
    folder, versions, device = _folder(out), machine.versions(), machine.device()
    records = []
    for job in jobs:
        done = None if force else _still_true(job, folder, versions, device)
        if done:
            say(f"up to date: {done.name}")
        else:
            done = _carry_out(job, folder, timeout, versions, device)
            what = f"{done.name} in {render.duration(done.seconds)}, {render.size(done.bytes)}"
            say(f"{done.status}: {what}" + (f"; {done.problem}" if done.failed else ""))
        records.append(done)
    index.write(folder)
    return records


def _folder(out: str | Path) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{folder} is a file; reports need a folder") from None
    return folder


def _still_true(job: Job, folder: Path, versions: Mapping[str, str], device: str) -> Record | None:
    found = record.read(folder / f"{job.name}.json")
    if found is None or found.failed or found.key != record.key(job.source.sha256, job.values, versions, device):
        return None
    whole = all((folder / f"{job.name}{suffix}").is_file() for suffix in (".html", ".ipynb"))
    return found if whole else None


def _carry_out(
    job: Job,
    folder: Path,
    timeout: int | float | None,
    versions: dict[str, str],
    device: str,
    see: Callable[[int, int], object] | None = None,
) -> Record:
    import nbformat

    started = datetime.datetime.now(datetime.UTC)
    bar = job.name if sys.stderr.isatty() else None  # in a log, the lines of run_all are enough
    executed = kernel.execute(job.source.node, job.given, timeout=timeout, label=bar, see=see)
    cells, failure, known = executed.notebook["cells"], executed.failure, job.source.known
    done = Record(
        name=job.name,
        title=job.source.title,
        question=job.source.question,
        verdict=outputs.verdict(cells),
        figure=outputs.headline(cells),
        status="failed" if failure else "done",
        cell=None if failure is None or failure.index is None else _in_source(cells, failure.index),
        error=failure.error if failure else "",
        reason=failure.reason if failure else "",
        parameters=_plain(job.values),
        changed=_plain({n: default for n, value in job.given.items() if value != (default := known[n].default)}),
        data=executed.data,
        versions=versions,
        device=device,
        started=started.isoformat(timespec="seconds"),
        seconds=round(executed.seconds, 3),
        source=job.source.path.name,
        sha256=job.source.sha256,
        key=record.key(job.source.sha256, job.values, versions, device),
        bytes=0,
    )
    done, page = render.within(LIMIT, executed.notebook, done, job.source.path.parent)
    # the record goes last: a run killed between these lines has no record of success and runs again
    record.replace(folder / f"{job.name}.ipynb", nbformat.writes(_marked(executed.notebook, done)))
    record.replace(folder / f"{job.name}.html", page)
    record.write(done, folder / f"{job.name}.json")
    index.write(folder)
    if done.error == "KeyboardInterrupt":
        raise KeyboardInterrupt
    return done


def _plain(values: dict[str, object]) -> dict:
    # as they come back from the file: tuples are lists there
    return json.loads(json.dumps(values))


def _in_source(cells: Sequence[dict], position: int) -> int:
    # papermill's injected cell is not in the source notebook
    before = cells[: position + 1]
    return len([cell for cell in before if not notebook.tagged(cell, notebook.INJECTED)])


def _marked(executed: dict, done: Record) -> dict:
    """The executed notebook; a failed one says so at its top, under the tag that papermill removes."""
    from nbformat.v4 import new_markdown_cell

    if done.failed:
        text = f"**This run failed.** {done.problem}".replace("<", "&lt;")
        marker = new_markdown_cell(text, metadata={"tags": [notebook.MARKER]})
        executed["cells"] = [marker, *executed["cells"]]
    return executed
