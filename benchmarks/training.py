"""What it costs to train through our pools: samples a second and peak memory beside sentence-transformers' own.

    python benchmarks/training.py [--all] [--steps 6] [--rounds 10] [--layers 4] [--dim 192] [--tokens 48] [--batch 24]

Every row trains the same llama on the same pairs by the same loss. Ours are lab.training.contrastive of a design of
lab.training.DESIGNS; the others are sentence-transformers alone, its trainer and its poolings. Equal poolings are held
against its Pooling of the same mode, pools of several layers against its mean, which reads the last layer alone, and
beside its own WeightedLayerPooling, which keeps all layers. --all adds the designs that have no goal.

Rows take turns in one process, round by round and every second round backwards; a round is a training from the start.
Timed are the steps between the beginning of the second and that of the last, so that neither what is loaded late nor
what a trainer sets up counts. Ratios are medians over rounds of (row / its baseline) within the round, of processor
seconds on a CPU, which a busy machine moves less than the clock's, with the middle half beside them.
Memory is of a fresh process for each row: how far the peak of a training stands above what was held before it, after
a training on two pairs has loaded what is loaded late and has been collected whole; on a GPU what torch had allocated
at the most. Tables are stored in benchmarks/results/.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from shared.memory import anew, highest
from shared.results import FOLDER, write
from tqdm import tqdm

import lab
from lab.reports.machine import device, versions

MEAN, LAST = "sentence-transformers, mean", "sentence-transformers, last token"
WEIGHTED = "sentence-transformers, WeightedLayerPooling"
# ours by the name of the design, what each is held against, and the most it may cost
GOALS = {
    "mean, both ways": (MEAN, 1.0),
    "last, both ways": (LAST, 1.0),
    "softmax mix, both ways": (MEAN, 1.1),
    "5r multi-layer, both ways": (MEAN, 1.1),
}
WITHOUT = ("best layer, both ways", "5 multi-layer, both ways", "4r last-layer, both ways",
           "latent attention, both ways")  # fmt: skip
BASELINE = {MEAN: MEAN, LAST: LAST, WEIGHTED: MEAN} | {name: against for name, (against, _) in GOALS.items()}
RATE = 2e-5


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

    if name in lab.training.DESIGNS:
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


def train(name: str, model: Any, given: argparse.Namespace) -> None:
    pairs = pairs_of(given)
    if name in lab.training.DESIGNS:
        lab.training.contrastive(
            pairs, model, steps=given.steps, batch=given.batch, rate=RATE, every=given.steps, progress=False,
            truncate=True,
        )  # fmt: skip
        return
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers.trainer_callback import PrinterCallback

    with tempfile.TemporaryDirectory() as aside:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=aside, max_steps=given.steps, per_device_train_batch_size=given.batch, learning_rate=RATE,
            warmup_steps=round(0.1 * given.steps), weight_decay=0.01, lr_scheduler_type="linear", save_strategy="no",
            logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=model.device.type == "cuda",
        )  # fmt: skip
        data = Dataset.from_pandas(pairs, preserve_index=False)
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=data, loss=MultipleNegativesRankingLoss(model)
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def run(name: str, folder: str, given: argparse.Namespace) -> dict[str, float]:
    """Train once; seconds of the clock and of the processor for a step, and the memory that it took."""
    model, begun = model_of(name, folder, given.layers), []

    def mark(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begun.append((time.perf_counter(), time.process_time()))

    hook = model[0].register_forward_pre_hook(mark)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    gc.collect()  # what is left of the training before, twice the weights and more, is nobody's to live on
    anew()
    held = psutil.Process().memory_info().rss / 2**20
    train(name, model, given)
    hook.remove()
    if len(begun) != 2 * given.steps:  # queries, then positives
        raise RuntimeError(f"{name} went through the model {len(begun)} times in {given.steps} steps of two sides")
    clock, cpu = ((after - before) / (given.steps - 2) for before, after in zip(begun[2], begun[-2], strict=True))
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return {"seconds": clock, "cpu": cpu, "megabytes": gpu or highest() - held}


def measure(names: list[str], ask: Callable[[str], dict[str, float]], rounds: int) -> dict[str, list[dict[str, float]]]:
    for name in (names[0], names[-1]):  # the first of a process pays for what is loaded late
        ask(name)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in tqdm(range(rounds), unit="round"):
        for name in reversed(names) if number % 2 else names:
            seen[name].append(ask(name))
    return seen


def alone(name: str, arguments: list[str]) -> float:
    """The memory of a process that trains this one only."""
    command = [sys.executable, __file__, *arguments, "--alone", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} by itself ended with {done.returncode}: {done.stderr[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])["megabytes"]


def table(seen: dict[str, list[dict[str, float]]], memory: dict[str, float], batch: int) -> str:
    clock = "seconds" if torch.cuda.is_available() else "cpu"
    rows = [
        f"| trained | samples/s | {clock}, x its baseline | (middle half) | goal | MB of its own | x its baseline |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in seen.items():
        against = BASELINE.get(name, MEAN)
        ratios = [one[clock] / other[clock] for one, other in zip(runs, seen[against], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rate = batch / statistics.median(one["seconds"] for one in runs)
        goal = f"<= {GOALS[name][1]}" if name in GOALS else ""
        rows.append(
            f"| {name} | {rate:.1f} | {middle:.3f} | {low:.3f} to {high:.3f} | {goal} | "
            f"{memory[name]:.0f} | {memory[name] / memory[against]:.3f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the designs without a goal as well")
    parser.add_argument("--steps", type=int, default=6, help="of training in a round, 3 or more")
    parser.add_argument("--rounds", type=int, default=10, help="2 or more")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=48, help="of a text")
    parser.add_argument("--batch", type=int, default=24, help="pairs of a step")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table is stored")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.steps < 3 or given.rounds < 2:
        parser.error(f"--steps must be 3 or more and --rounds 2 or more; got {given.steps} and {given.rounds}")
    with tempfile.TemporaryDirectory() as aside:
        folder = saved(given, aside)
        if given.alone:
            run(given.alone, folder, argparse.Namespace(**vars(given) | {"batch": 2}))  # what is loaded late
            print(json.dumps(run(given.alone, folder, given)))
            return
        began = time.perf_counter()
        names = [*BASELINE, *(WITHOUT if given.all else ())]
        seen = measure(names, lambda name: run(name, folder, given), given.rounds)
    sizes = [f"--{name}={getattr(given, name)}" for name in ("steps", "layers", "dim", "tokens", "batch")]
    memory = {name: alone(name, sizes) for name in tqdm(names, unit="process")}
    took = time.perf_counter() - began
    used = {name: versions()[name] for name in ("python", "torch", "transformers", "sentence-transformers")}
    words = ", ".join(f"{name} {version}" for name, version in used.items())
    what = f"llama {given.layers} x {given.dim}, {given.batch} pairs of {given.tokens} tokens, {given.steps} steps"
    text = (
        f"# Training on {device()}\n\n{words}\n\n## {what}, {given.rounds} rounds in {took:.0f} s\n\n"
        f"{table(seen, memory, given.batch)}\n"
    )
    print(write("training", "md", text, given.folder).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
