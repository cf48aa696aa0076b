"""Training an embedding model on pairs: resumable, watched, stopped when it breaks; on sentence-transformers."""

import gc
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn
from tqdm import tqdm

from lab.data.undisturbed import undisturbed
from lab.models import identity
from lab.training.losses import named
from lab.training.losses.contrast import Loss
from lab.training.pairs import checked, checksum, held_out_pairs
from lab.training.remembered import remembered

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SAID = "run.json"


@dataclass(frozen=True, eq=False)
class Tuned:
    """A trained model, and what was seen on the way."""

    model: "SentenceTransformer"
    curve: xr.Dataset  # loss, grad_norm, rate, held_out where it was asked for [step]
    parameters: int  # that were trained, of the model and of the loss
    steps: int  # that were taken
    seconds: float  # of all steps and looks, also those before a kill
    cpu_seconds: float  # of this process's processors; less than seconds where others were at work
    ended: str  # "all steps", "no better" (the best weights are then put back), or "asked"


@undisturbed()  # what is imported on the way draws too
def contrastive(
    pairs: object,  # a DataFrame: what is none is refused in words
    model: "SentenceTransformer",
    *,
    loss: str | Callable[..., nn.Module] = "infonce",
    steps: int = 500,
    batch: int = 64,
    rate: float = 2e-5,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    seed: int = 0,
    folder: str | Path | None = None,
    every: int = 50,
    held_out: object = None,
    patience: int | None = None,
    no_duplicates: bool = False,
    truncate: bool = False,
    autocast: torch.dtype | None = None,
    see: Callable[[int, dict[str, Any]], bool | None] | None = None,
    progress: bool = True,
) -> Tuned:
    """Train the model, in place, to bring each query near its positive and away from the batch's other texts.

    pairs: columns query, positive, and any number that begin with "negative"; for the losses of texts with labels
    ("centroid_triplet", partial(LOSSES["normalized_softmax"], classes=C)) text and label, whole numbers from 0 on, and
    an even batch of 4 or more, in which two texts or more of each label stand. model: from lab.training.embedder, or
    any SentenceTransformer. loss: a name of lab.training.losses.LOSSES, or a callable loss(model) that gives a module,
    forward(sentence_features, labels) -> loss; its own parameters are trained too.
    Two stages are two calls: the second gets the first one's .model, other pairs, and another loss.
    A call that fails or is interrupted leaves the model as it got it, so that it can be called again.

    steps, batch (pairs a step and device), rate (its peak; warmed up linearly over the share `warmup` of the steps,
    then down to 0 linearly), AdamW, gradients clipped to a norm of 1; seed: which pairs stand in which batch.
    folder: where a checkpoint is kept, whole or not at all, written every `every` steps. Called again with the same
        arguments and the same initial model it goes on from there, to the same bits on the same device; finished, it is
        only read. The checkpoint also holds the optimiser and the random state as torch writes them, which are read
        as plain tensors (weights_only).
    held_out: pairs whose loss is looked at every `every` steps, and before the first. patience: looks without a lower
        one after which to stop, with the best weights put back.
    no_duplicates: keep equal texts out of the same batch; of held-out pairs those that repeat an earlier query or
        positive are left out. truncate: cut texts at the model's window.
    autocast: torch.bfloat16, or on a GPU torch.float16, for the forward pass.
    see: called as see(step, row) at every look; a true answer ends the run there, and is to be the same in all
        processes. Called again with the folder, a run that was so ended is only read, unless there is a `see` that no
        longer says so of its last look: then it goes on, also with the model as it was left.
    On several GPUs, or in several processes on a CPU, run the script under `accelerate launch` or torchrun: each
        process draws `batch` pairs of its own, whose negatives are its own too, the gradients are averaged, every
        process ends with the same weights and curve, and the first one writes the checkpoints.

    curve[step]: loss (mean of the steps since the look before), grad_norm (of the look's step, before clipping), rate,
    held_out (not a number where not asked for).

    Raises ValueError for pairs that cannot be trained on (see lab.training.pairs) or not by this loss, for numbers that
    make no sense, float16 on a CPU, and for a folder that holds another run; TypeError for a count that is no whole
    number; FloatingPointError when the loss, held out or not, or its gradient is no number, with the batch named and,
    in the folder, saved.
    """
    _check_numbers(steps, batch, rate, warmup, every, patience, held_out, autocast)
    if autocast == torch.float16 and model.device.type == "cpu":
        raise ValueError(
            "autocast=torch.float16 needs a GPU, where gradients too small for it are scaled; the model is on the CPU: "
            "take torch.bfloat16 or None"
        )
    make = named(loss)
    table = checked(pairs, model, batch, truncate=truncate, no_duplicates=no_duplicates)
    rest = None
    if held_out is not None:
        rest = held_out_pairs(held_out, table, model, truncate=truncate, no_duplicates=no_duplicates)
    said = {
        "loss": told(make), "steps": steps, "batch": batch, "rate": rate, "warmup": warmup, "seed": seed,
        "weight_decay": weight_decay, "every": every, "patience": patience, "no_duplicates": no_duplicates,
        "autocast": str(autocast), "pairs": checksum(table), "held_out": checksum(rest),
    }  # fmt: skip
    if held := sum(p.numel() for p in model.parameters() if not p.requires_grad):
        said["not trained"] = held  # lab.training.frozen, adapters
    keep = None if folder is None else Path(folder)
    with tempfile.TemporaryDirectory() as aside, remembered(model), _unswept(model):
        stepper = _stepper(table, rest, model, make, said, keep, aside, warmup, autocast)
        _check_fit(stepper.loss, table)
        if keep is not None:
            _claim(keep, said | {"model": _fingerprint(model)})
        try:
            with _put_back(stepper.loss, Path(aside) / "before.safetensors"):
                run = _trained(stepper, model, steps, every, patience, see, progress)
        finally:
            # trainer and callbacks hold each other: the optimiser, twice the weights, would outlive the next training
            vars(stepper).clear()
        if keep is not None and run.ended == "asked":
            _write(keep, said | {"model": json.loads((keep / SAID).read_text())["model"], "left": _fingerprint(model)})
    return run


