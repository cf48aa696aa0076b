"""sentence-transformers' trainer with batches that are a function of the seed, and checkpoints that are whole.

What theirs does is left to theirs. Changed are: the order of the batches (any step's can be told again), what a
checkpoint holds (the trained weights of the loss too, which theirs leaves out) and how it comes to be, what happens
when the loss is no number, and that nothing is reported anywhere. Importing this file takes seconds.
"""

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.base.sampler import DefaultBatchSampler, GroupByLabelBatchSampler, NoDuplicatesBatchSampler
from torch import Tensor, nn
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

WEIGHTS, ROWS, PART = "trained.safetensors", "rows.json", "part"


class Draws(BatchSampler):
    """`count` batches of row numbers, in rounds of random order: no row twice in a round; what fills no batch is left.

    no_duplicates: no text twice in a batch, by sentence-transformers' sampler; rows that it finds no place for wait for
    the next round, so a round may be shorter than the rows would fill. A column `label`: two rows or more of each label
    that stands in a batch, and two labels or more, likewise; of the largest class much may wait. The same seed gives
    the same batches, of which a killed run skips those that it has had.
    """

    def __init__(self, dataset: Any, batch: int, count: int, seed: int, no_duplicates: bool = False) -> None:
        self.dataset, self.batch_size, self.count = dataset, batch, count
        self.seed, self.no_duplicates, self.drop_last = seed, no_duplicates, True

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(itertools.chain.from_iterable(map(self._round, itertools.count())), self.count)

    def _round(self, number: int) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 2_000_003 + number)
        grouped = "label" in self.dataset.column_names
        if self.no_duplicates or grouped:
            theirs = GroupByLabelBatchSampler if grouped else NoDuplicatesBatchSampler
            seed = int(torch.randint(2**31, (), generator=generator))
            # with drop_last theirs would draw rows a second time, to come to the count it gave, and warn of it
            drawn = theirs(
                self.dataset, self.batch_size, drop_last=False, valid_label_columns=["label"], generator=generator,
                seed=seed,
            )  # fmt: skip
            found = [rows for rows in drawn if len(rows) == self.batch_size]
            if not found:
                apart = "texts with two of each label" if grouped else "pairs without a text in common"
                raise ValueError(f"no {self.batch_size} {apart}; take a smaller batch")
            return iter(found)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        whole = len(order) // self.batch_size * self.batch_size
        return (order[at : at + self.batch_size] for at in range(0, whole, self.batch_size))


