"""Blocks of lab.attention within one another: whatever their order, what is seen is what the model computes with."""

import copy

import jaxtyping
import numpy as np
import pytest
import torch
from attention_oracle import drawn, inputs, matrices, statistics

import lab
from lab.attention.calls import attending, listening
from lab.attention.interventions import with_sink_logit, without_keys


def run(model, given):
    with torch.inference_mode():
        return model.model(**given).last_hidden_state


@pytest.fixture
def unchecked(monkeypatch):
    """As for a user: the types in the signatures, which stand in tests alone, would answer first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def changes():
    return {
        "use": lambda m: lab.attention.use(m, "softpick"),
        "without": lambda m: without_keys(m, (1,)),
        "sink": lambda m: with_sink_logit(m, 3.0),
        "watch": lab.attention.watch,
    }


@pytest.mark.parametrize("name", changes())
def test_a_watch_counts_no_pass_but_the_users(name):
    model = drawn("llama")
    given, _ = inputs(model)
    with lab.attention.watch(model) as sinks:
        run(model, given)
        with changes()[name](model):
            run(model, given)
        run(model, given)
    assert sinks.result().length.values.tolist() == [9, 4, 7] * 3


def test_no_block_is_asked_while_another_one_is_tried_out():
    model, asked = drawn("gpt2"), []
    for opened in (attending, listening):
        with opened(model, lambda call: asked.append(call.layer) or call.own()):
            for change in changes().values():
                with change(model):
                    pass
    assert asked == []


@pytest.mark.parametrize("name", ["use", "without", "sink"])
def test_the_order_of_blocks_does_not_show(name):
    """A watch sees what is computed in the end, opened outside or inside; so does a watch within a watch."""
    model, change = drawn("llama"), changes()[name]
    given, _ = inputs(model, "left")
    with change(model), lab.attention.watch(model) as inside:
        want = run(model, given)
    with lab.attention.watch(model) as outside, change(model), lab.attention.watch(model) as between:
        assert torch.equal(run(model, given), want)
    for found in (outside, between):
        assert found.result().drop_attrs().identical(inside.result().drop_attrs())
    assert not np.allclose(inside.result().mass, watched(model, given).mass, atol=1e-2)
    with lab.attention.use(model, "sigmoid"), change(model), lab.attention.watch(model) as last:
        run(model, given)  # the block opened last answers
    assert last.result().drop_attrs().identical(inside.result().drop_attrs())


def watched(model, given):
    with lab.attention.watch(model) as sinks:
        run(model, given)
    return sinks.result()


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2", "gpt_oss"])
def test_hidden_keys_are_seen_hidden(kind, side):
    model = drawn(kind)
    given, real = inputs(model, side)
    A = matrices(model, given)[0]
    for b, here in enumerate(real.numpy()):
        at = np.flatnonzero(here)
        for i in at:
            row = A[b, :, i].copy()
            row[:, at[[0, 2]]] = 0
            others = row.sum(-1) > 0
            if others.all():
                # gpt_oss has a sink logit beside the keys, which takes its share of what is left
                rest = 1 - A[b, :, i].sum(-1)
                A[b, :, i] = row / (row.sum(-1) + rest)[:, None]
    with without_keys(model, (1, 3)), lab.attention.watch(model) as sinks:
        run(model, given)
    got = sinks.result().isel(layer=0)
    with np.errstate(invalid="ignore"):  # a key that nobody sees has no even share: 0 / 0
        want = {name: np.nan_to_num(values) for name, values in statistics(A, real).items()}
    for name, right in want.items():
        found = got[name].isel(threshold=0) if name.endswith("_rate") else got[name]
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=2e-5, err_msg=name)
    assert float(got.zeros.max()) == 0  # a hidden key is not a visible one
    if kind == "llama":
        T = real.sum(1).numpy()
        np.testing.assert_allclose(got.mass.sel(position=1), (1 / T).mean(), rtol=1e-5)  # by itself alone
        # the second token is left with itself, and was once taken for the first of another text
        assert float(got.mass.sel(position=2).min()) > 1 / 9


@pytest.mark.parametrize("logit", [3.0, torch.tensor([0.0, 1.0, 2.0, -torch.inf])], ids=["one", "each"])
@pytest.mark.parametrize("kind", ["llama", "bert", "gpt_oss"])
def test_a_sink_logit_is_seen_to_take_its_share(kind, logit):
    model = drawn(kind)
    given, real = inputs(model, "left")
    lse = []

    def hear(call):
        mask = call.visible.rows(0, call.query.shape[2])
        full = call.scores().double().masked_fill(~mask, -torch.inf)
        own = [] if call.sink is None else [call.sink.double().view(1, -1, 1, 1).expand(*full.shape[:3], 1)]
        lse.append(torch.cat([full, *own], -1).logsumexp(-1))
        return call.own()

    with listening(model, hear):
        run(model, given)
    A = matrices(model, given)[0]
    extra = torch.as_tensor(logit).double().expand(4)[:, None]
    keep = torch.sigmoid(lse[0] - extra).numpy()  # of each row
    want = statistics(A * keep[..., None], real)
    with with_sink_logit(model, logit), lab.attention.watch(model) as sinks:
        run(model, given)
    got = sinks.result().isel(layer=0)
    for name in ("mass", "row_mass", "entropy", "effective_keys", "distance", "first_share"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(got.sink_logit, 1 - want["row_mass"], rtol=1e-4, atol=2e-5)


def test_only_the_layers_that_are_changed_are_seen_changed():
    model = drawn("llama")
    given, real = inputs(model)
    with without_keys(model, (1,), layers=[2]), lab.attention.watch(model) as sinks:
        run(model, given)
    got, plain = sinks.result(), watched(model, given)
    np.testing.assert_allclose(got.mass.sel(layer=1), plain.mass.sel(layer=1), rtol=1e-5, atol=1e-6)
    T = real.sum(1).numpy()
    np.testing.assert_allclose(got.mass.sel(layer=2, position=1), (1 / T).mean(), rtol=1e-5)
    assert got.backend.values[1] == "chunked"


def test_a_pattern_is_what_is_computed():
    model = lab.models.tiny("llama", layers=2, dim=32, heads=4)
    plain = lab.attention.pattern(model, "some text", 1).weight.values.astype(np.float64)
    with without_keys(model, (1,)):
        hidden = lab.attention.pattern(model, "some text", 1).weight.values
    want = plain.copy()
    want[:, 1:, 0] = 0
    np.testing.assert_allclose(hidden, want / want.sum(-1, keepdims=True), rtol=1e-4, atol=1e-6)
    with with_sink_logit(model, 1.0):
        sunk = lab.attention.pattern(model, "some text", 1).weight.values
    kept = sunk.sum(-1)
    assert (kept < 0.99).all()
    np.testing.assert_allclose(sunk / kept[..., None], plain, rtol=1e-4, atol=1e-6)


def test_an_answer_of_unknown_weights_is_not_taken_for_softmax():
    model = drawn("llama")
    given, _ = inputs(model)

    def answer(call):
        return torch.zeros_like(call.query).transpose(1, 2)

    for opened in ((attending, answer), (lab.attention.watch,)), ((lab.attention.watch,), (attending, answer)):
        (first, *more), (second, *rest) = opened
        with first(model, *more), second(model, *rest), pytest.raises(ValueError, match="layer 1 was answered by"):
            run(model, given)
    with attending(model, lambda call: call.own()):
        assert watched(model, given).drop_attrs().identical(watched(model, given).drop_attrs())


def test_blocks_may_be_left_in_any_order():
    model = drawn("llama")
    given, _ = inputs(model)
    want = run(model, given)
    sinks, used, hidden = lab.attention.watch(model), lab.attention.use(model, "softpick"), without_keys(model, (1,))
    with hidden:
        one = run(model, given)
    found = sinks.__enter__()
    used.__enter__()
    hidden = without_keys(model, (1,))
    hidden.__enter__()
    used.__exit__(None, None, None)
    assert torch.equal(run(model, given), one)
    found = found.result()
    sinks.__exit__(None, None, None)
    assert found.length.values.tolist() == [9, 4, 7]
    assert torch.equal(run(model, given), one)
    hidden.__exit__(None, None, None)
    assert torch.equal(run(model, given), want)
    assert model.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", changes())
def test_a_copy_made_inside_is_refused(name):
    model = drawn("llama")
    for what in (model, model.model):
        with (
            changes()[name](model),
            pytest.raises(TypeError, match=r"cannot be copied inside a block.*before the block"),
        ):
            copy.deepcopy(what)
    assert torch.equal(run(copy.deepcopy(model), inputs(model)[0]), run(model, inputs(model)[0]))


@pytest.mark.parametrize("name", changes())
def test_another_attention_set_inside_is_refused(name):
    model = drawn("llama")
    given, _ = inputs(model)
    with changes()[name](model):
        model.model.set_attn_implementation("eager")
        with pytest.raises(ValueError, match=r"set to 'eager' inside.*before the block"):
            run(model, given)
    assert model.model.config._attn_implementation == "sdpa"
    model.model.set_attn_implementation("eager")
    with changes()[name](model):
        run(model, given)
    assert model.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", changes())
def test_matrices_asked_for_inside_are_refused(name):
    model = drawn("llama", attn_implementation="eager")
    given, _ = inputs(model)
    with changes()[name](model):
        with pytest.raises(ValueError, match=r"output_attentions=True has no matrices.*lab\.attention\.pattern"):
            run(model, given | {"output_attentions": True})
        run(model, given | {"output_attentions": False})
    model.model.config.output_attentions = True
    with pytest.raises(ValueError, match="output_attentions"), changes()[name](model):
        pass


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda m: lab.attention.use(m, ["softmax"]), r"by its name, one of softmax.*got \['softmax'\]"),
        (lambda m: lab.attention.watch(m, normalizer=["softmax"]), r"or a function; got \['softmax'\]"),
        (lambda m: lab.attention.watch(m, thresholds=0.3), r"several numbers, as \(0.3,\); got 0.3"),
        (lambda m: lab.attention.watch(m, thresholds="0.3"), "several numbers"),
        (lambda m: lab.attention.watch(m, first=2.5), "an int; got 2.5"),
    ],
)
def test_arguments_of_another_type_are_refused(bad, says, unchecked):
    with pytest.raises(TypeError, match=says), bad(drawn("llama")):
        pass
    with (
        pytest.raises(ValueError, match=r"no backend \['flash'\]"),
        lab.attention.watch(drawn("llama"), backend=["flash"]),
    ):
        pass


def test_thresholds_may_be_any_row_of_numbers(unchecked):
    model = drawn("llama")
    given, _ = inputs(model)
    for thresholds in ((0.1, 0.3), [0.1, 0.3], np.array([0.1, 0.3])):
        with lab.attention.watch(model, thresholds=thresholds, first=np.int64(2)) as sinks:
            run(model, given)
        assert sinks.result().threshold.values.tolist() == [0.1, 0.3]