@contextmanager
def _put_back(loss: nn.Module, path: Path) -> Iterator[None]:
    """What is trained, kept on disk and put back where the block is left by an error: memory is the training's."""
    from safetensors.torch import save_file

    from lab.training.stepper import kept, load

    save_file(kept(loss), path)
    with ExitStack() as failed:
        failed.callback(loss.eval)
        failed.callback(loss.zero_grad, set_to_none=True)
        failed.callback(load, loss, path)
        yield
        failed.pop_all()


@contextmanager
def _unswept(model: Any) -> Iterator[None]:
    """What lives now is not looked through by the trainer's own collections of garbage, which free a GPU's memory.

    They look at all that a notebook has imported, and a small model's steps on a CPU are short.
    """
    if model.device.type != "cpu" or gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _stepper(
    table: pd.DataFrame, rest: pd.DataFrame | None, model: Any, make: Any, said: dict[str, Any], keep: Path | None,
    aside: str, warmup: float, autocast: torch.dtype | None,
) -> Any:  # fmt: skip
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainingArguments

    from lab.training.stepper import Draws, Stepper

    batch, steps, seed = said["batch"], said["steps"], said["seed"]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(keep or aside), max_steps=steps, per_device_train_batch_size=batch,
        learning_rate=said["rate"],
        warmup_steps=round(warmup * steps), weight_decay=said["weight_decay"], lr_scheduler_type="linear", seed=seed,
        logging_strategy="no", eval_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True,
        logging_nan_inf_filter=False, dataloader_drop_last=True, bf16=autocast == torch.bfloat16,
        fp16=autocast == torch.float16, use_cpu=model.device.type == "cpu", ddp_find_unused_parameters=True,
        dataloader_pin_memory=model.device.type == "cuda",
    )  # fmt: skip
    if rest is not None:
        share = len(rest) // arguments.world_size
        if share < 2:
            raise ValueError(
                f"each of {arguments.world_size} processes looks at held-out pairs of its own, 2 or more; got "
                f"{len(rest)} in all"
            )
        small = min(batch, share)
        arguments.per_device_eval_batch_size = small // 2 * 2 if "label" in rest else small
    if arguments.n_gpu > 1:  # replicas of one process would not see the hooks that pool layers; processes do
        arguments._n_gpu = 1
    data, held = (None if one is None else Dataset.from_pandas(one, preserve_index=False) for one in (table, rest))
    draws = Draws(data, batch, steps * arguments.world_size, seed, said["no_duplicates"])
    return Stepper(
        pairs=table,
        rest=rest,
        draws=draws,
        keep=keep,
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=held,
        loss=make,
    )


