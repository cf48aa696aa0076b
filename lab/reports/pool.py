"""Notebooks side by side: each runs in a kernel, a process of its own, and what ends in one is lost in one."""

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from typing import Any

from lab.reports import kernel, machine
from lab.reports.job import Finish, Job
from lab.reports.kernel import Executed, Failure, Stop

WORKERS = 4  # each holds a copy of torch and of a model


def default_workers() -> int:
    """One kernel a core, up to four."""
    return min(WORKERS, machine.threads())


def side_by_side(
    jobs: Sequence[Job],
    finish: Finish,
    *,
    workers: int,
    timeout: int | float | None,
    tries: int = 1,
) -> None:
    """Execute the jobs, `workers` of them at once, and call finish(job, executed) here as each ends.

    Each kernel gets its share of the cores, unless OMP_NUM_THREADS says otherwise; a single worker's gets them all.
    The threads of this process only wait for their kernels. A KeyboardInterrupt stops all kernels, finishes the jobs
    that had begun, as stopped by hand, and is raised again. ValueError for fewer than one worker.
    """
    if workers < 1:
        raise ValueError(f"needed is one worker or more; got {workers}")
    workers = min(workers, max(1, len(jobs)))
    stop = Stop()
    options = {"timeout": timeout, "tries": tries, "stop": stop}
    if workers > 1:
        options["threads"] = max(1, machine.threads() // workers)
    bars = workers == 1 and sys.stderr.isatty()  # in a log, or side by side, a line for each is enough
    with ThreadPoolExecutor(workers) as executor:
        futures = {
            executor.submit(
                _execute, job.source.node, job.given, label=job.name if bars else None, **options
            ): job
            for job in jobs
        }  # fmt: skip
        _collect(futures, lambda job, run: finish(job, dataclasses.replace(run, beside=workers - 1)), stop, lost=())


def on_cluster(client: Any, jobs: Sequence[Job], finish: Finish, *, timeout: int | float | None) -> None:
    """The same on the workers of a dask client, wherever they are: each task runs a kernel beside its worker.

    A worker that dies takes with it what it was running and what was waiting there, and dask cannot say which of them
    killed it. So what was lost so (more often than the scheduler's `allowed-failures` allows) is tried once more when
    all else has ended, one after another, where nobody else's death can count: what is lost again has failed, with that
    for its reason.
    """
    from distributed import KilledWorker

    again: list[Job] = []

    def keep(job: Job, run: Executed) -> None:
        if run.failure is not None and run.failure.error == KilledWorker.__name__:
            again.append(job)
        else:
            finish(job, run)

    with client.get_executor(pure=False) as executor:

        def collect(some: Sequence[Job], finish: Finish) -> None:
            futures = {
                executor.submit(_execute, job.source.node, job.given, timeout=timeout, tries=2): job for job in some
            }
            _collect(futures, finish, lambda: None, lost=(KilledWorker,))

        collect(jobs, keep)
        for job in again:
            collect([job], finish)


def _execute(node: dict, given: dict, **options: Any) -> Executed:
    """In a thread of its own, whose event loop ends with it."""
    try:
        return kernel.execute(node, given, **options)
    finally:
        with contextlib.suppress(RuntimeError):  # a run that did not come to a loop has none to close
            asyncio.get_event_loop().close()


def _collect(waiting: dict[Future, Job], finish: Finish, stop: Callable, lost: tuple[type[BaseException], ...]) -> None:
    try:
        for future in as_completed(list(waiting)):
            finish(waiting[future], _outcome(future, waiting[future], lost))
            del waiting[future]
    except BaseException as error:
        begun = [future for future in waiting if not future.cancel()]
        stop()
        if isinstance(error, KeyboardInterrupt):
            for future in begun:
                finish(waiting[future], _outcome(future, waiting[future], lost))
        raise


def _outcome(future: Future, job: Job, lost: tuple[type[BaseException], ...]) -> Executed:
    try:
        return future.result()
    except (CancelledError, *lost) as error:
        reason = f"the worker was lost, and those that took the work over: {error}"
        return kernel.unfinished(job.source.node, Failure(None, type(error).__name__, reason))
