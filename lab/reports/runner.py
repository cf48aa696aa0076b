"""Run a notebook, leave its report; several of them, side by side and with resume."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.reports import index, kernel, machine, notebook, outputs, pool, record, render
from lab.reports.job import Finish, Job, prepare
from lab.reports.record import Record

LIMIT = 12_000_000  # bytes; a report above this is failed: nobody mails it, phones do not open it
TIMEOUT = 3600.0  # seconds for one notebook


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
    ValueError before any kernel starts if the notebook or a parameter is not right; whatever happens after that is
    told by the record.
    """
    job, place = prepare(notebook, **parameters), Place(reports_folder(out))
    bar = job.name if sys.stderr.isatty() else None
    executed = kernel.execute(job.source.node, job.given, timeout=timeout, label=bar, see=see)
    done = keep(job, executed, place)
    index.write(place.folder)
    if done.error == "KeyboardInterrupt":
        raise KeyboardInterrupt
    return done


def run_all(
    jobs: Sequence[Job],
    out: str | Path = "reports",
    *,
    timeout: int | float | None = TIMEOUT,
    force: bool = False,
    workers: int = 1,
    say: Callable[[str], object] = print,
) -> list[Record]:
    """Run the jobs, `workers` of them at a time; a failed one does not stop the others. The records, in their order.

    A job whose finished report is still true (same key) is skipped, unless force; a failed one runs again. So a run
    that was killed carries on where it stopped. A notebook that asks to be alone (it measures time), by
    "lab": {"alone": true} in its metadata, runs after the others, by itself.
    ValueError: two notebooks of one name, fewer than one worker.
    """
    place = Place(reports_folder(out))

    def execute(todo: Sequence[Job], finish: Finish) -> None:
        together = [job for job in todo if not job.source.alone]
        pool.side_by_side(together, finish, workers=workers, timeout=timeout)
        pool.side_by_side([job for job in todo if job.source.alone], finish, workers=1, timeout=timeout)

    return carry_out(jobs, place, execute, lambda _: index.write(place.folder), force=force, say=say)


def carry_out(
    jobs: Sequence[Job],
    place: "Place",
    execute: Callable[[Sequence[Job], Finish], object],
    write: Callable[[list[Record]], object],
    *,
    force: bool,
    say: Callable[[str], object],
) -> list[Record]:
    """Have the jobs executed whose reports are not true any more; write(records so far) after each, and at the end."""
    names = [job.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two notebooks would write the same report: {', '.join(twice)}")
    there = {job.name: found for job in jobs if not force and (found := _still_true(job, place))}
    for name in there:
        say(f"up to date: {name}")

    def finish(job: Job, executed: kernel.Executed) -> None:
        done = there[job.name] = keep(job, executed, place)
        write([there[name] for name in names if name in there])
        what = f"{done.name} in {render.duration(done.seconds)}, {render.size(done.bytes)}"
        say(f"{done.status}: {what}" + (f"; {done.problem}" if done.failed else ""))

    execute([job for job in jobs if job.name not in there], finish)
    records = [there[name] for name in names]
    write(records)
    return records


@dataclass(frozen=True)
class Place:
    """Where reports go, and what they were made with."""

    folder: Path
    versions: dict[str, str] = field(default_factory=machine.versions)
    device: str = field(default_factory=machine.device)


def reports_folder(out: str | Path) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{folder} is a file; reports need a folder") from None
    return folder


def _still_true(job: Job, place: Place) -> Record | None:
    found = record.read(place.folder / f"{job.name}.json")
    key = record.key(job.source.sha256, job.values, place.versions, place.device)
    if found is None or found.failed or found.key != key:
        return None
    whole = all((place.folder / f"{job.name}{suffix}").is_file() for suffix in (".html", ".ipynb"))
    return found if whole else None


def keep(job: Job, executed: kernel.Executed, place: Place) -> Record:
    """Leave the notebook, the page and the record of a run, whole or partial."""
    import nbformat

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
        results=outputs.results(cells),
        data=executed.data,
        versions=place.versions,
        device=place.device,
        started=executed.started.isoformat(timespec="seconds"),
        seconds=round(executed.seconds, 3),
        beside=executed.beside,
        source=job.source.path.name,
        sha256=job.source.sha256,
        key=record.key(job.source.sha256, job.values, place.versions, place.device),
        bytes=0,
    )
    done, page = render.within(LIMIT, executed.notebook, done, job.source.path.parent)
    # the record goes last: a run killed between these lines has no record of success and runs again
    record.replace(place.folder / f"{job.name}.ipynb", nbformat.writes(_marked(executed.notebook, done)))
    record.replace(place.folder / f"{job.name}.html", page)
    record.write(done, place.folder / f"{job.name}.json")
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
