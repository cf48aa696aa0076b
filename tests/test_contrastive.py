"""lab.training.contrastive: the loss is the formula, a killed run goes on to the same bits, bad pairs are refused."""

import gc
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from torch import nn

import lab
from lab.training import LOSSES, contrastive, embedder
from lab.training.stepper import Draws, Stepper, checkpoints

pytestmark = pytest.mark.usefixtures("plain_torch")

ROOT = Path(__file__).parents[1]
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau phi"
WORDS = WORDS.split()
PAIRS = pd.DataFrame(
    {"query": [f"what is {word}" for word in WORDS], "positive": [f"{word} is a letter" for word in WORDS]}
)
SHORT = {"steps": 5, "batch": 4, "rate": 1e-2, "every": 2, "progress": False}


def decoder():
    return embedder(lab.models.tiny("llama", layers=2, dim=16, heads=2, window=16), "mean, causal", device="cpu")


@pytest.fixture
def llama():
    return decoder()


def bert(seed=0):
    """A model with dropout, whose training hangs on the random state."""
    return embedder(
        lab.models.tiny("bert", layers=1, dim=16, heads=2), "5r multi-layer, both ways", device="cpu", seed=seed
    )


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Scaled(nn.Module):
    """A loss with a parameter of its own, and one that can be told to break down."""

    def __init__(self, model, breaks=None, gradient=False):
        super().__init__()
        self.model, self.scale = model, nn.Parameter(torch.tensor(20.0))
        self.breaks, self.gradient, self.steps = breaks, gradient, 0

    def forward(self, sentence_features, labels):  # noqa: ARG002 - sentence-transformers hands them over
        q, d = (nn.functional.normalize(self.model(f)["sentence_embedding"], dim=-1) for f in sentence_features)
        loss = nn.functional.cross_entropy(self.scale * q @ d.T, torch.arange(len(q)))
        self.steps += self.training
        if self.steps == self.breaks:
            # a finite loss whose slope is not, or none at all
            loss = loss + (q[0, 0] * 0).sqrt() if self.gradient else loss * torch.nan
        return loss


# the loss


def by_hand(model, rows, columns=("positive",), scale=20.0):
    """InfoNCE in float64, one query and one document at a time."""
    found = {name: torch.tensor(model.encode(rows[name].tolist())).double() for name in ("query", *columns)}
    total = 0.0
    for i, q in enumerate(found["query"]):
        documents = torch.cat([found[name] for name in columns])
        scores = scale * torch.stack([torch.dot(q, d) / q.norm() / d.norm() for d in documents])
        total += float(scores.logsumexp(0) - scores[i])
    return total / len(rows)


@pytest.mark.parametrize("loss", ["infonce", partial(LOSSES["cached"], mini_batch=3)], ids=["plain", "cached"])
@pytest.mark.parametrize("negatives", [0, 2])
def test_the_loss_is_the_formula_on_the_pairs_that_were_drawn(llama, negatives, loss):
    names = [f"negative_{i}" for i in range(negatives)]
    pairs = PAIRS.assign(**{name: [f"{word} {name} of none" for word in WORDS] for name in names}, other=1)
    first = next(iter(Draws(Dataset.from_pandas(PAIRS), 8, 1, seed=3)))
    want = by_hand(llama, pairs.iloc[first], ["positive", *names])
    run = contrastive(pairs, llama, loss=loss, steps=1, batch=8, every=1, seed=3, progress=False)
    assert run.curve.loss.values[-1] == pytest.approx(want, rel=1e-5)
    assert run.curve.grad_norm.values[-1] > 0
    assert run.ended == "all steps"


def test_every_loss_trains_and_the_model_is_the_one_that_was_given(llama):
    held = PAIRS[:4]
    for name in ("infonce", "cached", "gist", "matryoshka", "adaptive_layer"):
        before = weights(llama)
        options = {"steps": 2, "batch": 4, "every": 1, "rate": 1e-3, "progress": False}
        run = contrastive(PAIRS, llama, loss=name, held_out=held, **options)
        assert run.model is llama
        assert run.curve.step.values.tolist() == [0, 1, 2]
        assert np.isfinite(run.curve.held_out.values).all(), name
        assert not same(weights(llama), before), name
        assert not llama.training
        assert all(value.grad is None for value in llama.parameters())


