"""lab.training.trials and layer_weights, lab.stats.contrasts: every run kept, what is read of layers, what is said."""

import json
import shutil
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import xarray as xr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

import lab
from lab.stats import Contrast, contrasts
from lab.training import DESIGNS, embedder, layer_weights, trials

pytestmark = pytest.mark.usefixtures("plain_torch")

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
PAIRS = pd.DataFrame(
    {"query": [f"what is {w}" for w in WORDS.split()], "positive": [f"{w} is one" for w in WORDS.split()]}
)
SOME = {name: DESIGNS[name] for name in ("1 last, causal", "softmax mix, both ways")}
SHORT = {"steps": 2, "batch": 4, "rate": 1e-2, "every": 1, "progress": False}


@pytest.fixture(scope="module")
def llama():
    return lab.models.tiny("llama", layers=2, dim=16, heads=2, window=16)


@pytest.fixture(scope="module")
def place(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama.model.save_pretrained(folder)
    llama.tokenizer.save_pretrained(folder)
    return folder


def scored(model):
    """Importable, as what a process is given must be: two data sets, one of fewer examples."""
    norms = np.linalg.norm(model.encode(["alpha", "beta", "gamma"], show_progress_bar=False), axis=1)
    values = np.array([norms, [norms[0], norms[1], np.nan]], float)
    return xr.DataArray(
        values, dims=("dataset", "example"), coords={"dataset": ["a", "b"], "kind": ("dataset", ["x", "y"])}
    )


# trials


def test_every_design_and_seed_is_run_once_and_kept(place, tmp_path, monkeypatch):
    found = trials(place, SOME, (0, 3), PAIRS, scored, folder=tmp_path, window=8, workers=1, **SHORT)
    assert dict(found.score.sizes) == {"design": 2, "seed": 2, "dataset": 2, "example": 3}
    assert found.design.values.tolist() == list(SOME)
    assert found.seed.values.tolist() == [0, 3]
    assert found.kind.values.tolist() == ["x", "y"]
    assert found.layer_weight.sum("layer").values == pytest.approx(1)
    assert found["head"].sel(seed=0).values.tolist() == [0, 3]
    assert (found.cpu_seconds > 0).all()
    assert found.loss.sizes["step"] == 2
    assert len({float(v) for v in found.score.isel(dataset=0, example=0).values.ravel()}) == 4
    model = embedder(place, "1 last, causal", seed=3, window=8)
    lab.training.contrastive(PAIRS, model, seed=3, truncate=True, **SHORT)
    want = found.score.sel(design="1 last, causal", seed=3)
    np.testing.assert_array_equal(scored(model).values, want.values)
    # what is there is read; what is gone is run again, to the same
    trained = []
    monkeypatch.setattr(sys.modules["lab.training.trials"], "_run", lambda job: trained.append(job["seed"]))
    assert trials(place, SOME, (0, 3), PAIRS, scored, folder=tmp_path, window=8, workers=1, **SHORT).identical(found)
    assert trained == []
    next(iter(sorted(tmp_path.glob("1*-seed3-*.json")))).unlink()
    with pytest.raises(FileNotFoundError):
        trials(place, SOME, (0, 3), PAIRS, scored, folder=tmp_path, window=8, workers=1, **SHORT)
    assert trained == [3]


def test_another_recipe_is_another_run(place, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sys.modules["lab.training.trials"], "_run", lambda job: asked.append(job["path"]))
    one = {"1 last, causal": SOME["1 last, causal"]}
    others = [{}, {"rate": 0.5}, {"loss": "cached"}, {"held_out": PAIRS[:4]}, {"window": 7}]
    for other in others:
        with pytest.raises(FileNotFoundError):
            trials(place, one, [0], PAIRS, scored, folder=tmp_path, workers=1, **SHORT | other)
    with pytest.raises(FileNotFoundError):
        trials(place, one, [0], PAIRS[::-1], scored, folder=tmp_path, workers=1, **SHORT)
    assert len(set(asked)) == len(others) + 1


def test_another_base_is_another_run_wherever_it_lies(llama, place, tmp_path, monkeypatch):
    """By content: two folders of one name are told apart, one retrained in place is, and a copy is not."""
    one, kept = {"1 last, causal": SOME["1 last, causal"]}, tmp_path / "kept"
    first, second = tmp_path / "a" / "base", tmp_path / "b" / "base"
    for folder, seed in ((first, 0), (second, 1)):
        other = lab.models.tiny("llama", layers=2, dim=16, heads=2, window=16, seed=seed)
        other.model.save_pretrained(folder)
        llama.tokenizer.save_pretrained(folder)
    run = partial(trials, designs=one, seeds=[0], pairs=PAIRS, evaluate=scored, folder=kept, workers=1, **SHORT)
    found = [run(first), run(second)]
    assert not np.allclose(found[0].score, found[1].score, equal_nan=True)
    assert len([*kept.iterdir()]) == 2
    monkeypatch.setattr(sys.modules["lab.training.trials"], "_run", None)
    assert run(shutil.copytree(second, tmp_path / "elsewhere")).identical(found[1])
    shutil.copy(second / "model.safetensors", first / "model.safetensors")
    assert run(first).identical(found[1])
    config = json.loads((first / "config.json").read_text())
    (first / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    with pytest.raises(TypeError, match="not callable"):  # it would be run
        run(first)


def test_a_hub_id_is_its_name_and_commit(monkeypatch):
    room, asked = sys.modules["lab.training.trials"], []

    def config(name):
        asked.append(name)
        return SimpleNamespace(_commit_hash="abc")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", config)
    assert [room._contents(name) for name in ("x/m", "y/m")] == ["x/m@abc", "y/m@abc"]
    assert asked == ["x/m", "y/m"]


def test_processes_give_what_one_gives(place, tmp_path):
    found = [
        trials(place, SOME, [1], PAIRS, scored, folder=tmp_path / str(n), window=8, workers=n, **SHORT) for n in (1, 2)
    ]
    np.testing.assert_allclose(found[0].score, found[1].score, rtol=1e-5)
    np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="one process on a GPU")
def test_as_many_processes_as_torch_would_have_threads(monkeypatch):
    room = sys.modules["lab.training.trials"]
    asked, here = [], []

    def pool(workers, **_):
        asked.append(workers)
        raise InterruptedError

    monkeypatch.setattr(room, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(room, "_run", here.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.raises(InterruptedError):
        list(room._done([{}] * 5, None))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert len(list(room._done([{}] * 5, None))) == 5
    assert (asked, len(here)) == ([3], 5)


def test_a_run_is_whole_or_not_there(place, tmp_path):
    def broken(model):
        raise RuntimeError("no score")

    with pytest.raises(RuntimeError, match="no score"):
        sys.modules["lab.training.trials"]._run(
            {"base": str(place), "design": SOME["1 last, causal"], "seed": 0, "pairs": PAIRS, "evaluate": broken,
             "window": 8, "lora": None, "options": SHORT, "path": str(tmp_path / "run.json")}
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_trials_of_nothing_are_refused(place, tmp_path):
    with pytest.raises(ValueError, match="at least one of each"):
        trials(place, {}, [0], PAIRS, scored, folder=tmp_path)
    with pytest.raises(ValueError, match=r"no base for the seeds \[1\]"):
        trials({0: place}, SOME, [0, 1], PAIRS, scored, folder=tmp_path)


# what is read of each layer


def test_one_layer_has_it_all(llama):
    best = DESIGNS["best layer, both ways"]
    for design, layer in (("1 last, causal", 2), (best.at(0), 0), (best.at(1), 1)):
        found = layer_weights(embedder(llama, design, device="cpu"), ["alpha"])
        assert found.layer.values.tolist() == [0, 1, 2]
        assert found.values.tolist() == np.eye(3)[layer].tolist()


def test_a_mix_has_its_weights(llama):
    model = embedder(llama, "softmax mix, both ways", device="cpu")
    with torch.no_grad():
        model[1].layer_pool.scores.copy_(torch.tensor([0.0, np.log(3.0)]))
    assert layer_weights(model, ["alpha"]).values == pytest.approx([0, 0.25, 0.75])


@pytest.mark.parametrize("name", ["5 multi-layer, both ways", "5r multi-layer, both ways"])
def test_latents_have_their_attention(llama, name):
    model = embedder(llama, name, device="cpu")
    texts = ["alpha", "what is beta", "gamma"]
    with torch.no_grad():
        h = model(dict(model.tokenize(texts)))["layer_embeddings"]
        pool = model[1].layer_pool
        if name.startswith("5r"):
            h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + pool.eps) * pool.gain[:, None]
        x = pool.reader.norm(h.transpose(0, 1) + pool.layer_embedding)
        q = pool.reader.to_q(pool.reader.norm_latents(pool.reader.latents))
        k = pool.reader.to_kv(x).chunk(2, -1)[0]
        size, found = pool.reader.dim_head, 0
        for at in range(0, q.shape[1], size):
            scores = q[:, at : at + size] @ k[..., at : at + size].transpose(1, 2) / size**0.5
            found = found + scores.softmax(-1).mean((0, 1))
    want = (found / pool.reader.heads).numpy()
    assert layer_weights(model, texts).values == pytest.approx([0, *want], abs=1e-5)
    assert not model[1].layer_pool.reader._forward_pre_hooks


def test_what_does_not_say_what_it_reads_is_refused(llama, place):
    with pytest.raises(ValueError, match="texts are needed"):
        layer_weights(embedder(llama, "mean, causal", device="cpu"), [])
    plain = SentenceTransformer(modules=[embedder(place, "mean, causal", device="cpu")[0], Pooling(16)], device="cpu")
    with pytest.raises(ValueError, match="no pooling of lab"):
        layer_weights(plain, ["alpha"])


# what is said, and what holds


def made_up(gap, spread=0.002, seeds=6, short=0):
    """Scores of two designs on two kinds of data: b better than a by `gap`, seeds apart by `spread`."""
    generator = np.random.default_rng(0)
    base = generator.normal(0.5, 0.1, (1, 1, 3, 40))
    each = generator.normal(0, spread, (2, seeds, 1, 1))
    values = base + each + np.array([0, gap]).reshape(2, 1, 1, 1) + generator.normal(0, 0.01, (2, seeds, 3, 40))
    if short:
        values[:, :, 1, -short:] = np.nan
    coords = {"design": ["a", "b"], "kind": ("dataset", ["x", "y", "x"]), "dataset": list("klm")}
    return xr.DataArray(values, dims=("design", "seed", "dataset", "example"), coords=coords)


@pytest.mark.parametrize(
    ("gap", "spread", "more", "verdict"),
    [
        (0.1, 0.002, True, "holds"),
        (0.1, 0.002, False, "does not hold"),
        (-0.1, 0.002, True, "does not hold"),
        (-0.1, 0.002, False, "holds"),
        (0.0, 0.002, True, "does not hold"),
        (0.0, 0.002, False, "holds"),
        (0.02, 0.1, True, "too little power"),
        (0.02, 0.1, False, "too little power"),
    ],
)
def test_a_contrast_is_what_the_interval_says(gap, spread, more, verdict):
    said = [Contrast("b beats a in x", "b", "a", "x", more)]
    found = contrasts(made_up(gap, spread), said, margin=0.01).isel(claim=0)
    assert str(found.verdict.values) == verdict
    assert found.low <= found.difference <= found.high
    assert float(found.attainable) == 2.0**-5
    assert float(found.difference) == pytest.approx(gap, abs=4 * spread + 0.01)


def test_a_contrast_takes_its_kind_of_data_and_counts_the_seeds_it_would_take():
    scores = made_up(0.1, short=7)
    scores[{"design": 1, "dataset": 1}] -= 0.3
    said = [Contrast("in x", "b", "a", "x"), Contrast("in y", "b", "a", "y"), Contrast("in y", "a", "b", "y")]
    found = contrasts(scores, said)
    assert found.verdict.values.tolist() == ["holds", "does not hold", "holds"]
    assert found.says.values.tolist() == ["in x", "in y", "in y"]
    assert found.difference.values == pytest.approx([0.1, -0.2, 0.2], abs=0.01)
    assert found.holm.values == pytest.approx(np.minimum(1, 3 * found.p.values))
    assert (found.seeds.values > 0).all()
    level = made_up(0.0, 0.1)
    level[{"design": 1}] -= contrasts(level, said[:1]).difference.values[0]
    assert int(contrasts(level, said[:1]).seeds[0]) == 0  # more than the most that were tried


def test_the_seeds_that_a_claim_of_no_gain_takes_are_those_that_settle_it():
    """No difference, seeds .02 apart: no test would see it, and at some number its interval is below the margin."""

    def experiment(seeds, number):
        generator = np.random.default_rng(number)
        values = 0.5 + generator.normal(0, 0.02, (2, seeds, 1, 1)) + generator.normal(0, 0.0005, (2, seeds, 3, 10))
        coords = {"design": ["a", "b"], "kind": ("dataset", ["x"] * 3)}
        return xr.DataArray(values, dims=("design", "seed", "dataset", "example"), coords=coords)

    said = [Contrast("b no better than a", "b", "a", "x", False)]
    pilots = [contrasts(experiment(60, number), said, draws=300).isel(claim=0) for number in range(9)]
    needed = int(np.median([int(pilot.seeds) for pilot in pilots]))
    assert 30 <= needed <= 100
    settled = {
        seeds: sum(
            str(contrasts(experiment(seeds, 100 + n), said, draws=300).verdict.values[0]) != "too little power"
            for n in range(20)
        )
        for seeds in (needed // 6, needed)
    }
    # 8 of 10 are promised, of a truth that the pilots only guess; a sixth of the seeds settles it seldom
    assert settled[needed] >= 12
    assert settled[needed // 6] <= 8


def test_intervals_of_many_claims_hold_at_once():
    """Eight claims without a truth, five seeds: together they come out in one experiment in twenty, each alone more."""

    def experiment(number):
        values = np.random.default_rng(number).normal(0.5, 0.02, (9, 5, 1, 1))
        coords = {"design": [str(i) for i in range(9)], "kind": ("dataset", ["x"])}
        return xr.DataArray(values, dims=("design", "seed", "dataset", "example"), coords=coords)

    said = [Contrast(f"{i} beats {i - 1}", str(i), str(i - 1), "x") for i in range(1, 9)]
    one = contrasts(experiment(0), said[:1], draws=4000)
    all_of_them = contrasts(experiment(0), said, draws=4000)
    wider = float((all_of_them.high - all_of_them.low)[0] / (one.high - one.low)[0])
    assert wider == pytest.approx(scipy.stats.t.ppf(1 - 0.025 / 8, 4) / scipy.stats.t.ppf(0.975, 4), rel=0.05)
    wrong = [
        bool(((found.low > 0) | (found.high < 0)).any())
        for found in (contrasts(experiment(n), said, draws=200) for n in range(30))
    ]
    assert sum(wrong) <= 5  # 6 or more of 30 at a rate of .05 have a chance of .003


@pytest.mark.parametrize(
    ("said", "options", "wrong"),
    [
        ([], {}, "needed are a claim"),
        ([Contrast("", "c", "a", "x")], {}, r"no design \['c'\]"),
        ([Contrast("", "b", "a", "z")], {}, "no kind 'z'"),
        ([Contrast("", "b", "a", "x")], {"margin": 0.0}, "positive margin"),
        ([Contrast("", "b", "a", "x")], {"test": "t"}, "test of"),
    ],
)
def test_contrasts_that_cannot_be_are_refused(said, options, wrong):
    with pytest.raises(ValueError, match=wrong):
        contrasts(made_up(0.1), said, **options)


def test_what_is_kept_is_plain_json(place, tmp_path):
    trials(place, {"1 last, causal": SOME["1 last, causal"]}, [0], PAIRS, scored, folder=tmp_path, workers=1, **SHORT)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("1-last--causal-seed0-")
    assert set(json.loads(path.read_text())) == {"attrs", "coords", "data_vars", "dims"}
