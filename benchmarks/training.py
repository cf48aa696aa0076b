"""What it costs to train through our pools: samples a second and peak memory beside sentence-transformers' own.

    python benchmarks/training.py [--steps 8] [--rounds 12] [--layers 6] [--dim 256] [--tokens 64] [--batch 32]

Every variant trains the same llama on the same pairs by the same loss and trainer; only the pooling differs. Equal
poolings are held against sentence-transformers' Pooling of the same mode, pools of several layers against its mean,
which reads the last layer alone, and beside its own WeightedLayerPooling, which keeps all layers.

Variants take turns in one process, round by round and every second round backwards; a round is a training of some steps
from the start. Ratios are medians over rounds of (variant / baseline) within the round, of processor seconds on a CPU,
which a busy machine moves less than the clock's, with the middle half beside them. Peak memory is that of a process
for each variant, and on a GPU what torch had allocated at the most. Tables are stored in benchmarks/results/.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from shared.results import FOLDER, write
from tqdm import tqdm

import lab
from lab.reports.machine import device, versions

MEAN, LAST = "sentence-transformers, mean", "sentence-transformers, last token"
WEIGHTED = "sentence-transformers, WeightedLayerPooling"
# ours by the name of the design, and what each is held against
OURS = {
    "mean, both ways": MEAN,
    "last, both ways": LAST,
    "softmax mix, both ways": MEAN,
    "best layer, both ways": MEAN,
    "5r multi-layer, both ways": MEAN,
    "5 multi-layer, both ways": MEAN,
    "4r last-layer, both ways": MEAN,
    "latent attention, both ways": MEAN,
}
BASELINE = {MEAN: MEAN, LAST: LAST, WEIGHTED: MEAN} | OURS
GOALS = {
    "mean, both ways": 1.0,
    "last, both ways": 1.0,
    "softmax mix, both ways": 1.1,
    "5r multi-layer, both ways": 1.1,
}


def saved(given: argparse.Namespace, folder: str) -> str:
    """A llama of this size that looks both ways, on disk."""
    model = lab.models.tiny("llama", layers=given.layers, dim=given.dim, heads=max(1, given.dim // 64), window=512)
    model.model.config.is_causal = False
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def model_of(name: str, folder: str, layers: int) -> Any:
    """A fresh model with this pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling, WeightedLayerPooling

    if name in OURS:
        design = lab.training.DESIGNS[name]
        return lab.training.embedder(folder, design.at(layers // 2) if design.layers == "best" else design)
    several = name == WEIGHTED
    transformer = Transformer(folder, config_kwargs={"output_hidden_states": True} if several else None)
    width = transformer.model.config.hidden_size
    mixing = [WeightedLayerPooling(width, num_hidden_layers=layers, layer_start=1)] if several else []
    return SentenceTransformer(modules=[transformer, *mixing, Pooling(width, "lasttoken" if name == LAST else "mean")])


def pairs_of(given: argparse.Namespace) -> pd.DataFrame:
    """Texts of about so many tokens, all different: `of` is one, and so is a number of one digit."""
    filler = "of " * (given.tokens - 10)
    rows = [" ".join(f"{i:06d}") for i in range(given.batch * 4)]
    return pd.DataFrame({"query": [f"{row} ask {filler}" for row in rows],
                         "positive": [f"{row} say {filler}" for row in rows]})  # fmt: skip


def run(name: str, folder: str, given: argparse.Namespace) -> dict[str, float]:
    """Train once; seconds of the clock and of the processor, and the most memory that the process had."""
    model = model_of(name, folder, given.layers)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    tuned = lab.training.contrastive(
        pairs_of(given), model, steps=given.steps, batch=given.batch, every=given.steps, progress=False, truncate=True
    )
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": tuned.seconds, "cpu": tuned.cpu_seconds, "megabytes": gpu or peak}


def measure(ask: Callable[[str], dict[str, float]], rounds: int) -> dict[str, list[dict[str, float]]]:
    names = list(BASELINE)
    for name in names[:2]:  # the first of a process pays for what is loaded late
        ask(name)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in tqdm(range(rounds), unit="round"):
        for name in reversed(names) if number % 2 else names:
            seen[name].append(ask(name))
    return seen


def alone(name: str, arguments: list[str]) -> float:
    """The peak memory of a process that trains this one only."""
    command = [sys.executable, __file__, *arguments, "--alone", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["megabytes"]


def table(seen: dict[str, list[dict[str, float]]], peaks: dict[str, float], samples: int) -> str:
    clock = "seconds" if torch.cuda.is_available() else "cpu"
    rows = [
        f"| pooling | samples/s | {clock}, x its baseline | (middle half) | goal | peak MB | x |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in seen.items():
        against = BASELINE[name]
        ratios = [one[clock] / other[clock] for one, other in zip(runs, seen[against], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rate = samples / statistics.median(one[clock] for one in runs)
        rows.append(
            f"| {name} | {rate:.1f} | {middle:.3f} | {low:.3f} to {high:.3f} | {GOALS.get(name, '')} | "
            f"{peaks[name]:.0f} | {peaks[name] / peaks[against]:.3f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="of training in a round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="of a text")
    parser.add_argument("--batch", type=int, default=32, help="pairs of a step")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table is stored")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        folder = saved(given, aside)
        if given.alone:
            run(given.alone, folder, given)
            print(json.dumps(run(given.alone, folder, given)))
            return
        began = time.perf_counter()
        seen = measure(lambda name: run(name, folder, given), max(2, given.rounds))
    sizes = [f"--{name}={getattr(given, name)}" for name in ("steps", "layers", "dim", "tokens", "batch")]
    took = time.perf_counter() - began
    peaks = {name: alone(name, sizes) for name in tqdm(BASELINE, unit="process")}
    used = {name: versions()[name] for name in ("python", "torch", "transformers", "sentence-transformers")}
    words = ", ".join(f"{name} {version}" for name, version in used.items())
    what = (
        f"llama {given.layers} x {given.dim}, {given.batch} pairs of {given.tokens} tokens, {given.steps} steps a round"
    )
    text = (
        f"# Training on {device()}\n\n{words}\n\n## {what}, {given.rounds} rounds in {took:.0f} s\n\n"
        f"{table(seen, peaks, given.steps * given.batch)}\n"
    )
    print(write("training", "md", text, given.folder).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