def test_cached_gradients_are_the_plain_ones():
    found = []
    for loss in ("infonce", partial(LOSSES["cached"], mini_batch=3)):
        model = embedder(lab.models.tiny("llama", layers=2, dim=16, heads=2), "3r multi-layer, causal", device="cpu")
        model.double()  # AdamW divides a gradient by its size: one that is a rounding of 0 would be a step of any sign
        contrastive(PAIRS, model, loss=loss, steps=3, batch=8, rate=1e-3, progress=False)
        found.append(weights(model))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-9)


def test_it_learns_what_there_is_to_learn(llama):
    run = contrastive(PAIRS, llama, steps=60, batch=10, rate=1e-2, every=30, held_out=PAIRS, progress=False)
    before, _, after = run.curve.held_out.values
    assert after < 0.2 * before
    assert run.parameters == sum(value.numel() for value in llama.parameters())
    assert (run.steps, run.cpu_seconds > 0, run.seconds > 0) == (60, True, True)
    assert run.curve.rate.values[-1] < run.curve.rate.values[1] < 1e-2


def test_layers_that_are_pooled_cannot_be_exchanged():
    model = embedder(lab.models.tiny("llama", layers=2, dim=16, heads=2), "5r multi-layer, both ways", device="cpu")
    with pytest.raises(ValueError, match="take a design on the last layer"):
        contrastive(PAIRS, model, loss="adaptive_layer", **SHORT)


def test_two_stages_are_two_calls(llama, tmp_path):
    one = contrastive(PAIRS, llama, folder=tmp_path / "1", **SHORT)
    middle = weights(one.model)
    two = contrastive(PAIRS[::-1], one.model, loss=Scaled, folder=tmp_path / "2", **SHORT)
    again = embedder(lab.models.tiny("llama", layers=2, dim=16, heads=2, window=16), "mean, causal", device="cpu")
    contrastive(PAIRS, again, folder=tmp_path / "1", **SHORT)
    assert same(weights(again), middle)
    contrastive(PAIRS[::-1], again, loss=Scaled, folder=tmp_path / "2", **SHORT)
    assert same(weights(again), weights(two.model))


# the pairs that are drawn


@pytest.mark.parametrize("no_duplicates", [False, True])
def test_all_pairs_come_before_any_comes_again(no_duplicates):
    data = Dataset.from_pandas(PAIRS)
    draws = list(Draws(data, 4, 11, seed=1, no_duplicates=no_duplicates))
    assert [sorted(itertools.chain(*draws[i : i + 5])) for i in (0, 5)] == [list(range(20))] * 2
    assert len(draws) == 11
    assert draws[:5] != draws[5:10]
    assert draws == list(Draws(data, 4, 11, seed=1, no_duplicates=no_duplicates))
    assert draws != list(Draws(data, 4, 11, seed=2, no_duplicates=no_duplicates))


def test_a_round_has_no_row_twice_and_says_nothing(monkeypatch):
    """Five batches of 8 of 40 rows cannot all be filled, each positive being there twice: a round is shorter then."""
    monkeypatch.setattr("sentence_transformers.base.sampler.logger.warning_once", None)  # it would be called
    twice = pd.concat([PAIRS, PAIRS.assign(query=PAIRS["query"] + " ?")], ignore_index=True)
    draws, seen = Draws(Dataset.from_pandas(twice), 8, 25, seed=0, no_duplicates=True), set()
    for number in range(3):
        rows = list(draws._round(number))
        assert all(len({row % 20 for row in batch}) == 8 for batch in rows)
        assert len({*itertools.chain(*rows)}) == 8 * len(rows)
        seen.update(*rows)
    assert seen == set(range(40))
    assert list(draws)[: len(rows)] == list(draws._round(0))[: len(rows)]
    assert len(list(draws)) == 25


