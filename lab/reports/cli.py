"""The command line: `lab report`, `lab list`, `lab docs`, `lab doctor`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.reports import compare, doctor, notebook, parameters
from lab.reports.runner import TIMEOUT, Job, prepare, run_all

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
    report.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    report.add_argument("--preset", choices=parameters.PRESETS, help="how much to compute (quick)")
    report.add_argument("--out", type=Path, default=Path("reports"), help="folder of the reports (reports)")
    report.add_argument(
        "--timeout", type=float, default=TIMEOUT, help=f"seconds per notebook, 0 = no limit ({TIMEOUT:.0f})"
    )
    report.add_argument("--force", action="store_true", help="run again even what is up to date")
    report.add_argument("--compare", nargs=2, metavar=("A", "B"), help="lay two runs side by side: folders or reports")
    report.set_defaults(command=_report)

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
    if options.timeout < 0:
        raise ValueError(f"--timeout: expected seconds, or 0 for no limit, got {options.timeout:g}")
    given = {}
    for name, text in options.p + ([("preset", options.preset)] if options.preset else []):
        if given.setdefault(name, text) != text:
            raise ValueError(f"parameter {name!r} is given twice: {given[name]!r} and {text!r}")
    # every notebook is checked before the first kernel starts
    jobs = [_job(path, given) for path in _found(options.notebooks)]
    records = run_all(jobs, options.out, timeout=options.timeout or None, force=options.force, say=_say)
    print((options.out / "index.html").resolve())
    return 1 if any(record.failed for record in records) else 0


def _docs(options: argparse.Namespace) -> int:
    from lab.reports import reference  # it imports every room

    print(reference.write(options.out).resolve())
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _job(path: Path, texts: dict[str, str]) -> Job:
    known = notebook.load(path).known
    values: dict[str, object] = {"preset": "quick"} if "preset" in known else {}
    for name, text in texts.items():
        # an unknown name goes on as it is, for prepare to refuse in its own words
        values[name] = parameters.parse(path.name, known[name], text) if name in known else text
    return prepare(path, **values)


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
