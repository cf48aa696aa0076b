"""Every pooling operator, forward and backward: beside eager torch, torch.compile, a peer, and the memory's own speed.

    python benchmarks/pooling.py [--rounds 7] [--quick] [--only mean gem] [--no-padding] [--no-compile]

Variants take turns, every other round the other way about; a ratio is the median over rounds of ours / theirs within
the round, below 1 where ours is faster. Short calls are repeated within a sample, and freed memory stays with the
process. Eager is the textbook's form (lab/pooling/textbook.py), compiled is torch.compile of it: two graphs, one for a
forward pass alone and one for both. The least bytes are inputs once and outputs once; the share compares them per
second with a large copy in the same run. What could not be measured says why.

The table lands in benchmarks/results/ under the device's name, as text and as json. Rows are kept as they come: a run
that was stopped goes on where it was when called again with the same arguments on the same code.
"""

import argparse
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from shared.pooling_peers import peer_of
from shared.results import FOLDER, append, place, resumed, write
from torch import Tensor, nn
from tqdm import tqdm

from lab.kernels.race import Step, copy_bandwidth, forward_backward, keep_heap, middle, race, ratio, sample
from lab.pooling.cost import LARGE, TINY, Case, Sizes, cases
from lab.reports.machine import device as named
from lab.reports.machine import versions