def _trained(stepper: Any, model: Any, steps: int, every: int, patience: int | None, see: Any, progress: bool) -> Tuned:
    from lab.training.stepper import Look, checkpoints, put

    parameters = sum(value.numel() for value in stepper.loss.parameters() if value.requires_grad)
    there = checkpoints(stepper.keep) if stepper.keep else []
    if there:
        stepper._load_from_checkpoint(there[-1])
    # the look before the first step is the trainer's: one before train() would leave the processes of a launcher apart
    stepper.args.eval_on_start = stepper.eval_dataset is not None and not there
    done = stepper.rows[-1]["step"] if stepper.rows else 0
    if see is not None and 0 < done < steps and stepper.rows[-1].get("ended") == "asked":
        last = {k: v for k, v in stepper.rows[-1].items() if k not in ("ended", "seconds", "cpu_seconds")}
        if not see(done, last):
            del stepper.rows[-1]["ended"]
    if not (stepper.rows and "ended" in stepper.rows[-1]):
        with tqdm(total=steps, initial=done, desc="train", disable=not progress, leave=False) as bar:
            stepper.add_callback(Look(stepper, every, patience, see, bar))
            stepper.train(resume_from_checkpoint=str(there[-1]) if there else None)
    last = stepper.rows[-1]
    if last["ended"] == "no better":
        put(stepper.loss, stepper.best)
    stepper.accelerator.unwrap_model(stepper.model_wrapped, keep_fp32_wrapper=False)
    model.zero_grad(set_to_none=True)
    model.eval()
    names = ("loss", "grad_norm", "rate", "held_out")
    found = {name: ("step", np.array([row.get(name, np.nan) for row in stepper.rows], float)) for name in names}
    curve = xr.Dataset(found, coords={"step": [row["step"] for row in stepper.rows]})
    return Tuned(model, curve, parameters, last["step"], last["seconds"], last["cpu_seconds"], last["ended"])


def _check_numbers(
    steps: int, batch: int, rate: float, warmup: float, every: int, patience: int | None,
    held_out: object, autocast: torch.dtype | None,
) -> None:  # fmt: skip
    for name, value in {"steps": steps, "batch": batch, "every": every, "patience": patience}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise TypeError(f"{name} must be a whole number; got {value!r}")
    if steps < 1 or every < 1 or not rate > 0 or not 0 <= warmup < 1:
        raise ValueError(
            f"got steps={steps}, every={every}, rate={rate}, warmup={warmup}; needed are at least one step, "
            "a look every 1 or more, a positive rate, and a share of the steps in [0, 1) to warm up"
        )
    if batch < 2:
        raise ValueError(f"batch must be 2 or more: the other pairs of a batch are the negatives; got {batch}")
    if patience is not None and (patience < 1 or held_out is None):
        raise ValueError(f"patience counts looks at held-out pairs: give held_out=, and 1 or more; got {patience}")
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None; got {autocast}")


def _check_fit(loss: nn.Module, table: pd.DataFrame) -> None:
    """Losses of lab say whether they are of texts with labels; of others it is theirs to say."""
    ours = [module for module in loss.modules() if isinstance(module, Loss)]
    labels = any(module.of_labels for module in ours)
    if ours and labels != ("label" in table):
        needs = "texts with labels, the columns text and label" if labels else "pairs, the columns query and positive"
        raise ValueError(f"{type(loss).__name__} is trained on {needs}; got the columns {list(table)}")


def told(value: Any) -> str:
    """A loss, or an option of one, in words that tell it from another, in this process and any other."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, partial):
        options = (f"{key}={told(one)}" for key, one in sorted(value.keywords.items()))
        return f"{told(value.func)}({', '.join([*map(told, value.args), *options])})"
    if isinstance(value, nn.Module):  # a guide or a selector: by what it computes with
        return f"{type(value).__qualname__} {_fingerprint(value)}"
    kind = value if hasattr(value, "__qualname__") else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    # what can be imported by its name is told by it; a lambda, a closure or an object by what it holds as well
    return name if kind is value and "<" not in name else f"{name} {identity.checksum(value)[:16]}"


def _fingerprint(model: Any) -> str:
    return identity.checksum(dict(sorted(model.state_dict().items())))[:16]


def _claim(folder: Path, said: dict[str, Any]) -> None:
    """Say in the folder what is trained there; ValueError where it says something else, naming what differs."""
    path, now = folder / SAID, json.loads(json.dumps(said))
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        left = there.pop("left", None)
        if left == now["model"]:  # as who looks has left it: its checkpoint is that of the first
            now["model"] = there["model"]
        other = {k: f"{there.get(k)!r} there, {now.get(k)!r} asked" for k in there | now if there.get(k) != now.get(k)}
        if other:
            raise ValueError(f"{folder} holds another run: {other}; give another folder, or delete this one")
        now |= {} if left is None else {"left": left}  # it may fail, and be called again as it was left
    _write(folder, now)
    shutil.rmtree(folder / "part", ignore_errors=True)  # what a kill left of a checkpoint


def _write(folder: Path, said: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{SAID}.{os.getpid()}"
    part.write_text(json.dumps(said, indent=1), encoding="utf-8")
    os.replace(part, folder / SAID)
