"""A notebook and the values it will run with, checked before a kernel starts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.reports import notebook, parameters
from lab.reports.kernel import Executed


@dataclass(frozen=True)
class Job:
    """A notebook and the values it will run with, all checked."""

    source: notebook.Source
    given: dict[str, object]
    name: str  # of the report's files

    @property
    def values(self) -> dict[str, object]:
        return {name: parameter.default for name, parameter in self.source.known.items()} | self.given


def prepare(path: str | Path, /, **given: object) -> Job:
    """Check everything that can be checked before a kernel starts.

    ValueError: no notebook there, not a notebook, no parameters cell, an unknown parameter, a wrong type.
    """
    source = notebook.load(path)
    job = Job(source, parameters.check(source.path.name, source.known, given), source.path.stem)
    if job.name == "index":
        raise ValueError(f"{path}: a notebook cannot be called index, the list of reports is index.html")
    return job


Finish = Callable[[Job, Executed], object]  # what is done with a job when its run has ended
