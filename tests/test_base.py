"""lab.training.base: a language model that breaks down stops with its batch, and is never kept as a base."""

import json
from functools import partial, wraps

import pytest
import torch
from transformers import LlamaForCausalLM

import lab

pytestmark = pytest.mark.usefixtures("plain_torch")

TEXTS = [f"word {i} and more words here {i * i}" for i in range(60)]
SMALL = {"layers": 1, "dim": 16, "heads": 2, "pieces": 100, "window": 8, "steps": 6, "batch": 4, "progress": False}
made = partial(lab.training.base, TEXTS, **SMALL)


def test_a_base_that_diverges_stops_with_its_batch_saved_and_is_not_kept(tmp_path):
    for _ in range(2):  # the second call does not find it
        with pytest.raises(
            FloatingPointError, match=r"(the loss|the gradient's norm) is (nan|inf) at step \d"
        ) as caught:
            made(rate=1e20, folder=tmp_path)
    (saved,) = tmp_path.iterdir()
    assert str(saved) in str(caught.value)
    rows = [json.loads(line) for line in saved.read_text().splitlines()]
    assert str([row["row"] for row in rows]) in str(caught.value)
    assert len(rows) == SMALL["batch"]
    assert all("word" in row["text"] for row in rows)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_no_number_is_named_with_its_step(tmp_path, monkeypatch, what):
    honest, calls = LlamaForCausalLM.forward, []

    @wraps(honest)  # the trainer asks for its arguments
    def forward(self, **given):
        found = honest(self, **given)
        calls.append(1)
        if len(calls) == 3:  # a loss that is none, or a finite one whose slope is none
            zero = found.logits.sum() * 0
            found.loss = found.loss + (zero.sqrt() if what == "gradient" else zero * torch.nan)
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    said = "the loss is nan" if what == "loss" else "the gradient's norm is nan"
    with pytest.raises(FloatingPointError, match=f"{said} at step 2; the batch: rows"):
        made(folder=tmp_path)
    assert [path.name.rpartition("-")[2] for path in tmp_path.iterdir()] == ["2.jsonl"]


def test_weights_that_the_last_step_broke_are_not_kept(tmp_path, monkeypatch):
    honest, steps = torch.optim.AdamW.step, []

    def step(self, *given, **options):
        found = honest(self, *given, **options)
        steps.append(1)
        if len(steps) == SMALL["steps"]:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(torch.inf)
        return found

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(FloatingPointError, match="weights are no numbers after the last step"):
        made(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
