"""What it costs to see every layer: time and peak memory of capture beside the plain forward pass and its peers.

    python benchmarks/capture.py [--texts 60] [--seconds 60] [--flat 2000 50000] [--only docstrings 8x256-32]

Variants take turns in one process, round by round and every second round backwards, so that a busy minute of the
machine strikes all of them and none always comes after another; short ones have more rounds. Each of five processes
gives two ratios: the median over its rounds of (variant / plain) within the round, and the least seconds of the one
over the least of the other, since what else the machine does can only add. The table has the median process, and the
lowest and the highest: how a process's memory lies moves its ratios by some hundredths in all of its rounds alike.
While times are taken, freed memory stays with the process: otherwise a pass takes a fifth longer or not by how another
variant's memory lay (up to 360,000 page faults a pass, in the plain one as in others). Peak memory is the median of
three processes for each variant, where it goes back as usual. Peers have their own section, with fewer rounds.
`--flat` measures the peak memory of to_zarr for corpora of several sizes. Tables are printed and stored in
benchmarks/results/ under the device's name, a part of them apart; what is not installed says so.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from shared.capture_peers import PEERS, encode, plain
from shared.memory import anew, highest
from shared.results import FOLDER, write
from tqdm import tqdm

import lab
from lab.capture.batches import Batch, Plan, tokenize
from lab.kernels.race import keep_heap
from lab.reports.machine import device, versions

POOLS = ("mean", "last", "max", "first")
PLAIN, OURS, ENCODE = (
    "plain forward pass",
    "lab.capture, all layers x 4 pools",
    "sentence-transformers encode, last layer",
)
# of a llama: layers, width, tokens a text, texts; the small one's pools have little work to hide behind
SIZES = {
    "8x256-32": (8, 256, 32, 256),
    "8x256-512": (8, 256, 512, 16),
    "8x256-2048": (8, 256, 2048, 4),
    "8x256-8192": (8, 256, 8192, 1),
    "12x768-32": (12, 768, 32, 32),
    "12x768-512": (12, 768, 512, 2),
}
REAL = ("docstrings", "peers")  # of minilm
FEWEST, MOST = 3, 60  # rounds in a process
PROCESSES, PEAKS = 5, 3  # for times; of each variant for its peak memory
Seen = dict[str, list[list[dict[str, Any]]]]  # of each variant, the rounds of each process


def task(name: str, n: int) -> tuple[lab.models.Loaded, list[str], int]:
    """The model, the texts and the tokens in a batch: real ones, or of one size."""
    if name in REAL:
        model = lab.models.load("minilm")
        return model, lab.data.docstrings(n, seed=0)["text"].tolist(), _budget(model)
    layers, dim, length, texts = SIZES[name]
    model = lab.models.tiny("llama", layers=layers, dim=dim, heads=dim // 64, window=length)
    if torch.cuda.is_available():
        model.model.cuda()
    word = "of "  # one token; with [CLS] and [SEP] the text has `length`
    return model, [word * (length - 2)] * texts, max(_budget(model), length)


def _budget(model: lab.models.Loaded) -> int:
    return 65_536 if model.device.type == "cuda" else 2_048


def variants(name: str) -> list[str]:
    return [PLAIN, OURS, *PEERS, ENCODE] if name == "peers" else [PLAIN, OURS]


def serve(name: str, n: int, keeping: bool) -> None:
    """Run the variant that each line on standard input names: answer seconds and the peak memory so far, or why not."""
    if keeping:
        keep_heap()
    model, texts, budget = task(name, n)

    def batches() -> list[Batch]:
        tokens = tokenize(model.tokenizer, texts, model.window)
        return [tokens.batch(index) for index in Plan(tokens.lengths, budget)]

    # a first result imports dask, pyarrow and scipy through xarray, 25 MB once: no variant is charged with them
    lab.capture.states(model, texts[:1], pools=POOLS, progress=False)
    for line in sys.stdin:
        variant = line.strip()
        if not keeping:  # where times are taken what is freed stays
            anew()
        began = time.perf_counter()
        try:
            if variant == OURS:
                lab.capture.states(model, texts, pools=POOLS, batch_tokens=budget, progress=False)
            elif variant == ENCODE:
                encode(model, texts)
            else:
                (plain if variant == PLAIN else PEERS[variant])(model, batches())
        except ImportError as missing:
            print(json.dumps({"missing": f"{missing.name} is not installed"}), flush=True)
            continue
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        gpu = torch.cuda.max_memory_allocated() / 2**20 if model.device.type == "cuda" else 0.0
        print(json.dumps({"seconds": seconds, "megabytes": gpu or highest()}), flush=True)


@contextmanager
def asking(name: str, n: int, keeping: bool) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A fresh process that runs the variant it is asked for; keeping: with freed memory kept."""
    command = [sys.executable, __file__, "--serve", name, "--texts", str(n), *(["--keeping"] if keeping else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(variant: str) -> dict[str, Any]:
        process.stdin.write(f"{variant}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.communicate()


def measure(name: str, n: int, seconds: float) -> tuple[Seen, dict[str, float], dict[str, str]]:
    """What each variant took in the rounds of each process, its peak memory, and why others could not be measured.

    The processes share the seconds. Peak memory is taken in others, fresh for each variant.
    """
    why: dict[str, str] = {}
    seen: Seen = {}
    for number in tqdm(range(PROCESSES), unit="process", desc=name):
        with asking(name, n, keeping=True) as ask:
            for variant in variants(name):  # warms up, and finds what is not installed
                if reason := ask(variant).get("missing"):
                    why[variant] = reason
            there = [variant for variant in variants(name) if variant not in why]
            once = sum(ask(variant)["seconds"] for variant in there)
            runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in there}
            for turn in range(min(MOST, max(FEWEST, int(seconds / PROCESSES / once)))):
                for variant in reversed(there) if (number + turn) % 2 else there:
                    runs[variant].append(ask(variant))
        for variant in there:
            seen.setdefault(variant, []).append(runs[variant])
    return seen, {variant: _peak(name, n, variant) for variant in tqdm(seen, unit="peak", desc=name)}, why


def _peak(name: str, n: int, variant: str) -> float:
    peaks = []
    for _ in range(PEAKS):
        with asking(name, n, keeping=False) as ask:
            peaks.append(ask(variant)["megabytes"])
    return statistics.median(peaks)


def table(seen: Seen, peaks: dict[str, float], why: dict[str, str], n: int) -> str:
    rows = [
        "| variant | texts/s | time, x plain | (processes) | least, x plain | (processes) | peak MB | x plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, processes in seen.items():
        rate = n / statistics.median(run["seconds"] for runs in processes for run in runs)
        base = seen[PLAIN]
        columns = " | ".join(_over(list(map(ratio, processes, base))) for ratio in (_within, _least))
        rows.append(f"| {name} | {rate:.1f} | {columns} | {peaks[name]:.0f} | {peaks[name] / peaks[PLAIN]:.3f} |")
    return "\n".join([*rows, *(f"| {name} | not measured: {reason} | | | | | | |" for name, reason in why.items())])


def _within(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> float:
    return statistics.median(run["seconds"] / own["seconds"] for run, own in zip(runs, base, strict=True))


def _least(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> float:
    return min(run["seconds"] for run in runs) / min(own["seconds"] for own in base)


def _over(processes: list[float]) -> str:
    return f"{statistics.median(processes):.3f} | {min(processes):.3f} to {max(processes):.3f}"


def store(n: int) -> None:
    """Peak memory of writing n short texts to disk, and how large the store is."""
    model = lab.models.tiny("bert", layers=4, dim=128)
    texts = [f"{word} {i}" for i, word in zip(range(n), ["mean", "of the", "singular values"] * n, strict=False)]
    lab.capture.states(model, texts[:1024], pools=POOLS, progress=False)
    base = highest()
    with tempfile.TemporaryDirectory() as folder:
        lab.capture.to_zarr(model, texts, Path(folder) / "states.zarr", pools=POOLS, progress=False)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20
    peak = highest()
    print(json.dumps({"n": n, "before": base, "peak": peak, "store": size}))


def flat(sizes: list[int]) -> str:
    rows = ["| texts | peak MB before | peak MB after to_zarr | store MB |", "|---|---|---|---|"]
    for n in sizes:
        command = [sys.executable, __file__, "--store", str(n)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        rows.append(f"| {n:,} | {found['before']:.0f} | {found['peak']:.0f} | {found['store']:.0f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=60, help="docstrings drawn from the corpus")
    parser.add_argument("--seconds", type=float, default=60, help=f"of rounds for a size; {FEWEST} a process at least")
    parser.add_argument("--only", nargs="+", choices=[*REAL, *SIZES], default=[*REAL, *SIZES])
    parser.add_argument("--flat", nargs="*", type=int, default=[2_000, 50_000], help="corpus sizes; none to leave out")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables are stored")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--keeping", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve, given.texts, given.keeping)
    if given.store:
        return store(given.store)
    lab.data.corpus()  # harvested once, before the processes need it
    parts = []
    for name in given.only:
        seen, peaks, why = measure(name, given.texts, given.seconds)
        if name in REAL:
            n, what = given.texts, f"minilm, {given.texts} docstrings"
        else:
            layers, dim, length, n = SIZES[name]
            what = f"tiny-llama ({layers} x {dim}), {n} texts of {length} tokens"
        rounds = " + ".join(str(len(runs)) for runs in seen[PLAIN])
        parts.append(f"## {what}, {rounds} rounds\n\n{table(seen, peaks, why, n)}\n")
        print(parts[-1], flush=True)
    if given.flat:
        parts.append(f"## Memory of to_zarr by corpus size, tiny-bert (4 x 128)\n\n{flat(given.flat)}\n")
    used = {name: versions()[name] for name in ("python", "torch", "transformers", "sentence-transformers")}
    words = ", ".join(f"{name} {version}" for name, version in used.items())
    whole = set(given.only) == {*REAL, *SIZES} and given.flat
    page = f"# Capture on {device()}\n\n{words}\n\n" + "\n".join(parts)
    where = write("capture" if whole else "capture-some", "md", page, given.folder)
    print(where.read_text(encoding="utf-8"))
    return None


if __name__ == "__main__":
    main()
