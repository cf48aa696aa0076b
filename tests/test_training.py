"""Small models trained here: what is drawn, that they learn, that a killed run goes on to the same weights."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

import lab
from lab.attention.calls import attending
from lab.data.tasks import BigramBackcopy, Induction
from lab.training import Recipe, corpus, language_model, max_retrieval, several, together, vitals
from lab.training.language_model import next_token_loss

TEXTS = [f"def f{i}(x):\n    return x + {i}\n" for i in range(40)]
SMALL = Recipe(layers=2, dim=16, heads=2, steps=12, batch=4, warmup=2)


def weights(run):
    return {name: value.clone() for name, value in run.model.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# what is drawn


def test_bytes_come_back():
    source = corpus(TEXTS, length=8, held_out=0.25)
    text = bytes(i - 1 for i in source.train.tolist() if i).decode()
    assert text == "".join(TEXTS[:30])
    assert source.vocab == 257
    assert (source.train == 0).sum() == 30


def test_a_window_is_a_piece_of_its_own_side():
    source = corpus(TEXTS, length=9, held_out=0.25, begin=True)
    for held_out, ids in ((False, source.train), (True, source.held_out)):
        drawn = source.draw(5, seed=3, held_out=held_out)
        whole = ids.numpy().tobytes()
        for row, target in zip(drawn.ids, drawn.targets, strict=True):
            assert row[0] == 0
            assert row[1:].numpy().tobytes() in whole
            assert torch.equal(row[1:], target[:-1])
        assert drawn.counted.all()


def test_characters_and_tokenizers():
    letters = corpus(["abcaba" * 5, "zzz" * 9], by="character", length=4, held_out=0.5)
    assert letters.vocab == 2 + len("abcz")
    assert len(set(letters.train.tolist())) == 4
    tokens = corpus(TEXTS, by=lab.models.load("minilm").tokenizer, length=4)
    assert int(tokens.train.max()) < tokens.vocab


@pytest.mark.parametrize(
    ("texts", "options", "error"),
    [
        ([], {}, TypeError),
        (["a", None], {}, TypeError),
        (TEXTS, {"length": 5000}, ValueError),
        (TEXTS, {"held_out": 1.0}, ValueError),
        (TEXTS, {"by": "word"}, ValueError),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(texts, options, error):
    with pytest.raises(error):
        corpus(texts, **options)


# the recipe


def test_the_rate_rises_and_is_held_or_falls_to_a_tenth():
    held, falling = (replace(SMALL, schedule=schedule, rate=1.0, steps=102) for schedule in ("constant", "cosine"))
    assert [held.rate_at(step) for step in (0, 1, 2, 101)] == [0.5, 1, 1, 1]
    assert falling.rate_at(2) == 1
    assert falling.rate_at(52) == pytest.approx(0.55)
    assert falling.rate_at(102) == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"rate": 0.0}, {"schedule": "linear"}, {"weight_decay": -1.0}])
def test_a_recipe_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"got|schedule|at least"):
        Recipe(**wrong)


# learning


def test_it_learns_what_there_is_to_learn():
    task = Induction(symbols=8, length=6)
    run = language_model(task, Recipe(dim=32, heads=2, steps=250, batch=32, rate=5e-3), every=125, progress=False)
    first, _, last = run.curve.held_out.values
    assert first == pytest.approx(math.log(8), rel=0.3)
    assert last < 0.5 * first
    held = task.draw(64, seed=-99)
    with torch.no_grad():
        assert float(next_token_loss(run.model.model, held, torch.device("cpu"))) < 0.6 * math.log(8)


def test_the_loss_is_that_of_the_places_that_count():
    task = BigramBackcopy(length=8)
    run = language_model(task, SMALL, progress=False)
    drawn = task.draw(3, seed=5)
    counted = drawn.counted.clone()
    counted[:, ::2] = False
    net = run.model.model
    logits = net.head(net(input_ids=drawn.ids).last_hidden_state).double().log_softmax(-1)
    want = -logits.gather(-1, drawn.targets[..., None])[..., 0][counted].mean().detach()
    got = next_token_loss(net, replace(drawn, counted=counted), torch.device("cpu")).detach()
    assert float(got) == pytest.approx(float(want), rel=1e-5)


def test_the_curve_has_a_row_for_every_look_and_the_end():
    run = language_model(BigramBackcopy(length=8), SMALL, every=5, progress=False)
    assert run.curve.step.values.tolist() == [0, 5, 10, 12]
    assert np.isfinite(run.curve.held_out).all()
    assert np.isfinite(run.curve.sink_rate.sel(layer=[1, 2])).all()
    assert np.isfinite(run.curve.kurtosis).all()
    assert np.isnan(run.curve.grad_norm_layer.sel(step=0)).all()
    total = run.curve.grad_norm.sel(step=12)
    assert float((run.curve.grad_norm_layer.sel(step=12, layer=[1, 2]) ** 2).sum()) <= float(total) ** 2 * (1 + 1e-5)
    assert json.loads(run.curve.attrs["recipe"])["steps"] == 12


def test_one_seed_one_result_and_the_callers_randomness_is_left():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two = (weights(language_model(BigramBackcopy(length=8), SMALL, progress=False)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(one, two)
    assert not same(one, weights(language_model(BigramBackcopy(length=8), replace(SMALL, seed=1), progress=False)))


# stopping and going on


@pytest.mark.parametrize("normalizer", ["softmax", "softpick", "ssmax"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, normalizer):
    task, recipe = BigramBackcopy(length=8), replace(SMALL, normalizer=normalizer)
    whole = language_model(task, recipe, every=3, progress=False)

    def stop(step, _):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        language_model(task, recipe, every=3, folder=tmp_path, see=stop, progress=False)
    with safe_open(tmp_path / "run.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "3"
    again = language_model(task, recipe, every=3, folder=tmp_path, progress=False)
    assert again.curve.identical(whole.curve)
    with again.attending(), whole.attending():
        assert same(weights(again), weights(whole))
    read = language_model(task, recipe, every=3, folder=tmp_path, progress=False)
    with read.attending(), whole.attending():
        assert same(weights(read), weights(whole))


def test_see_may_end_a_run_which_may_go_on(tmp_path):
    task = BigramBackcopy(length=8)
    ended = language_model(task, SMALL, every=3, folder=tmp_path, see=lambda step, _: step >= 6, progress=False)
    assert ended.curve.step.values.tolist() == [0, 3, 6]
    on = language_model(task, SMALL, every=3, folder=tmp_path, progress=False)
    assert on.curve.identical(language_model(task, SMALL, every=3, progress=False).curve)


def test_another_run_in_the_same_folder_is_refused_by_name(tmp_path):
    task = BigramBackcopy(length=8)
    language_model(task, SMALL, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="rate"):
        language_model(task, replace(SMALL, rate=1e-3), folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="length=9"):
        language_model(BigramBackcopy(length=9), SMALL, folder=tmp_path, progress=False)
    (tmp_path / "run.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no checkpoint"):
        language_model(task, SMALL, folder=tmp_path, progress=False)


def test_a_loss_that_is_no_number_stops_with_its_batch_saved(tmp_path):
    with pytest.raises(FloatingPointError, match=r"batch-\d+") as stopped:
        language_model(BigramBackcopy(length=8), replace(SMALL, rate=1e30, steps=50), folder=tmp_path, progress=False)
    saved = next(tmp_path.glob("batch-*.safetensors"))
    assert str(saved) in str(stopped.value)
    step = int(saved.stem.removeprefix("batch-"))
    with safe_open(saved, framework="pt") as file:
        assert torch.equal(file.get_tensor("ids"), BigramBackcopy(length=8).draw(SMALL.batch, seed=step).ids)


# several


def test_several_runs_stand_side_by_side(tmp_path):
    task = BigramBackcopy(length=8)
    recipes = {"pre": replace(SMALL, steps=4), "peri": replace(SMALL, steps=6, norm="peri")}
    runs = several(task, recipes, [0, 3], folder=tmp_path, every=2, progress=False)
    curve = together(runs)
    assert dict(curve.sizes) == {"run": 2, "seed": 2, "step": 4, "layer": 3}
    alone = language_model(task, replace(recipes["peri"], seed=3), every=2, progress=False).curve
    assert curve.sel(run="peri", seed=3).held_out.values.tolist() == alone.held_out.values.tolist()
    assert np.isnan(curve.held_out.sel(run="pre", step=6)).all()
    assert len([*tmp_path.glob("*/run.safetensors")]) == 4
    with pytest.raises(ValueError, match="at least one"):
        several(task, {}, [0])


def test_held_out_losses_are_the_models_own_under_its_normalizer():
    task = BigramBackcopy(length=8)
    run = language_model(task, replace(SMALL, normalizer="ssmax", rate=0.05), progress=False)
    assert run.learned
    found = run.losses(task, texts=5)
    assert found.shape == (5, 8)
    drawn = task.draw(5, seed=-1_000_003)
    with torch.no_grad(), run.attending():
        want = float(next_token_loss(run.model.model, drawn, torch.device("cpu")))
    with torch.no_grad():
        other = float(next_token_loss(run.model.model, drawn, torch.device("cpu")))
    assert float(found.mean()) == pytest.approx(want, rel=1e-5)
    assert abs(float(found.mean()) - other) > 1e-4
    longer = run.losses(replace(task, length=20), texts=3)
    assert longer.shape == (3, 20)
    with pytest.raises(ValueError, match="tokens"):
        run.losses(BigramBackcopy(symbols=99, length=8))


def test_right_is_where_the_likeliest_token_is_the_next():
    task = Induction(symbols=5, length=4)
    run = language_model(task, replace(SMALL, normalizer="ssmax", rate=0.05), progress=False)
    drawn = task.draw(6, seed=-1_000_003)
    with torch.no_grad(), run.attending():
        said = run.model.model.head(run.model.model(input_ids=drawn.ids).last_hidden_state).argmax(-1)
    want = (said == drawn.targets).double().masked_fill(~drawn.counted, torch.nan)
    np.testing.assert_array_equal(run.right(task, texts=6).values, want)
    assert 0 < np.nanmean(want) < 1


# looking


def test_vitals_are_their_definitions():
    run = language_model(BigramBackcopy(length=10), SMALL, progress=False)
    model, ids = run.model, BigramBackcopy(length=10).draw(6, 1).ids
    matrices, values, states = {}, {}, {}

    def textbook(call):
        values[call.layer] = call.value.double().norm(dim=-1)  # [B, H, T]
        mask = call.visible.rows(0, call.visible.queries)
        matrices[call.layer] = call.scores().masked_fill(~mask, -torch.inf).softmax(-1)  # [B, H, T, T]
        return call.own()

    with (
        torch.no_grad(),
        attending(model, textbook),
        model.watching(lambda i, state: states.update({i: state.double()}), range(3)),
    ):
        model.model(input_ids=ids)
    seen = vitals(model, ids, threshold=0.2)
    alpha = torch.stack([matrices[layer][..., 0].mean(-1) for layer in (1, 2)])  # [L, B, H]
    harmonic = sum(1 / t for t in range(1, 11))
    np.testing.assert_allclose(seen["first"], alpha.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(seen["sink_rate"], (alpha > 0.2).double().mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(seen["lift"], alpha.mean((1, 2)) * 10 / harmonic, rtol=1e-5)
    np.testing.assert_allclose(seen["row_mass"], [1, 1], rtol=1e-5)
    for layer, norm in values.items():
        ratio = norm[..., 0].mean(0) / norm[..., 1:].mean((0, 2))  # of each head
        assert seen["value"][layer - 1] == pytest.approx(float(ratio.mean()), rel=1e-5)
    for layer, x in states.items():
        away = x - x.mean()
        assert seen["variance"][layer] == pytest.approx(float(x.var(correction=0)), rel=1e-5)
        assert seen["kurtosis"][layer] == pytest.approx(float((away**4).mean() / (away**2).mean() ** 2), rel=1e-5)
        assert seen["peak"][layer] == pytest.approx(float(x.abs().max() / x.abs().median()), rel=1e-5)
        assert seen["largest"][layer] == pytest.approx(float(x.abs().max()), rel=1e-5)


def test_softmax_disperses_over_large_sets_and_a_sharper_one_less():
    found = max_retrieval(steps=300, progress=False)
    seen = found.measure([8, 512], ["softmax", "adaptive_temperature"], sets=128).mean("example")
    assert float(seen.accuracy.sel(normalizer="softmax", items=8)) > 0.8
    top = seen.top.sel(normalizer="softmax")
    assert float(top.sel(items=512)) < 0.5 * float(top.sel(items=8))
    assert float(seen.top.sel(normalizer="adaptive_temperature", items=512)) > float(top.sel(items=512))