def test_held_out_pairs_that_repeat_a_text_are_looked_at_once(llama):
    options = {"steps": 1, "batch": 4, "every": 1, "no_duplicates": True, "progress": False}
    start = weights(llama)
    twice = pd.concat([PAIRS[:3], PAIRS[1:5].assign(positive=["another", *PAIRS["positive"][2:5]])])
    once = contrastive(PAIRS, llama, held_out=pd.concat([PAIRS[:3], PAIRS[3:5]]), **options)
    llama.load_state_dict(start)
    again = contrastive(PAIRS, llama, held_out=twice, **options)
    np.testing.assert_array_equal(again.curve.held_out, once.curve.held_out)


def test_equal_texts_are_kept_apart():
    twice = pd.concat([PAIRS[:8], PAIRS[:8]], ignore_index=True)
    draws = list(Draws(Dataset.from_pandas(twice), 4, 40, seed=0, no_duplicates=True))
    assert all(len({row % 8 for row in rows}) == 4 for rows in draws)
    assert any(len({row % 8 for row in rows}) < 4 for rows in Draws(Dataset.from_pandas(twice), 4, 40, seed=0))


def test_the_optimizer_goes_with_the_training(llama, monkeypatch):
    """Not at some later collection of garbage: its moments are twice the weights, and a next training adds its own."""
    honest, made = Stepper.create_optimizer, []

    def told(self, *args, **options):
        optimizer = honest(self, *args, **options)
        made.extend(map(weakref.ref, (self, self.optimizer)))
        return optimizer

    monkeypatch.setattr(Stepper, "create_optimizer", told)
    gc.collect()
    gc.disable()
    try:
        run = contrastive(PAIRS, llama, held_out=PAIRS[:6], patience=2, **SHORT)
        assert len(made) == 2
        assert [one() for one in made] == [None, None]
    finally:
        gc.enable()
    assert run.model is llama


