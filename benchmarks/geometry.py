"""What every number of a space costs, beside the plain form of it in scikit-learn, scipy, numpy or torch.

    python benchmarks/geometry.py [--layers 7] [--examples 2000] [--dim 384] [--rounds 3]

The states are drawn, with a power-law spectrum and a mean, each layer the last one and noise. Ours and the plain form
take turns in one process; ratios are medians over rounds. A number of one space is timed on one layer with nothing
shared, so it pays for its own spectrum or search; a number of two spaces on one pair. Then all of them, every number
of every layer by one call of `lab.geometry.measure` and every similarity of all pairs of layers by one call of
`lab.geometry.compare`, against the goal; below them each similarity asked for alone. Beside wall time stands the
processor's, which a busy machine stretches less. The table is printed and stored in benchmarks/results/ under the
device's name.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from shared.geometry_plain import PAIRS, SPACES
from shared.results import FOLDER, write
from tqdm import tqdm

from lab import geometry
from lab.reports.machine import device, versions

GOAL = 5.0  # seconds for all numbers of 7 x 2,000 x 384 on two cores
Call = Callable[[], object]
Timed = dict[str, tuple[float, float]]  # name -> wall and processor seconds


def draw(layers: int, examples: int, dim: int, seed: int = 0) -> tuple[xr.Dataset, np.ndarray]:
    """States of one pool that drift apart from layer to layer, and ten classes that the rows hang together by."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dim + 1) ** -0.5
    labels = rng.permutation(np.arange(examples) % 10)
    x = (rng.normal(size=(examples, dim)) + rng.normal(size=(10, dim))[labels]) * scale + 0.1
    h = np.empty((layers, 1, examples, dim), dtype=np.float32)
    for layer in range(layers):
        h[layer, 0] = x
        x = x + 0.5 * rng.normal(size=(examples, dim)) * scale
    coords = {"layer": range(layers), "pool": ["mean"]}
    return xr.Dataset({"h": (("layer", "pool", "example", "dim"), h)}, coords=coords), labels


def clock(call: Callable[[], object]) -> tuple[float, float, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def in_turns(calls: dict[str, tuple[Call, Call | None]], rounds: int, what: str) -> str:
    """A table: ours and the plain form in milliseconds, the median of their ratios, how far the answers differ."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    apart: dict[str, float] = {}
    for _ in tqdm(range(rounds), unit="round", desc=what):
        for name, (one, other) in calls.items():
            own, _, found = clock(one)
            plain, _, want = clock(other) if other else (float("nan"), None, float("nan"))
            seen[name].append((own, plain))
            apart[name] = abs(float(found) - float(want)) / max(abs(float(want)), 1e-3)
    lines = ["| number | ms | plain form, ms | times faster | answers differ by |", "|---|---|---|---|---|"]
    for name, times in seen.items():
        own, plain = (statistics.median(side) * 1e3 for side in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        beside = f"{plain:.1f} | {ratio:.1f} | {apart[name]:.0e}" if calls[name][1] else "none | | "
        lines.append(f"| {name} | {own:.1f} | {beside} |")
    return "\n".join(lines)


def together(states: xr.Dataset, labels: np.ndarray, rounds: int) -> tuple[Timed, Timed]:
    """measure and one compare of all similarities; each of those alone. The least of the rounds."""
    names = list(geometry.SIMILARITIES)
    calls = {
        "measure, with labels": lambda: geometry.measure(states, labels, progress=False),
        f"compare, by {len(names)} similarities": lambda: geometry.compare(states, by=names, progress=False),
    }
    alone = {f"compare, {by}": lambda by=by: geometry.compare(states, by=by, progress=False) for by in names}
    least = dict.fromkeys([*calls, *alone], (float("inf"), float("inf")))
    for _ in tqdm(range(rounds), unit="round", desc="all layers"):
        for name, call in (calls | alone).items():
            least[name] = tuple(map(min, least[name], clock(call)[:2]))
    return {name: least[name] for name in calls}, {name: least[name] for name in alone}


def as_rows(least: Timed, last: str) -> str:
    """A table's rows, their sum the last."""
    total = tuple(sum(side) for side in zip(*least.values(), strict=True))
    return "\n".join(f"| {name} | {wall:.2f} | {cpu:.2f} |" for name, (wall, cpu) in (least | {last: total}).items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--examples", type=int, default=2_000, help="at least 25")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table goes")
    given = parser.parse_args()
    if given.examples < 25 or given.layers < 2 or given.rounds < 1:
        parser.error("at least 25 examples, two layers and one round are needed")
    states, labels = draw(given.layers, given.examples, given.dim)
    x, y = (torch.from_numpy(states.h.values[layer, 0]) for layer in (0, 1))
    a, b = x.numpy(), y.numpy()
    spaces = {name: (partial(number, x), partial(SPACES[name], a, labels) if name in SPACES else None)
              for name, number in geometry.METRICS.items()}  # fmt: skip
    spaces |= {name: (partial(number, x, labels), partial(SPACES[name], a, labels) if name in SPACES else None)
               for name, number in geometry.COLLAPSE.items()}  # fmt: skip
    pairs = {name: (partial(getattr(geometry, name), x, y), partial(PAIRS[name], a, b) if name in PAIRS else None)
             for name in geometry.SIMILARITIES}  # fmt: skip
    size = f"{given.examples:,} x {given.dim}"
    parts = [f"## One space, {size}\n\n{in_turns(spaces, given.rounds, 'one space')}"]
    parts.append(f"## Two spaces, {size} each\n\n{in_turns(pairs, given.rounds, 'two spaces')}")
    least, alone = together(states, labels, given.rounds)
    wall = sum(seconds for seconds, _ in least.values())
    shape = (given.layers, given.examples, given.dim) == (7, 2_000, 384)
    verdict = f" The goal is {GOAL:g} s: {'reached' if wall <= GOAL else 'not reached'} in this run." if shape else ""
    head = "| call | wall s | processor s |\n|---|---|---|\n"
    parts.append(
        f"## All of {given.layers} layers x {size}\n\n{head}{as_rows(least, 'together')}"
        f"\n\nThe least of {given.rounds} rounds for each.{verdict}\n\nWhat the second call would cost name by name:"
        f"\n\n{head}{as_rows(alone, 'one after another')}"
    )
    used = ", ".join(f"{name} {versions()[name]}" for name in ("python", "torch"))
    page = f"# Geometry on {device()}\n\n{used}, {torch.get_num_threads()} threads\n\n" + "\n\n".join(parts) + "\n"
    print(write("geometry", "md", page, given.folder).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
