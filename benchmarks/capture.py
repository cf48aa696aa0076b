"""What it costs to see every layer: time and peak memory of capture beside the plain forward pass and its peers.

    python benchmarks/capture.py [--texts 400] [--rounds 7] [--flat 2000 50000] [--only docstrings]

Variants take turns in one process, round by round, so that a busy minute of the machine strikes all of them; ratios
are medians over rounds of (variant / plain) within the round. Peak memory is that of a process for each variant.
`--flat` measures the peak memory of to_zarr for corpora of several sizes. Tables are printed and stored in
benchmarks/results/ under the device's name; what is not installed says so.
"""

import argparse
import json
import resource
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
from shared.results import FOLDER, write
from tqdm import tqdm

import lab
from lab.capture.batches import Batch, Plan, tokenize
from lab.reports.machine import device, versions

POOLS = ("mean", "last", "max", "first")
PLAIN, OURS, ENCODE = (
    "plain forward pass",
    "lab.capture, all layers x 4 pools",
    "sentence-transformers encode, last layer",
)
LENGTHS = (32, 512, 2048, 8192)  # tokens a text, 8,192 of them in all
Seen = dict[str, list[dict[str, Any]]]


def task(name: str, n: int) -> tuple[lab.models.Loaded, list[str], int]:
    """The model, the texts and the tokens in a batch: real ones, or a length at a time."""
    if name == "docstrings":
        model = lab.models.load("minilm")
        return model, lab.data.docstrings(n, seed=0)["text"].tolist(), _budget(model)
    length = int(name)
    model = lab.models.tiny("llama", layers=8, dim=256, heads=4, window=max(LENGTHS))
    if torch.cuda.is_available():
        model.model.cuda()
    word = "of "  # one token; with [CLS] and [SEP] the text has `length`
    return model, [word * (length - 2)] * max(1, 8192 // length), max(_budget(model), length)


def _budget(model: lab.models.Loaded) -> int:
    return 65_536 if model.device.type == "cuda" else 2_048


def variants(name: str) -> list[str]:
    return [PLAIN, OURS, *PEERS, ENCODE] if name == "docstrings" else [PLAIN, OURS]


def serve(name: str, n: int) -> None:
    """Run the variant that each line on standard input names: answer seconds and the peak memory so far, or why not."""
    model, texts, budget = task(name, n)

    def batches() -> list[Batch]:
        tokens = tokenize(model.tokenizer, texts, model.window)
        return [tokens.batch(index) for index in Plan(tokens.lengths, budget)]

    for line in sys.stdin:
        variant, began = line.strip(), time.perf_counter()
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
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        gpu = torch.cuda.max_memory_allocated() / 2**20 if model.device.type == "cuda" else 0.0
        print(json.dumps({"seconds": seconds, "megabytes": gpu or peak}), flush=True)


@contextmanager
def asking(name: str, n: int) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A fresh process that runs the variant it is asked for."""
    command = [sys.executable, __file__, "--serve", name, "--texts", str(n)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(variant: str) -> dict[str, Any]:
        process.stdin.write(f"{variant}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.communicate()


def measure(name: str, n: int, rounds: int) -> tuple[Seen, dict[str, str]]:
    """What each variant took in each round, and why others could not be measured.

    Seconds side by side in one process: two of the same code differ by a quarter in how their memory lies. Peak
    memory in a process for each.
    """
    why: dict[str, str] = {}
    with asking(name, n) as ask:
        for variant in variants(name):  # warms up, and finds what is not installed
            if reason := ask(variant).get("missing"):
                why[variant] = reason
        there = [variant for variant in variants(name) if variant not in why]
        seen: Seen = {variant: [] for variant in there}
        for _ in tqdm(range(rounds), unit="round", desc=name):
            for variant in there:
                seen[variant].append(ask(variant))
    for variant in there:
        with asking(name, n) as ask:
            seen[variant][-1]["megabytes"] = ask(variant)["megabytes"]
    return seen, why


def table(seen: Seen, why: dict[str, str], n: int) -> str:
    base = seen[PLAIN]
    rows = ["| variant | texts/s | time, x plain | (spread) | peak MB | x plain |", "|---|---|---|---|---|---|"]
    for name, runs in seen.items():
        ratios = sorted(run["seconds"] / own["seconds"] for run, own in zip(runs, base, strict=True))
        rate = n / statistics.median(run["seconds"] for run in runs)
        peak = runs[-1]["megabytes"]
        rows.append(
            f"| {name} | {rate:.1f} | {statistics.median(ratios):.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f} "
            f"| {peak:.0f} | {peak / base[-1]['megabytes']:.3f} |"
        )
    return "\n".join([*rows, *(f"| {name} | not measured: {reason} | | | | |" for name, reason in why.items())])


def store(n: int) -> None:
    """Peak memory of writing n short texts to disk, and how large the store is."""
    model = lab.models.tiny("bert", layers=4, dim=128)
    texts = [f"{word} {i}" for i, word in zip(range(n), ["mean", "of the", "singular values"] * n, strict=False)]
    lab.capture.states(model, texts[:1024], pools=POOLS, progress=False)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        lab.capture.to_zarr(model, texts, Path(folder) / "states.zarr", pools=POOLS, progress=False)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
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
    parser.add_argument("--texts", type=int, default=400, help="docstrings drawn from the corpus")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=["docstrings", *map(str, LENGTHS)], help="docstrings, or lengths")
    parser.add_argument("--flat", nargs="*", type=int, default=[2_000, 50_000], help="corpus sizes; none to leave out")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables are stored")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve, given.texts)
    if given.store:
        return store(given.store)
    lab.data.corpus()  # harvested once, before the processes need it
    parts = []
    for name in given.only:
        seen, why = measure(name, given.texts, given.rounds)
        n = given.texts if name == "docstrings" else max(1, 8192 // int(name))
        what = (
            f"minilm, {n} docstrings" if name == "docstrings" else f"tiny-llama (8 x 256), {n} texts of {name} tokens"
        )
        parts.append(f"## {what}, {given.rounds} rounds\n\n{table(seen, why, n)}\n")
        print(parts[-1], flush=True)
    if given.flat:
        parts.append(f"## Memory of to_zarr by corpus size, tiny-bert (4 x 128)\n\n{flat(given.flat)}\n")
    used = {name: versions()[name] for name in ("python", "torch", "transformers", "sentence-transformers")}
    words = ", ".join(f"{name} {version}" for name, version in used.items())
    where = write("capture", "md", f"# Capture on {device()}\n\n{words}\n\n" + "\n".join(parts), given.folder)
    print(where.read_text(encoding="utf-8"))
    return None


if __name__ == "__main__":
    main()