class Stepper(SentenceTransformerTrainer):
    """The trainer of lab.training.contrastive, which has the words on it."""

    def __init__(
        self, *, pairs: pd.DataFrame, rest: pd.DataFrame | None, draws: Draws, keep: Path | None, **options: Any
    ) -> None:
        self.pairs, self.rest, self.draws, self.keep = pairs, rest, draws, keep
        self.looks: BatchSampler | None = None  # the batches of held-out rows, of which `looked` were had in this look
        self.looked = 0
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}  # the weights at the lowest held-out loss, where patience is asked for
        self.began = time.perf_counter(), time.process_time()
        self.before = 0.0, 0.0  # what was spent before a kill
        super().__init__(**options)
        self.remove_callback(PrinterCallback)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No card: it would look through the data and, where the network is there, ask the hub."""

    def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
        if dataset is self.train_dataset:
            return self.draws
        if "label" in dataset.column_names:
            once = GroupByLabelBatchSampler(dataset, batch_size, drop_last=True, valid_label_columns=["label"])
            self.looks = Draws(dataset, batch_size, len(once), seed=0)
        else:
            self.looks = DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)
        return self.looks

    def evaluate(self, *given: Any, **options: Any) -> dict[str, float]:
        self.looked = 0
        return super().evaluate(*given, **options)

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
        found = super().compute_loss(model, inputs, return_outputs=return_outputs, **options)
        loss = found[0] if return_outputs else found
        if not torch.isfinite(loss):
            what = "the loss" if model.training else "the held-out loss"
            raise FloatingPointError(f"{what} is {loss.item()} at step {self.state.global_step}{self._batch(model)}")
        self.looked += not model.training
        return found

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        # a gradient scaler sees to infinities itself: it skips the step and lowers its scale
        if norm is not None and self.accelerator.scaler is None and not torch.isfinite(torch.as_tensor(norm)):
            where = self._batch(model)
            raise FloatingPointError(f"the gradient's norm is {float(norm)} at step {self.state.global_step}{where}")
        return norm

    def _batch(self, model: nn.Module) -> str:
        """The batch of this step or look, saved where there is a folder, and told."""
        step, name = self.state.global_step, "batch"
        draws, at, table, what = self.draws, step, self.pairs, "pairs"
        if not model.training:
            draws, at, table, what, name = self.looks, self.looked, self.rest, "held-out pairs", "held-out-batch"
        rows = next(itertools.islice(iter(draws), at * self.args.world_size + self.args.process_index, None))
        told = f"; the batch: rows {rows} of the {what}"
        if self.keep is None:
            return f"{told}; not saved: no folder was given"
        path = self.keep / f"{name}-{step}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.iloc[rows].assign(row=rows).to_json(path, orient="records", lines=True, force_ascii=False)
        return f"{told}, saved as {path}"

    def spent(self) -> dict[str, float]:
        """Seconds of the clock and of the processor, those before a kill among them."""
        now = time.perf_counter(), time.process_time()
        total = [before + a - b for before, a, b in zip(self.before, now, self.began, strict=True)]
        return dict(zip(("seconds", "cpu_seconds"), total, strict=True))

    # checkpoints: made aside, then moved into place; the one before goes when the next is whole

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        self.args.output_dir = str(self.keep / PART)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(self.keep)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            os.replace(self.keep / PART / name, self.keep / name)
            for old in checkpoints(self.keep)[:-1]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        if not self.args.should_save:  # one process writes
            return
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.cpu().contiguous().clone() for k, v in trained(self.loss).items()}, folder / WEIGHTS)
        if self.best:
            save_file(self.best, folder / f"best-{WEIGHTS}")
        (folder / ROWS).write_text(json.dumps(self.rows), encoding="utf-8")

    def _load_from_checkpoint(self, checkpoint_path: str | Path, model: Any = None) -> None:  # noqa: ARG002
        load(self.loss, Path(checkpoint_path) / WEIGHTS)
        self.rows = json.loads((Path(checkpoint_path) / ROWS).read_text(encoding="utf-8"))
        self.before = self.rows[-1]["seconds"], self.rows[-1]["cpu_seconds"]
        best = Path(checkpoint_path) / f"best-{WEIGHTS}"
        self.best = load_file(best) if best.exists() else {}


class Look(TrainerCallback):
    """Every `every` steps and at the end: a row of the curve, the held-out loss, a checkpoint, and whether to stop."""

    def __init__(self, stepper: Stepper, every: int, patience: int | None, see: Callable | None, bar: Any) -> None:
        self.stepper, self.every, self.patience, self.see, self.bar = stepper, every, patience, see, bar
        self.held_out = stepper.eval_dataset is not None

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update()
        due = state.global_step % self.every == 0 or state.global_step == state.max_steps
        control.should_log, control.should_evaluate = due, due and self.held_out
        control.should_save = due and self.stepper.keep is not None
        control.should_training_stop = state.global_step >= state.max_steps

    def on_log(self, _args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if "loss" not in (logs or {}):
            return
        self.stepper.rows.append(
            {"step": state.global_step, "loss": logs["loss"], "grad_norm": logs.get("grad_norm", float("nan")),
             "rate": logs["learning_rate"]}
        )  # fmt: skip
        if not self.held_out:
            self._seen(state, control)

    def on_evaluate(self, _args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        if state.global_step == 0:
            self.stepper.rows = [{"step": 0, "held_out": metrics["eval_loss"]}]
            if self.patience is not None:  # the best may be what was there before the first step
                self.stepper.best = kept(self.stepper.loss)
            return
        row = self.stepper.rows[-1]
        earlier = [one["held_out"] for one in self.stepper.rows[:-1] if "held_out" in one]
        row["held_out"] = metrics["eval_loss"]
        if self.patience is not None:
            if not earlier or row["held_out"] < min(earlier):
                self.stepper.best = kept(self.stepper.loss)
            elif len(earlier) - int(np.argmin(earlier)) >= self.patience:
                row["ended"], control.should_training_stop = "no better", True
        self._seen(state, control)

    def _seen(self, state: Any, control: Any) -> None:
        row = self.stepper.rows[-1]
        self.bar.set_postfix({k: f"{row[k]:.3f}" for k in ("loss", "held_out") if k in row})
        if self.see is not None and self.see(state.global_step, dict(row)):
            row["ended"], control.should_training_stop = "asked", True
        if state.global_step >= state.max_steps:
            row.setdefault("ended", "all steps")
        row |= self.stepper.spent()


def trained(loss: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, and buffers, of the loss and of the model inside it, each once."""
    return {k: v.detach() for k, v in loss.named_parameters() if v.requires_grad} | dict(loss.named_buffers())


def kept(loss: nn.Module) -> dict[str, Tensor]:
    """A copy of what is trained, to be put back later."""
    return {name: value.cpu().clone() for name, value in trained(loss).items()}


@torch.no_grad()
def load(loss: nn.Module, path: Path) -> None:
    put(loss, load_file(path))


@torch.no_grad()
def put(loss: nn.Module, found: dict[str, Tensor]) -> None:
    """Put these values in the place of the trained ones; ValueError where they are not of the same names and shapes."""
    own = trained(loss)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in found.items()}:
        raise ValueError("the checkpoint is of another model or loss; give another folder")
    for name, value in own.items():
        value.copy_(found[name])


def checkpoints(folder: Path) -> list[Path]:
    """The whole ones, the earliest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
