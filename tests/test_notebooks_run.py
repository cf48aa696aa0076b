"""Every notebook runs to its end at its smallest size, and its report says what was asked and found."""

from pathlib import Path

import nbformat
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lab import reports

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_at_smoke(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # a reader's notebook does not run on the interpreter
    record = reports.run(notebook, tmp_path, preset="smoke")
    assert record.status == "done", record.problem
    assert record.title
    assert record.question
    assert record.verdict
    assert record.figure
    page = (tmp_path / f"{notebook.stem}.html").read_text(encoding="utf-8")
    assert record.bytes == len(page.encode())
    assert record.bytes < 3_000_000
    executed = nbformat.read(tmp_path / notebook.name, as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    said = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in said, said


def test_sinks_of_a_language_model_of_bytes_without_a_frame(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    letters = ["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytewise = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    bytewise.pre_tokenizer, bytewise.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    torch.manual_seed(0)
    config = tf.GPT2Config(
        vocab_size=len(letters), n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=None, eos_token_id=None
    )
    tf.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    named = {"tokenizer_object": bytewise, "pad_token": "<pad>"}
    tf.PreTrainedTokenizerFast(**named).save_pretrained(tmp_path / "gpt2")
    record = reports.run(
        Path("notebooks/sinks.ipynb"), tmp_path / "out", preset="smoke", model=str(tmp_path / "gpt2"), tokens=32
    )
    assert record.status == "done", record.problem
    assert "The loss of the next token" in record.verdict
    page = (tmp_path / "out" / "sinks.html").read_text(encoding="utf-8")
    assert "with and without the token at place 1" in page
