"""A tiny decoder trained first to say what comes next: the base model of experiments that one person can run."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lab.data import cache
from lab.data.ledger import of_texts
from lab.data.undisturbed import undisturbed

PAD, UNKNOWN, END = "[PAD]", "[UNK]", "[EOS]"


def base(
    texts: Iterable[str],
    *,
    layers: int = 4,
    dim: int = 64,
    heads: int = 4,
    pieces: int = 4096,
    window: int = 128,
    steps: int = 300,
    batch: int = 32,
    rate: float = 3e-3,
    seed: int = 0,
    folder: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Path:
    """Train a llama as a language model on the texts; the folder it was saved in, as transformers saves.

    lab.models.load(folder), transformers and sentence-transformers open it: safetensors, and a tokenizer of its own,
    byte pairs of lower-cased words, `pieces` of them learned from the texts, each text ended by [EOS].
    layers, dim, heads: of a LlamaConfig with an MLP of 8/3 dim and the output tied to the embeddings; window: tokens it
    can read, and of a training row: texts stand one after the other, cut where a row is full.
    AdamW at a rate that is warmed up over a tenth of the steps and brought down to 0 linearly; the seed draws weights
    and rows. curve.json holds the loss on the way.

    folder: where trained bases lie, lab.data.cache.folder() / "bases" where not given. A base is kept under a name that
    has its seed and a checksum of recipe and texts, whole or not at all: asked for again, it is only found.

    Raises ValueError for sizes that do not fit, and for too little text for one row a batch; FloatingPointError when
    the loss, its gradient or a weight is no number, with the batch named and saved in the folder: nothing is kept then
    as a base.
    """
    texts = list(texts)
    sizes = {"layers": layers, "dim": dim, "heads": heads, "pieces": pieces, "window": window, "steps": steps,
             "batch": batch}  # fmt: skip
    if min(sizes.values()) < 1 or dim % (2 * heads) or window < 2 or not rate > 0:
        raise ValueError(
            f"got {sizes} and rate={rate}; needed are positive ones, a dim that is a multiple of "
            "2 * heads, and a window of 2 or more"
        )
    recipe = sizes | {"rate": rate, "seed": seed, "texts": of_texts(texts)[:16]}
    name = f"llama-{layers}x{dim}-seed{seed}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"
    place = Path(folder or cache.folder() / "bases") / name
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{name}.part", dir=place.parent))
    try:
        with undisturbed():
            torch.manual_seed(seed)
            tokenizer = _tokenizer(texts, pieces, window)
            curve = _train(texts, tokenizer, recipe, part, place, device, progress)
        tokenizer.save_pretrained(part)
        (part / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
        (part / "curve.json").write_text(json.dumps(curve), encoding="utf-8")
        if not place.exists():  # another process may have been faster, with the same result
            os.replace(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place


def _tokenizer(texts: list[str], size: int, window: int) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    # not WordPiece: its trainer breaks ties by the order of a hash table, and no two trainings are alike
    made = Tokenizer(models.BPE(unk_token=UNKNOWN))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # words and single signs: an underscore parts words
    learned = trainers.BpeTrainer(vocab_size=size, special_tokens=[PAD, UNKNOWN, END], show_progress=False)
    made.train_from_iterator(texts, learned)
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, made.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, model_max_length=window
    )


def _train(
    texts: list[str], tokenizer: Any, recipe: dict[str, Any], folder: Path, place: Path, device: Any, progress: bool
) -> list[float]:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    class Watched(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *given: Any, **options: Any) -> Any:
            self.ids = inputs["input_ids"]
            loss = super().compute_loss(model, inputs, *given, **options)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()}{self.where()}")
            return loss

        def _clip_grad_norm(self, model: Any) -> Any:
            norm = super()._clip_grad_norm(model)
            if not torch.isfinite(torch.as_tensor(norm)):
                raise FloatingPointError(f"the gradient's norm is {float(norm)}{self.where()}")
            return norm

        def where(self) -> str:
            at = self.state.global_step
            return (
                f" at step {at}{_batch(self.ids, rows, tokenizer, place.with_name(f'{place.name}-batch-{at}.jsonl'))}"
            )

    rows = _rows(texts, tokenizer, recipe["window"])
    if len(rows) < recipe["batch"]:
        raise ValueError(
            f"the texts fill {len(rows)} rows of {recipe['window']} tokens, a batch needs {recipe['batch']}; give more"
        )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe["dim"], intermediate_size=8 * recipe["dim"] // 3,
        num_hidden_layers=recipe["layers"], num_attention_heads=recipe["heads"], num_key_value_heads=recipe["heads"],
        max_position_embeddings=recipe["window"], tie_word_embeddings=True, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    arguments = TrainingArguments(
        output_dir=str(folder / "aside"), max_steps=recipe["steps"], per_device_train_batch_size=recipe["batch"],
        learning_rate=recipe["rate"], warmup_steps=round(0.1 * recipe["steps"]), weight_decay=0.1, seed=recipe["seed"],
        lr_scheduler_type="linear", logging_steps=max(1, recipe["steps"] // 50), save_strategy="no", report_to="none",
        disable_tqdm=True, dataloader_drop_last=True, use_cpu=device.type == "cpu", logging_nan_inf_filter=False,
        dataloader_pin_memory=device.type == "cuda",
    )  # fmt: skip
    with tqdm(total=recipe["steps"], desc="train the base", disable=not progress, leave=False) as bar:

        class Bar(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                bar.update()

        data = [{"input_ids": row, "labels": row} for row in rows]
        trainer = Watched(model=model, args=arguments, train_dataset=data, callbacks=[Bar()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if wrong := [name for name, value in model.state_dict().items() if not bool(value.isfinite().all())]:
        # the last step has no loss after it to tell
        raise FloatingPointError(f"{len(wrong)} weights are no numbers after the last step, such as {wrong[0]}")
    model.save_pretrained(folder)
    shutil.rmtree(folder / "aside", ignore_errors=True)
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def _batch(ids: torch.Tensor, rows: torch.Tensor, tokenizer: Any, path: Path) -> str:
    """The batch on which training broke down, saved and told."""
    numbers = [int((rows == row).all(1).nonzero()[0]) for row in ids.cpu()]
    lines = [json.dumps({"row": i, "text": tokenizer.decode(rows[i])}, ensure_ascii=False) for i in numbers]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"; the batch: rows {numbers} of the texts, {rows.shape[1]} tokens each, saved as {path}"


def _rows(texts: list[str], tokenizer: Any, window: int) -> torch.Tensor:
    """All texts as one row of ids, cut into rows of `window`; the rest is left."""
    ids = np.concatenate([np.array(row) for row in tokenizer(texts, truncation=False, verbose=False)["input_ids"]])
    return torch.from_numpy(ids[: len(ids) // window * window].reshape(-1, window))