# going on


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.use_deterministic_algorithms(True)
from test_contrastive import LONG, PAIRS, Scaled, bert, contrastive
kill = lambda step, row: os.kill(os.getpid(), signal.SIGKILL) if step == 8 else None
contrastive(PAIRS, bert(), loss=Scaled, folder={folder!r}, see=kill, **LONG)
"""
LONG = {"steps": 14, "batch": 4, "rate": 1e-2, "every": 4, "held_out": PAIRS[:6], "progress": False}


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    """Killed at step 8 before its checkpoint: from step 4, in the third round of pairs, with dropout, to the end."""
    whole = contrastive(PAIRS, bert(), loss=Scaled, **LONG)
    code = KILLED.format(tests=str(ROOT / "tests"), folder=str(tmp_path))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4"]
    seen = []
    on = contrastive(PAIRS, bert(), loss=Scaled, folder=tmp_path, see=lambda step, _: seen.append(step), **LONG)
    assert seen == [8, 12, 14]
    assert same(weights(on.model), weights(whole.model))
    for name in ("loss", "held_out", "grad_norm", "rate"):
        np.testing.assert_array_equal(on.curve[name], whole.curve[name])
    assert on.seconds > 0


@pytest.mark.parametrize("where", ["_save_rng_state", "_save_optimizer_and_scheduler"])
def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch, where):
    whole = contrastive(PAIRS, bert(), **LONG)
    honest, times = getattr(Stepper, where), []

    def cut_short(self, output_dir):
        times.append(output_dir)
        if len(times) == 2:
            raise KeyboardInterrupt
        honest(self, output_dir)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, where, cut_short)
        with pytest.raises(KeyboardInterrupt):
            contrastive(PAIRS, bert(), folder=tmp_path, **LONG)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4"]
    on = contrastive(PAIRS, bert(), folder=tmp_path, **LONG)
    assert same(weights(on.model), weights(whole.model))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "part") == ["checkpoint-14", "run.json"]


def test_a_finished_run_is_only_read(llama, tmp_path, monkeypatch):
    start = weights(llama)
    one = contrastive(PAIRS, llama, folder=tmp_path, **SHORT)
    end = weights(llama)
    llama.load_state_dict(start)
    monkeypatch.setattr(Stepper, "train", None)
    two = contrastive(PAIRS, llama, folder=tmp_path, **SHORT)
    assert same(weights(llama), end)
    assert two.curve.identical(one.curve)
    assert (two.steps, two.ended, two.seconds) == (one.steps, one.ended, one.seconds)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"rate": 0.5}, r"'rate': '0.01 there, 0.5 asked'"),
        ({"loss": "cached"}, r"standard.cached.+ asked"),
        ({"loss": partial(LOSSES["infonce"], scale=5.0)}, r"scale=5.0"),
        ({"seed": 1}, "'seed'"),
    ],
)
def test_the_folder_of_another_run_is_refused(llama, tmp_path, other, said):
    start = weights(llama)
    contrastive(PAIRS, llama, folder=tmp_path, **SHORT | {"steps": 1})
    llama.load_state_dict(start)
    with pytest.raises(ValueError, match=f"holds another run.*{said}"):
        contrastive(PAIRS, llama, folder=tmp_path, **SHORT | {"steps": 1} | other)


def test_another_model_or_other_pairs_are_another_run(llama, tmp_path):
    start = weights(llama)
    contrastive(PAIRS, llama, folder=tmp_path, **SHORT)
    with pytest.raises(ValueError, match=r"holds another run.*'model'"):
        contrastive(PAIRS, llama, folder=tmp_path, **SHORT)
    llama.load_state_dict(start)
    with pytest.raises(ValueError, match=r"holds another run.*'pairs'"):
        contrastive(PAIRS[::-1], llama, folder=tmp_path, **SHORT)


# stopping


def test_it_stops_when_held_out_pairs_get_no_better_and_puts_the_best_back(llama, tmp_path):
    options = {
        "steps": 40,
        "batch": 4,
        "rate": 0.3,
        "every": 1,
        "patience": 2,
        "held_out": PAIRS[:8],
        "progress": False,
    }
    run = contrastive(PAIRS, llama, folder=tmp_path, **options)
    held = run.curve.held_out.values
    assert run.ended == "no better"
    assert run.steps < 40
    best = int(held[1:].argmin()) + 1
    assert run.steps >= best + 2 or held[0] <= held[1:].min()  # the first step is at rate 0
    look = contrastive(PAIRS, llama, steps=1, batch=4, rate=1e-12, held_out=PAIRS[:8], progress=False)
    assert look.curve.held_out.values[0] == pytest.approx(held.min(), rel=1e-4)


def test_who_looks_may_end_it(llama, tmp_path):
    start, rows = weights(llama), []
    run = contrastive(PAIRS, llama, folder=tmp_path, see=lambda step, row: rows.append(row) or step == 4, **SHORT)
    assert (run.ended, run.steps) == ("asked", 4)
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[0]["loss"] == run.curve.loss.sel(step=2)
    end = weights(llama)
    llama.load_state_dict(start)
    assert contrastive(PAIRS, llama, folder=tmp_path, **SHORT).steps == 4
    assert same(weights(llama), end)


def ends_at(last):
    return lambda step, _: step >= last


def test_what_was_left_by_who_looks_goes_on_with_the_model_as_it_was_left(tmp_path):
    """To the bits of an uninterrupted run, dropout and the loss's own parameter included; asked again, it may not."""
    whole = contrastive(PAIRS, bert(), loss=Scaled, **LONG)
    model, seen = bert(), []
    cut = contrastive(PAIRS, model, loss=Scaled, folder=tmp_path, see=ends_at(8), **LONG)
    assert (cut.ended, cut.steps) == ("asked", 8)
    left = weights(model)
    for see in (None, ends_at(8)):  # nobody to ask, and one who says so again
        again = contrastive(PAIRS, model, loss=Scaled, folder=tmp_path, see=see, **LONG)
        assert (again.ended, again.steps) == ("asked", 8)
        assert same(weights(model), left)
    on = contrastive(PAIRS, model, loss=Scaled, folder=tmp_path, see=lambda step, row: seen.append((step, row)), **LONG)
    assert [step for step, _ in seen] == [8, 12, 14]
    assert seen[0][1] == {name: pytest.approx(cut.curve[name].values[-1]) for name in seen[0][1] if name != "step"} | {
        "step": 8
    }
    assert (on.ended, on.steps) == ("all steps", 14)
    assert same(weights(model), weights(whole.model))
    for name in ("loss", "held_out", "grad_norm", "rate"):
        np.testing.assert_array_equal(on.curve[name], whole.curve[name])
    with pytest.raises(ValueError, match=r"holds another run.*'model'"):  # done, it is that of the initial model alone
        contrastive(PAIRS, model, loss=Scaled, folder=tmp_path, see=ends_at(99), **LONG)