# T from short to long at about the same number of tokens, D of a small and a large encoder; ResNet's four stages
GPU = (
    *(Sizes((2**19 // (T * D // 384), T, D), (25, 4096, D), (64, 64, 56, 56)) for D in (384,) for T in (512, 4096)),
    Sizes((64, 512, 4096), (33, 1024, 4096), (64, 256, 56, 56)),
    Sizes((4, 32768, 1024), (25, 4096, 1024), (64, 512, 28, 28)),
    Sizes((16, 8192, 1024), (25, 4096, 1024), (64, 1024, 14, 14)),
)
PATIENCE = 5.0  # seconds; an operator that needs more has fewer rounds
OTHERS = ("eager", "compile", "peer")
Row = dict[str, Any]


def measured(case: Case, where: str, rounds: int, compiling: bool, copy: float) -> Row:
    """One row: ours, what it moves at least, and every other variant or why it is missing."""
    calls: dict[str, Callable[[], Tensor]] = {"ours": case.ours}
    why: dict[str, str] = {}
    if case.textbook is None:
        why["eager"] = why["compile"] = "no textbook form: the module is written that way"
    else:
        calls["eager"] = case.eager
        if compiling:
            torch.compiler.reset()  # what was compiled for other operators would be looked through at every call
            compiled = torch.compile(case.textbook, dynamic=False)
            calls["compile"] = lambda: compiled(case.pool, *case.inputs)
        else:
            why["compile"] = "switched off"
    peer = peer_of(case)
    if callable(peer):
        calls["peer"] = peer
    else:
        why["peer"] = peer
    variants = {name: _variant(call, case.wanted, where) for name, call in calls.items()}
    began = time.monotonic()
    if "compile" in variants:
        try:
            variants["compile"]()
        except RuntimeError as error:  # of the compiler: what it cannot take is told in the row
            why["compile"] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            del variants["compile"]
    compiling_s = time.monotonic() - began
    race(variants, 1)  # to be warm
    seen = race(variants, rounds, PATIENCE)
    with torch.no_grad():
        y = case.ours()
    row: Row = {
        "family": case.family,
        "name": case.name,
        "dtype": str(case.inputs[0].dtype).removeprefix("torch."),
        "shape": list(case.inputs[0].shape),
        "rounds": len(seen["ours"]),
        "copy": copy,
        "compiling_s": compiling_s,
    }
    for i, (way, least) in enumerate(zip(("forward", "backward"), case.fewest(y), strict=True)):
        own = [both[i] for both in seen["ours"]]
        row[f"{way}_bytes"] = least
        row |= _spread(f"{way}_ms", middle([1000 * s for s in own]))
        row[f"{way}_share"] = least / middle(own).median / copy
        for name in OTHERS:
            if name in seen:
                theirs = [both[i] for both in seen[name]]
                row[f"{name}_{way}_ms"] = middle([1000 * s for s in theirs]).median
                row |= _spread(f"{name}_{way}_ratio", ratio(own, theirs))
    return row | {f"{name}_missing": why.get(name, "") for name in OTHERS}


def _variant(call: Callable[[], Tensor], wanted: list[Tensor], where: str) -> Callable[[], tuple[float, float]]:
    return lambda: forward_backward(call, wanted, where)


def _spread(name: str, step: Step) -> Row:
    return {name: step.median, f"{name}_low": step.low, f"{name}_high": step.high}


def rows(given: argparse.Namespace, done: list[Row]) -> Iterator[Row]:
    """Every operator in every size and type of this device, but for those done already."""
    gpu = torch.cuda.is_available() and not given.cpu
    plans = [("cuda", sizes, dtype) for sizes in GPU for dtype in (torch.bfloat16, torch.float32)] if gpu else []
    plans = plans[:1] if given.quick else plans
    plans = plans or [("cpu", TINY if given.tiny else LARGE, torch.float32)]
    known = {(row["plan"], row["family"], row["name"]) for row in done}
    for plan, (where, sizes, dtype) in enumerate(plans):
        copy = copy_bandwidth(where, 8 if given.tiny else 256)
        every = cases(sizes, where, dtype, names=given.only, padding=not given.no_padding)
        for case in tqdm(every, unit="operator", disable=None):
            pads = case.family == "tokens" or not given.no_padding
            if pads and (plan, case.family, case.name) not in known:
                yield measured(case, where, given.rounds, not given.no_compile, copy) | {"plan": plan}


def terms(given: argparse.Namespace) -> Row:
    """What the rows of one table share: else they would be of another code, machine or measurement."""
    root = Path(__file__).parents[1]
    sources = [*sorted((root / "lab/pooling").glob("*.py")), *sorted((root / "lab/kernels").glob("*.py"))]
    sources += [Path(__file__), *sorted((root / "benchmarks/shared").glob("pooling*.py"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    asked = {name: value for name, value in vars(given).items() if name != "folder"}
    return {**asked, "device": named(), "threads": torch.get_num_threads(), "code": digest, **versions()}


def empty_call() -> float:
    """Seconds of calling a module that does nothing."""
    module, x = nn.Identity(), torch.zeros(1)
    return middle([sample(lambda _: module(x)) - sample(lambda _: x) for _ in range(9)]).median


def table(found: list[Row]) -> str:
    head = ["operator", "type, shape", "fwd ms", "bwd ms", "least MB fwd / bwd", "share of copy fwd / bwd"]
    head += [f"fwd, bwd ÷ {name}" for name in OTHERS]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in found:
        shape = f"{row['dtype']} {'x'.join(map(str, row['shape']))}"
        least = f"{row['forward_bytes'] / 1e6:.1f} / {row['backward_bytes'] / 1e6:.1f}"
        cells = [f"{row['family']} {row['name']}", shape, number(row["forward_ms"]), number(row["backward_ms"]), least]
        cells += [f"{number(row['forward_share'])} / {number(row['backward_share'])}"]
        lines.append("| " + " | ".join([*cells, *(against(row, name) for name in OTHERS)]) + " |")
    return "\n".join(lines)


def against(row: Row, name: str) -> str:
    if row[f"{name}_missing"]:
        return f"not measured: {row[f'{name}_missing']}"
    cells = []
    for way in ("forward", "backward"):
        middle, low, high = (row[f"{name}_{way}_ratio{end}"] for end in ("", "_low", "_high"))
        cells.append("no gradient" if math.isnan(middle) else f"{middle:.2f} ({low:.2f} to {high:.2f})")
    return ", ".join(cells)


def number(value: float) -> str:
    if math.isnan(value):
        return "no gradient"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names in the registries; all of them unless given")
    parser.add_argument("--quick", action="store_true", help="three rounds, one size")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing about speed, for tests")
    parser.add_argument("--no-padding", action="store_true", help="rows of tokens of one length; a table of its own")
    parser.add_argument("--no-compile", action="store_true", help="torch.compile takes minutes on a CPU")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--threads", type=int, help="of torch on a CPU; 1 where others share the cores")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table is stored")
    given = parser.parse_args()
    if given.quick:
        given.rounds = min(given.rounds, 3)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 would measure the interpreter; unset it")
    warnings.filterwarnings("ignore", module="torch")  # of the compiler, about its own choices
    if given.threads:
        torch.set_num_threads(given.threads)
    kept = keep_heap()
    name = "pooling" if given.only is None else "pooling-some"
    name = "unpadded" if given.no_padding else name
    partial = place(name, "partial.jsonl", given.folder)
    found = resumed(partial, terms(given))
    for row in found:
        print(table([row]).splitlines()[-1], flush=True)
    for row in rows(given, found.copy()):
        append(partial, row)
        found.append(row)
        print(table([row]).splitlines()[-1], flush=True)
    if not found:
        partial.unlink()
        parser.error(f"no operator is named {given.only}")
    copies = sorted({row["copy"] for row in found})
    speed = ", ".join(f"{copy / 1e9:.1f} GB/s" for copy in copies)
    used = ", ".join(f"{name} {versions()[name]}" for name in ("python", "torch"))
    words = f"copy {speed}; {torch.get_num_threads()} torch threads; "
    words += f"at most {given.rounds} rounds, medians (lowest to highest); {used}; "
    words += f"a call of an empty module, which ours pays and eager does not: {1e6 * empty_call():.1f} us; "
    words += "freed memory is kept" if kept else "freed memory goes back to the system, which large results pay for"
    if not torch.cuda.is_available():
        words += "; on a GPU: not measured, there is none"
    rest = {"device": named(), "rounds": given.rounds, "copy_bytes_per_second": copies, "words": words}
    write(name, "json", json.dumps(rest | {"rows": found}, indent=1), given.folder)
    what = "Pooling of rows without padding" if given.no_padding else "Pooling"
    where = write(name, "md", f"# {what} on {named()}\n\n{words}\n\n{table(found)}\n", given.folder)
    partial.unlink()
    print(where.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
