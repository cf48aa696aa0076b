"""What linear probes of all layers cost: lab.probes.linear beside scikit-learn looped over layers and folds.

    python benchmarks/probes.py [--texts 2000] [--classes 10] [--rounds 3] [--cv-layers 1] [--tiny]

Real states, MiniLM on docstrings, the package as label, five stratified folds, the same for all. Variants take turns
in one process, round by round; ratios are medians over rounds of (peer / ours) within the round. Seconds are of the
processor, so that a busy machine does not decide, and of the clock beside them, for which it should be quiet: ours take
all threads, of which one may wait for the other, peers have BLAS limited to one, where they are fastest. Accuracy is
paired over the same held-out examples, with a 95 % interval over them. LogisticRegressionCV runs on the last
`--cv-layers` layers only, and so does what it is compared with. On a GPU, ours is timed there too, in wall time.
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
from shared import probe_peers as peers
from shared.results import FOLDER, write
from tqdm import tqdm

import lab
from lab.probes.folds import stratified_splits
from lab.reports.machine import device, versions

STRONG = 300.0  # a penalty that suits these states, found beforehand; the ten are chosen among inside the folds
LONG = 10.0  # seconds after which a variant has one round: the whole stays under four minutes
POINTS = 0.5  # of accuracy, paired: what counts as equal
Seconds = dict[str, list[float]]  # of each variant, a number a round


def task(texts: int, classes: int, tiny: bool) -> tuple[xr.Dataset, np.ndarray]:
    """States of all layers by mean pooling, and labels of equal number."""
    if tiny:
        draw = np.random.default_rng(0)
        y = draw.permutation(np.arange(texts) % classes)
        h = draw.normal(size=(2, 1, texts, 16)) + draw.normal(size=(2, 1, classes, 16))[:, :, y]
        states = xr.Dataset({"h": (("layer", "pool", "example", "dim"), h.astype(np.float32))})
        return states.assign_coords(layer=[0, 1], pool=["mean"], example=np.arange(texts)), y
    table = lab.data.docstrings(8 * texts, seed=0)
    packages = table["package"].value_counts().index[:classes]
    some = table[table["package"].isin(packages)].groupby("package").head(texts // classes)
    states = lab.capture.states(lab.models.load("minilm"), some["summary"], pools=("mean",))
    return states, some["package"].to_numpy().astype(str)


def variants(states: xr.Dataset, y: np.ndarray, cv_layers: int) -> dict[str, tuple[str, Callable, int]]:
    """{name: (what of ours it is held against, call -> said [layer, example], how many of the last layers)}."""
    folds, h = stratified_splits(y, None, 5, 0, len(y)), states["h"].values[:, 0]
    every = len(h)

    def ours(layers: int = every, **settings: object) -> np.ndarray:
        part = states.isel(layer=slice(every - layers, None))
        return lab.probes.linear(part, y, progress=False, **settings)["prediction"].values[:, 0]

    one, ten = "lab, one penalty", "lab, ten penalties"
    return {
        one: (one, lambda: ours(penalty=STRONG), every),
        "lab, one penalty, ridge": (one, lambda: ours(penalty=STRONG, fit="ridge"), every),
        "lab, one penalty, logistic": (one, lambda: ours(penalty=100.0, fit="logistic"), every),
        "LogisticRegression, C = 1": (one, lambda: peers.looped(partial(peers.logistic, 1.0), h, y, folds), every),
        "LogisticRegression, C = 0.01": (one, partial(peers.looped, peers.logistic, h, y, folds), every),
        "RidgeClassifier": (one, lambda: peers.looped(peers.ridge, h, y, folds), every),
        ten: (ten, ours, every),
        "RidgeClassifierCV, ten": (ten, lambda: peers.looped(peers.ridge_ten, h, y, folds), every),
        f"lab, ten penalties, last {cv_layers}": (
            f"lab, ten penalties, last {cv_layers}", lambda: ours(cv_layers), cv_layers
        ),
        f"LogisticRegressionCV, ten, last {cv_layers}": (
            f"lab, ten penalties, last {cv_layers}",
            lambda: peers.looped(peers.logistic_ten, h[-cv_layers:], y, folds),
            cv_layers,
        ),
    }  # fmt: skip


def measure(found: dict[str, tuple[str, Callable, int]], rounds: int) -> tuple[Seconds, Seconds, dict]:
    """Seconds of each round by processor and clock, and what was said; what takes over LONG seconds has one round."""
    seconds: Seconds = {name: [] for name in found}
    clock: Seconds = {name: [] for name in found}
    said = {}
    for round_ in tqdm(range(rounds), unit="round"):
        for name, (_, call, _) in found.items():
            if round_ and seconds[name][0] > LONG:
                continue
            began = time.process_time(), time.perf_counter()
            said[name] = call()
            seconds[name].append(time.process_time() - began[0])
            clock[name].append(time.perf_counter() - began[1])
    return seconds, clock, said


def times(name: str, found: dict, seconds: Seconds) -> float:
    """How many times our time a variant takes."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[found[name][0]], strict=False))


