"""The command line: `lab report`, `lab sweep`, `lab list`, `lab docs`, `lab doctor`."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lab.reports import compare, doctor, notebook, parameters, pool
from lab.reports.runner import TIMEOUT, prepare, run_all
from lab.reports.sweep import cluster, expand, read, sweep

FOLDER = Path("notebooks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all well; 1: a notebook failed, or the doctor found something broken; 2: the command is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except ValueError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlab: stopped by hand; the same command carries on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="Run notebooks into offline reports.")
    commands = parser.add_subparsers(required=True, metavar="command")

    report = commands.add_parser("report", help="run notebooks, leave one HTML file each and an index")
    report.add_argument("notebooks", nargs="*", metavar="notebook", help="a file, or a name in notebooks/; none = all")
    report.add_argument("--out", type=Path, default=Path("reports"), help="folder of the reports (reports)")
    report.add_argument("--compare", nargs=2, metavar=("A", "B"), help="lay two runs side by side: folders or reports")
    report.set_defaults(command=_report)

    grid = commands.add_parser("sweep", help="run one notebook over a grid of parameters: one table, one page")
    grid.add_argument("notebook", help="a file, or a name in notebooks/")
    grid.add_argument("grid", type=Path, help="yaml: parameter -> list of values, or a list of such")
    grid.add_argument("--out", type=Path, default=Path("sweeps"), help="folder of the sweeps (sweeps)")
    grid.add_argument("--scheduler", metavar="ADDRESS", help="a dask scheduler, tcp://host:port, to run on")
    grid.add_argument("--cluster", action="store_true", help="run on a dask cluster of this machine")
    grid.set_defaults(command=_sweep)

    for one in (report, grid):
        one.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
        one.add_argument("--preset", choices=parameters.PRESETS, help="how much to compute (quick)")
        one.add_argument(
            "--timeout", type=float, default=TIMEOUT, help=f"seconds per notebook, 0 = no limit ({TIMEOUT:.0f})"
        )
        one.add_argument(
            "--workers", type=int, default=pool.default_workers(), help="notebooks at a time (a core each, up to four)"
        )
        one.add_argument("--force", action="store_true", help="run again even what is up to date")

    listing = commands.add_parser("list", help="the notebooks, their questions and parameters")
    listing.add_argument("notebooks", nargs="*", metavar="notebook")
    listing.set_defaults(command=_list)

    docs = commands.add_parser("docs", help="write the reference beside the reports: one folder, a site")
    docs.add_argument("--out", type=Path, default=Path("reports"), help="folder of the reports (reports)")
    docs.set_defaults(command=_docs)

    commands.add_parser("doctor", help="versions, devices, bundled model, caches, what is missing").set_defaults(
        command=lambda _: doctor.examine()
    )
    return parser


def _report(options: argparse.Namespace) -> int:
    if options.compare:
        if options.notebooks or options.p or options.preset:
            raise ValueError("--compare looks at runs that are there; it takes no notebook, parameter or preset")
        print(compare.write(*options.compare, options.out).resolve())
        return 0
    given = _given(options)
    # every notebook is checked before the first kernel starts
    jobs = [prepare(path, **_values(path, given)) for path in _found(options.notebooks)]
    records = run_all(
        jobs, options.out, timeout=options.timeout or None, force=options.force, workers=options.workers, say=_say
    )
    print((options.out / "index.html").resolve())
    return 1 if any(record.failed for record in records) else 0


def _sweep(options: argparse.Namespace) -> int:
    given = _given(options)
    (path,) = _found([options.notebook])
    if options.scheduler and options.cluster:
        raise ValueError("--scheduler names a cluster that is there, --cluster starts one: give one of them")
    grid, values = read(options.grid), _values(path, given)
    if "preset" not in given and any("preset" in cell for cell in expand(grid)):
        del values["preset"]
    with ExitStack() as stack:
        client = None
        if options.scheduler or options.cluster:
            client = cluster(stack, options.scheduler, options.workers)
        found = sweep(
            path, grid, options.out, workers=options.workers, client=client,
            timeout=options.timeout or None, force=options.force, say=_say, **values,
        )  # fmt: skip
    print((options.out / path.stem / "index.html").resolve())
    return 1 if (found.status != "done").any() else 0


def _given(options: argparse.Namespace) -> dict[str, str]:
    """What a command line sets, as it stands there. ValueError: twice, or times and workers that are none."""
    if options.timeout < 0:
        raise ValueError(f"--timeout: expected seconds, or 0 for no limit, got {options.timeout:g}")
    if options.workers < 1:
        raise ValueError(f"--workers: expected one or more, got {options.workers}")
    given: dict[str, str] = {}
    for name, text in options.p + ([("preset", options.preset)] if options.preset else []):
        if given.setdefault(name, text) != text:
            raise ValueError(f"parameter {name!r} is given twice: {given[name]!r} and {text!r}")
    return given


def _docs(options: argparse.Namespace) -> int:
    from lab.reports import reference  # it imports every room

    print(reference.write(options.out).resolve())
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _values(path: Path, texts: dict[str, str]) -> dict[str, object]:
    """The texts as the notebook's types want them; an unknown name stays, for `prepare` to refuse in its own words."""
    known = notebook.load(path).known
    values: dict[str, object] = {"preset": "quick"} if "preset" in known else {}
    return values | {
        name: parameters.parse(path.name, known[name], text) if name in known else text for name, text in texts.items()
    }


def _found(names: Sequence[str]) -> list[Path]:
    """The notebooks that the words of a command line name. ValueError: there is none of that name."""
    there = sorted(FOLDER.glob("*.ipynb"))
    if not names:
        if not there:
            raise ValueError(f"there is no notebook in {FOLDER.resolve()}; name one, or go to the repository's folder")
        return there
    paths = []
    for name in names:
        path = next((p for p in (Path(name), FOLDER / f"{name}.ipynb", FOLDER / name) if p.is_file()), None)
        if path is None:
            known = ", ".join(p.stem for p in there) or "none"
            raise ValueError(f"there is no notebook {name!r}; in {FOLDER}/ there is: {known}")
        paths.append(path)
    return paths


def _list(options: argparse.Namespace) -> int:
    for path in _found(options.notebooks):
        source = notebook.load(path)
        print(f"{path.stem}: {source.title}")
        if source.question:
            print(f"  {' '.join(source.question.split())}")
        for parameter in source.known.values():
            print(f"    -p {parameter}")
    return 0