def test_a_held_out_loss_that_is_no_number_names_its_batch(llama, tmp_path):
    class Bad(Scaled):
        def forward(self, sentence_features, labels):
            loss = super().forward(sentence_features, labels)
            self.seen = getattr(self, "seen", 0) + (not self.model.training)
            return loss * torch.nan if self.seen == 5 else loss  # 3 batches a look: the second of the second look

    with pytest.raises(FloatingPointError, match=r"the held-out loss is nan at step 2; the batch: rows \[4, 5, 6, 7\]"):
        contrastive(PAIRS, llama, loss=Bad, held_out=PAIRS[:12], folder=tmp_path, **SHORT)
    saved = [json.loads(line) for line in (tmp_path / "held-out-batch-2.jsonl").read_text().splitlines()]
    assert [row["query"] for row in saved] == PAIRS["query"][4:8].tolist()


@pytest.mark.parametrize(("gradient", "said"), [(False, "the loss is nan"), (True, "the gradient's norm is nan")])
def test_a_loss_that_is_no_number_stops_and_names_its_batch(llama, tmp_path, gradient, said):
    loss = partial(Scaled, breaks=3, gradient=gradient)
    rows = list(Draws(Dataset.from_pandas(PAIRS), 4, 5, seed=0))[2]
    with pytest.raises(FloatingPointError, match=said) as caught:
        contrastive(PAIRS, llama, loss=loss, folder=tmp_path, **SHORT)
    assert str(rows) in str(caught.value)
    saved = [json.loads(line) for line in (tmp_path / "batch-2.jsonl").read_text().splitlines()]
    assert str(tmp_path / "batch-2.jsonl") in str(caught.value)
    assert [(row["row"], row["query"]) for row in saved] == [(row, PAIRS["query"][row]) for row in rows]
    assert all(torch.isfinite(value).all() for value in llama.parameters())
    with pytest.raises(FloatingPointError, match="not saved: no folder"):
        contrastive(PAIRS, llama, loss=loss, **SHORT)


# texts with labels

TOPICS = {
    "flower": "rose tulip lily daisy poppy iris",
    "tool": "saw axe drill file rasp chisel",
    "fish": "cod eel bream",
}
LABELLED = pd.DataFrame(
    [(f"the {word} is one", i) for i, words in enumerate(TOPICS.values()) for word in words.split()],
    columns=["text", "label"],
)
OF_LABELS = {
    "normalized_softmax": partial(LOSSES["normalized_softmax"], classes=3),
    "centroid_triplet": "centroid_triplet",
}


@pytest.mark.parametrize("name", OF_LABELS)
def test_a_loss_of_texts_with_labels_is_trained_and_goes_on_to_the_same_bits(name, tmp_path):
    how = {"loss": OF_LABELS[name], "steps": 40, "batch": 8, "rate": 3e-3, "every": 10, "held_out": LABELLED}
    run = partial(contrastive, LABELLED, **how, progress=False)
    whole = run(decoder())
    first, *_, last = whole.curve.held_out.values
    assert last < 0.5 * first
    assert whole.curve.loss.values[-1] < whole.curve.loss.values[1]
    model = decoder()
    run(model, folder=tmp_path, see=ends_at(20))
    on = run(model, folder=tmp_path, see=ends_at(99))
    assert same(weights(on.model), weights(whole.model))
    np.testing.assert_array_equal(on.curve.held_out, whole.curve.held_out)