def beside(name: str, found: dict, said: dict, y: np.ndarray) -> xr.Dataset:
    """Our accuracy less a variant's, in points."""
    gap = (said[found[name][0]] == y).astype(float) - (said[name] == y)
    return 100 * lab.stats.bootstrap(xr.DataArray(gap.mean(0), dims="example"))


def table(found: dict, seconds: Seconds, clock: Seconds, said: dict, y: np.ndarray) -> str:
    rows = [
        "| variant | layers | CPU s | x lab | clock s | x lab | accuracy | lab's less it, points | 95 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (_, _, layers) in found.items():
        gap, accuracy = beside(name, found, said, y), (said[name] == y).mean()
        spent = [f"{statistics.median(s[name]):.2f} | {times(name, found, s):.1f}" for s in (seconds, clock)]
        rows.append(
            f"| {name} | {layers} | {' | '.join(spent)} | {accuracy:.4f} "
            f"| {float(gap.estimate):+.2f} | {float(gap.low):+.2f} to {float(gap.high):+.2f} |"
        )
    return "\n".join(rows)


def goals(found: dict, seconds: Seconds, clock: Seconds, said: dict, y: np.ndarray) -> str:
    """The bounds that the lab has set itself, and whether this run keeps them."""
    looped = next(name for name in found if name.startswith("LogisticRegressionCV"))
    rows = [
        "| goal | at least | by the processor | by the clock | accuracy, points | reached |",
        "|---|---|---|---|---|---|",
    ]
    for what, name, least in (
        ("times faster than LogisticRegression in a loop, one penalty", "LogisticRegression, C = 0.01", 8),
        ("times faster than LogisticRegressionCV, ten penalties", looped, 50),
    ):
        gap, ratios = float(beside(name, found, said, y).estimate), [times(name, found, s) for s in (seconds, clock)]
        reached = ["yes" if ratio >= least and gap >= -POINTS else "no" for ratio in ratios]
        rows.append(f"| {what} | {least} | {ratios[0]:.1f} | {ratios[1]:.1f} | {gap:+.2f} | {', '.join(reached)} |")
    return "\n".join(
        [*rows, "", f"Equal accuracy: ours at most {POINTS:g} points below, paired over the same examples."]
    )


def on_gpu(states: xr.Dataset, y: np.ndarray) -> str:
    """Wall seconds of ours on a GPU, the second run of two."""
    if not torch.cuda.is_available():
        return "On a GPU: not measured, there was none."
    words = []
    for name, penalty in (("one penalty", STRONG), ("ten penalties", lab.probes.PENALTIES)):
        for _ in range(2):
            began = time.perf_counter()
            lab.probes.linear(states, y, penalty=penalty, device="cuda", progress=False)
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        words.append(f"{name} {seconds:.2f} s")
    return f"On the GPU, wall time: {', '.join(words)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cv-layers", type=int, default=1, help="layers for LogisticRegressionCV, which takes minutes")
    parser.add_argument("--tiny", action="store_true", help="made-up states: does it run?")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table is stored")
    given = parser.parse_args()
    states, y = task(given.texts, given.classes, given.tiny)
    found = variants(states, y, given.cv_layers)
    seconds, clock, said = measure(found, given.rounds)
    used = {name: versions()[name] for name in ("python", "torch", "scikit-learn")}
    words = ", ".join(f"{name} {version}" for name, version in used.items())
    what = (
        f"{'made-up states' if given.tiny else 'minilm, docstrings'}, {dict(states['h'].sizes)}, {given.classes} labels"
    )
    page = (
        f"# Probes on {device()}\n\n{words}\n\n## {what}, 5 folds, {given.rounds} rounds\n\n"
        f"{table(found, seconds, clock, said, y)}\n\n{goals(found, seconds, clock, said, y)}\n\n{on_gpu(states, y)}\n"
    )
    write("probes", "md", page, given.folder)
    print(page)


if __name__ == "__main__":
    main()
