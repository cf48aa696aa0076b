"""What it costs to see every layer: time and peak memory of capture beside the plain forward pass and its peers.

    python benchmarks/capture.py [--texts 400] [--rounds 7]

Each variant runs in a process of its own, so that its peak memory is its own; the processes take turns, round by
round, so that a busy minute of the machine strikes all of them. Ratios are medians over rounds of (variant / plain)
within the round. The table is printed and stored in benchmarks/results/ under the device's name.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from shared.results import write
from tqdm import tqdm

import lab
from lab.capture.batches import batches, tokenize
from lab.reports.machine import device, versions

MODEL, POOLS = "minilm", ("mean", "last", "max", "first")


def forward(model: lab.models.Loaded, texts: list[str], **asked: bool) -> Iterator[dict[str, Any]]:
    """The model's output for each of the batches that capture makes."""
    budget = 65_536 if model.device.type == "cuda" else 2_048
    with torch.inference_mode():
        for batch in batches(tokenize(model.tokenizer, texts, model.window), budget):
            ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
            yield model.model(input_ids=ids, attention_mask=mask.long(), **asked)


def plain(model: lab.models.Loaded, texts: list[str]) -> None:
    for _ in forward(model, texts):
        pass


def capture(model: lab.models.Loaded, texts: list[str]) -> None:
    lab.capture.states(model, texts, pools=POOLS, progress=False)


def keep_all(model: lab.models.Loaded, texts: list[str]) -> None:
    _kept = [[h.cpu() for h in out["hidden_states"]] for out in forward(model, texts, output_hidden_states=True)]


def stack_then_mean(model: lab.models.Loaded, texts: list[str]) -> None:
    for out in forward(model, texts, output_hidden_states=True):
        torch.stack(out["hidden_states"]).mean(2).cpu()


@cache
def peer(source: str, where: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(source, device=where)


def sentence_transformers(model: lab.models.Loaded, texts: list[str]) -> None:
    peer(model.source, str(model.device)).encode(texts)


VARIANTS = {
    "plain forward pass": plain,
    "lab.capture, all layers x 4 pools": capture,
    "output_hidden_states, everything kept": keep_all,
    "output_hidden_states, stacked and averaged": stack_then_mean,
    "sentence-transformers encode, last layer only": sentence_transformers,
}


def serve(variant: str, n: int) -> None:
    """Run the variant once for every line on standard input, answering with seconds and the peak memory so far."""
    model = lab.models.load(MODEL)
    texts = lab.data.docstrings(n, seed=0)["text"].tolist()
    VARIANTS[variant](model, texts[:32])
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        VARIANTS[variant](model, texts)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        gpu = torch.cuda.max_memory_allocated() / 2**20 if model.device.type == "cuda" else 0.0
        print(json.dumps({"seconds": seconds, "megabytes": gpu or peak}), flush=True)


def measure(n: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", name, "--texts", str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in VARIANTS
    }
    for process in processes.values():
        json.loads(process.stdout.readline())
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in tqdm(range(rounds), unit="round"):
        for name, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            seen[name].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return seen


def table(seen: dict[str, list[dict[str, float]]], n: int) -> str:
    base = seen["plain forward pass"]
    rows = ["| variant | texts/s | time, x plain | (spread) | peak MB | x plain |", "|---|---|---|---|---|---|"]
    for name, runs in seen.items():
        ratios = sorted(run["seconds"] / own["seconds"] for run, own in zip(runs, base, strict=True))
        rate = n / statistics.median(run["seconds"] for run in runs)
        peak = runs[-1]["megabytes"]
        rows.append(
            f"| {name} | {rate:.1f} | {statistics.median(ratios):.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f} "
            f"| {peak:.0f} | {peak / base[-1]['megabytes']:.3f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=400, help="docstrings drawn from the corpus")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve, given.texts)
    lab.data.corpus()  # harvested once, before the processes need it
    seen = measure(given.texts, given.rounds)
    used = {name: versions()[name] for name in ("python", "torch", "transformers", "sentence-transformers")}
    where = write(
        "capture",
        "md",
        f"# Capture on {device()}\n\n{MODEL}, {given.texts} docstrings, {given.rounds} rounds; "
        f"{', '.join(f'{name} {version}' for name, version in used.items())}\n\n{table(seen, given.texts)}\n",
    )
    print(where.read_text(encoding="utf-8"))
    return None


if __name__ == "__main__":
    main()