@pytest.mark.parametrize("batch", [4, 8])
def test_a_batch_holds_two_texts_or_more_of_each_of_two_labels(batch):
    draws = Draws(Dataset.from_pandas(LABELLED), batch, 30, seed=0)
    seen = set()
    for rows in draws:
        counts = LABELLED["label"].iloc[rows].value_counts()
        assert (counts >= 2).all()
        assert len(counts) >= 2
        assert len(set(rows)) == batch
        seen.update(rows)
    assert seen == set(range(len(LABELLED)))
    assert list(draws) == list(draws)


@pytest.mark.parametrize(
    ("pairs", "options", "said"),
    [
        (
            PAIRS,
            {"loss": "centroid_triplet"},
            r"CentroidTriplet is trained on texts with labels.*\['query', 'positive'\]",
        ),
        (PAIRS, {"loss": OF_LABELS["normalized_softmax"]}, "NormalizedSoftmax is trained on texts with labels"),
        (LABELLED, {"loss": "in_batch_or_own"}, r"InfoNCE is trained on pairs.*got the columns \['text', 'label'\]"),
        (
            LABELLED,
            {"loss": "normalized_softmax"},
            "classes must be at least 2, one more than the highest label; got None",
        ),
        (LABELLED.assign(label="rose"), {}, "labels must be whole numbers from 0 on; got str.*pd.factorize"),
        (LABELLED.assign(label=LABELLED["label"] - 1), {}, "labels must be whole numbers from 0 on"),
        (LABELLED.assign(label=0), {}, "15 pairs of 1 labels fill 0 places"),
        (LABELLED[:7], {"batch": 6}, "fill 0 places of a batch of 6"),
        (LABELLED, {"batch": 5}, "even, 4 or more; got 5"),
        (LABELLED, {"batch": 2}, "even, 4 or more; got 2"),
        (LABELLED, {"no_duplicates": True}, "leave it out"),
        (LABELLED, {"held_out": LABELLED[:3]}, "held-out texts of 1 labels fill 0 places"),
        (LABELLED.assign(text="  "), {}, "no text at all in 'text'"),
        (LABELLED.assign(text=LABELLED["text"] + " word" * 99), {}, "15 of 15 pairs.*window of 16 tokens"),
    ],
)
def test_labels_that_cannot_be_trained_on_are_refused_before_training(
    llama, monkeypatch, tmp_path, pairs, options, said
):
    monkeypatch.setattr(Stepper, "train", None)
    with pytest.raises(ValueError, match=said):
        contrastive(pairs, llama, folder=tmp_path, **SHORT | {"loss": "centroid_triplet"} | options)
    assert not (tmp_path / "run.json").exists()


# manners


def test_the_callers_random_state_stays(llama):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    contrastive(PAIRS, llama, **SHORT)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_nothing_is_reported_and_nothing_is_left_behind(llama, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "none of theirs")
    seen, train = [], Stepper.train

    def watched(self, **options):
        seen.extend(type(one).__name__ for one in self.callback_handler.callbacks)
        return train(self, **options)

    monkeypatch.setattr(Stepper, "train", watched)
    contrastive(PAIRS, llama, **SHORT)
    assert set(seen) == {"DefaultFlowCallback", "Look", "_OptimizerZeroGradCallback"}
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_half_precision_is_for_the_training_alone(llama):
    before = llama.encode(["alpha"])
    run = contrastive(PAIRS, llama, autocast=torch.bfloat16, **SHORT)
    assert np.isfinite(run.curve.loss.values[-1])
    assert {value.dtype for value in llama.parameters()} == {torch.float32}
    after = llama.encode(["alpha"])
    exact = llama.double().encode(["alpha"])
    assert abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, exact, atol=1e-5)
    contrastive(PAIRS, llama.float(), **SHORT)  # and the next run may be in full


# bad input


def changed(row, column, value):
    return PAIRS.assign(**{column: [value if i == row else text for i, text in enumerate(PAIRS[column])]})


OWN = PAIRS.assign(
    negative_0="a thing", negative_1=["a thing" if i != 2 else text for i, text in enumerate(PAIRS["positive"])]
)


