"""lab.training.contrastive under a launcher: two processes are one training, told apart by nothing but their pairs."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lab
from lab.training import contrastive, embedder
from lab.training.stepper import checkpoints

ROOT = Path(__file__).parents[1]
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau phi"
WORDS = WORDS.split()
PAIRS = pd.DataFrame({"query": [f"what is {word}" for word in WORDS], "positive": [f"{word} is it" for word in WORDS]})
ASKED = {"steps": 6, "rate": 1e-2, "every": 2, "truncate": True, "progress": False}
DESIGN = "5r multi-layer, both ways"


def model():
    return embedder(lab.models.tiny("llama", layers=2, dim=16, heads=2, window=16), DESIGN, device="cpu")


class Halves(nn.Module):
    """What two processes of five pairs each compute, in one: the mean of two losses that know nothing of each other."""

    def __init__(self, given):
        super().__init__()
        self.model = given

    def forward(self, sentence_features, labels):  # noqa: ARG002 - sentence-transformers hands them over
        q, d = (nn.functional.normalize(self.model(f)["sentence_embedding"], dim=-1) for f in sentence_features)
        parts = [20 * q[:5] @ d[:5].T, 20 * q[5:] @ d[5:].T]
        return sum(nn.functional.cross_entropy(part, torch.arange(5)) for part in parts) / 2


LAUNCHED = """
import json, os, sys
sys.path.insert(0, {tests!r})
from test_contrastive_launched import ASKED, PAIRS, contrastive, model
from lab.training import stepper

rank, folder, honest = os.environ["RANK"], sys.argv[1], stepper.save_file

def told(tensors, path):
    print("process", rank, "writes", path.parent.name, flush=True)
    return honest(tensors, path)

stepper.save_file = told
run = contrastive(PAIRS, model(), batch=5, held_out=PAIRS[:12], folder=folder + "/run", **ASKED)
from safetensors.torch import save_file
save_file({{k: v.contiguous().clone() for k, v in run.model.state_dict().items()}}, folder + "/" + rank)
said = {{"loss": run.curve.loss.values.tolist(), "held_out": run.curve.held_out.values.tolist(), "ended": run.ended}}
open(folder + "/curve" + rank, "w").write(json.dumps(said))
try:
    contrastive(PAIRS, run.model, batch=5, held_out=PAIRS[:3], **ASKED)
except ValueError as error:
    print("process", rank, "refuses:", error, flush=True)
try:
    model()
except ValueError as error:
    print("process", rank, "cannot copy:", error, flush=True)
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    script = folder / "script.py"
    script.write_text(textwrap.dedent(LAUNCHED.format(tests=str(ROOT / "tests"))))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", "--local-addr=localhost", str(script), str(folder)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def test_both_processes_end_with_the_weights_and_the_curve_of_one_training(launched, monkeypatch):
    from safetensors.torch import load_file

    folder, _ = launched
    one, other = (load_file(folder / rank) for rank in "01")
    assert all(torch.equal(one[name], other[name]) for name in one)
    curves = [json.loads((folder / f"curve{rank}").read_text()) for rank in "01"]
    np.testing.assert_equal(curves[0], curves[1])  # not a number is equal to itself here
    assert curves[0]["ended"] == "all steps"
    monkeypatch.setattr(sys.modules["lab.kernels.segment_pool"], "INTERPRETED", False)
    single = contrastive(PAIRS, model(), loss=Halves, batch=10, **ASKED)
    for name, value in single.model.state_dict().items():
        torch.testing.assert_close(one[name], value, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(curves[0]["loss"][1:], single.curve.loss.values, rtol=1e-4)


def test_checkpoints_are_written_once_and_by_one(launched):
    folder, said = launched
    written = [line for line in said.splitlines() if "writes" in line]
    assert written == [f"process 0 writes checkpoint-{step}" for step in (2, 4, 6)]
    assert [path.name for path in checkpoints(folder / "run")] == ["checkpoint-6"]


def test_each_process_needs_held_out_pairs_of_its_own(launched):
    said = "refuses: each of 2 processes looks at held-out pairs of its own, 2 or more; got 3 in all"
    assert launched[1].count(said) == 2


def test_a_model_in_memory_is_refused_where_it_could_not_be_copied(launched):
    """transformers write in the first process alone, once the processes have met."""
    said = [line for line in launched[1].splitlines() if "cannot copy" in line]
    assert len(said) == 1
    assert said[0].startswith("process 1 cannot copy: tiny-llama is copied through the disk")