@pytest.mark.parametrize(
    ("pairs", "options", "said"),
    [
        (PAIRS.rename(columns={"positive": "document"}), {}, r"lack \['positive'\].*'document'.*rename"),
        (changed(3, "query", "  "), {}, r"1 of 20 pairs have no text in 'query', rows 3"),
        (changed(3, "positive", None), {}, r"no text in 'positive', rows 3"),
        (changed(3, "positive", 7.0), {}, r"no text in 'positive', rows 3"),
        (changed(3, "positive", PAIRS["positive"][1]), {}, r"repeat an earlier positive, rows 3.*no_duplicates=True"),
        (changed(3, "query", PAIRS["query"][1]), {}, r"repeat an earlier query, rows 3.*no_duplicates=True"),
        (changed(3, "positive", "alpha " * 99), {}, r"1 of 20 pairs.*window of 16 tokens, rows 3.*truncate=True"),
        (PAIRS[:1], {}, "must be 4 or more, to fill one batch; got 1"),
        (
            PAIRS.astype(object).replace(PAIRS["query"][3], "\ud800x"),
            {},
            r"1 of 20 pairs have half a character.* in 'query', rows 3",
        ),
        (PAIRS.assign(negative_score=0.5), {}, "no text at all in 'negative_score'"),
        (pd.concat([PAIRS, PAIRS[["query"]]], axis=1), {}, r"columns \['query'\] more than once"),
        (OWN, {}, r"1 of 20 pairs have their own positive as 'negative_1', rows 2: nothing tells"),
        (OWN, {"no_duplicates": True}, r"their own positive as 'negative_1', rows 2"),
        (PAIRS, {"held_out": PAIRS[:1]}, "held-out pairs must be 2 or more.*; got 1"),
        (PAIRS, {"held_out": changed(3, "positive", PAIRS["positive"][1])}, "1 of 20 held-out pairs repeat an earlier"),
        (
            PAIRS,
            {"held_out": PAIRS[:4].assign(positive="same"), "no_duplicates": True},
            "2 or more that repeat no.*got 1",
        ),
        (PAIRS, {"autocast": torch.float16}, "float16 needs a GPU.*take torch.bfloat16"),
        (PAIRS, {"batch": 1}, "batch must be 2 or more"),
        (PAIRS, {"batch": 21}, "must be 21 or more"),
        (PAIRS, {"steps": 0}, "at least one step"),
        (PAIRS, {"rate": 0.0}, "positive rate"),
        (PAIRS, {"warmup": 1.0}, "share of the steps"),
        (PAIRS, {"patience": 2}, "give held_out="),
        (PAIRS, {"autocast": torch.float64}, "autocast must be"),
        (PAIRS, {"loss": "hinge"}, "no loss 'hinge'; there are"),
        (PAIRS, {"held_out": PAIRS.assign(negative="none")}, "they must be the same"),
        (PAIRS, {"held_out": changed(3, "query", "")}, "1 of 20 held-out pairs have no text"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_training(llama, monkeypatch, pairs, options, said):
    monkeypatch.setattr(Stepper, "__init__", None)
    with pytest.raises(ValueError, match=said):
        contrastive(pairs, llama, **SHORT | options)


def test_what_is_no_table_and_no_loss_is_a_type_error(llama, monkeypatch):
    # as for a user: the types in the signatures, which stand in tests alone, would answer first
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(TypeError, match="pandas DataFrame"):
        contrastive([("a", "b")], llama, **SHORT)
    with pytest.raises(TypeError, match="a name or a callable"):
        contrastive(PAIRS, llama, loss=Scaled(llama), **SHORT)
    for name, value in (("batch", 2.5), ("steps", 4.0), ("every", True), ("patience", "2")):
        with pytest.raises(TypeError, match=f"{name} must be a whole number; got {value!r}"):
            contrastive(PAIRS, llama, **SHORT | {"held_out": PAIRS[:4], name: value})


def test_what_was_asked_for_is_let_through(llama):
    twice = pd.concat([PAIRS, PAIRS[:3]], ignore_index=True)
    assert contrastive(twice, llama, no_duplicates=True, **SHORT).steps == 5
    assert contrastive(changed(3, "positive", "alpha " * 99), llama, truncate=True, **SHORT).steps == 5
