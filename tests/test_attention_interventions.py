"""Interventions and rounding against the same done by hand, and back to what was before."""

import numpy as np
import pytest
import torch
import transformers as tf
from attention_oracle import drawn, inputs, matrices
from families import FAMILIES

import lab
from lab.attention.activations import activations
from lab.attention.interventions import activations_set, with_sink_logit, without_keys
from lab.attention.quantize import rounding, rounding_loss
from lab.models.quantized import rounded


def run(model, given):
    with torch.inference_mode():
        return model.model(**given).last_hidden_state


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "mistral", "gemma2", "gpt_oss", "t5", "modernbert_window"])
def test_rows_answered_here_are_the_models_own(name, monkeypatch):
    """A sink logit of -inf changes nothing: masks, caps, biases and the model's own sinks are all taken along."""
    monkeypatch.setattr("lab.attention.interventions.ELEMENTS", 3 * 4 * 9 * 2)
    model = drawn(name)
    given, real = inputs(model, "left")
    want = run(model, given)
    with with_sink_logit(model, -torch.inf):
        got = run(model, given)
    torch.testing.assert_close(got[real], want[real], rtol=1e-3, atol=1e-3)
    with with_sink_logit(model, 1.0):
        assert not torch.allclose(run(model, given)[real], want[real], rtol=1e-2, atol=1e-2)
    assert torch.equal(run(model, given), want)


def test_a_sink_logit_takes_its_share():
    model = drawn("llama")
    given, real = inputs(model)
    seen = []
    with with_sink_logit(model, torch.tensor([0.0, 1.0, 2.0, 3.0]), layers=[1]), torch.inference_mode():
        hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model.model(**given)
        hook.remove()
    plain = []
    hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, args: plain.append(args[0]))
    run(model, given)
    hook.remove()
    lse = []
    with lab.attention.calls.attending(model, lambda call: (lse.append(scores_lse(call)), call.own())[1]):
        run(model, given)
    keep = torch.sigmoid(lse[0] - torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]).transpose(1, 2)[
        ..., None
    ]  # [B, T, H, 1]
    want = plain[0].unflatten(-1, (4, 8)) * keep
    torch.testing.assert_close(seen[0].unflatten(-1, (4, 8))[real], want[real], rtol=1e-4, atol=1e-5)


def scores_lse(call):
    visible = call.visible.rows(0, call.query.shape[2])
    return call.scores().masked_fill(~visible, -torch.inf).logsumexp(-1)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_hidden_key_is_seen_by_nobody_but_those_without_another(side):
    model = drawn("llama")
    given, real = inputs(model, side)
    kept = []
    value = model.model.layers[0].self_attn.v_proj
    with without_keys(model, [1, 3], layers=[1]), torch.inference_mode():
        hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        taken = value.register_forward_hook(lambda _m, _a, out: kept.append(out))
        model.model(**given)
        hook.remove()
        taken.remove()
    values, out = kept
    A = torch.tensor(matrices(model, given)[0])
    values = values.unflatten(-1, (2, 8)).repeat_interleave(2, 2).transpose(1, 2).double()
    for b, here in enumerate(real):
        a = A[b][:, here][:, :, here]
        a[:, 1:, 0] = 0
        a[:, 3:, 2] = 0  # the third token may look at the second, and must
        a[:, 2, 2] = 0
        a /= a.sum(-1, keepdim=True)
        want = (a @ values[b][:, here]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(out[b, here].double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_coordinates_are_set_where_they_were_asked_to(name, side):
    model = drawn(name)
    given, real = inputs(model, side)
    with lab.capture.tap(model, ["layer.1", "layer.2"]) as before:
        run(model, given)
    number = real.int().cumsum(1) * real
    for position, at in ((None, real), (1, number == 1), (3, number == 3)):
        # the tap is hung first, so it sees the block's own output; the next block has taken the changed one
        with activations_set(model, 1, {5: 0.0, 7: 2.5}, position), torch.inference_mode():
            taken = []
            block = dict(model.model.named_modules())[model.blocks[1]]
            hook = block.register_forward_pre_hook(
                lambda _, args, kw, taken=taken: taken.append(args[0] if args else kw["hidden_states"]),
                with_kwargs=True,
            )
            model.model(**given)
            hook.remove()
        want = before["layer.1"].clone()
        want[..., 5] = torch.where(at, 0.0, want[..., 5])
        want[..., 7] = torch.where(at, 2.5, want[..., 7])
        torch.testing.assert_close(taken[0], want)
    with lab.capture.tap(model, ["layer.2"]) as after:
        run(model, given)
    assert torch.equal(after["layer.2"], before["layer.2"])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("position", [None, 1, 5])
def test_coordinates_are_set_beside_a_cache_as_in_one_pass(position, side):
    model = drawn("llama")
    given, real = inputs(model, side, (9, 7, 8))
    ids, mask = given["input_ids"], given["attention_mask"]
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with activations_set(model, 1, {5: 7.0}, position), torch.no_grad():
        want = model.model(input_ids=ids, attention_mask=mask, position_ids=places).last_hidden_state
        cache = None
        for tokens in (slice(0, 3), slice(3, 8), slice(8, 9)):
            out = model.model(
                input_ids=ids[:, tokens], attention_mask=mask[:, : tokens.stop], position_ids=places[:, tokens],
                use_cache=True, past_key_values=cache,
            )  # fmt: skip
            cache = out.past_key_values
            here = real[:, tokens]
            torch.testing.assert_close(out.last_hidden_state[here], want[:, tokens][here], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(run(model, given)[real], want[real], atol=1e-2)


def test_coordinates_are_set_in_each_step_of_a_generation():
    torch.manual_seed(0)
    whole = tf.AutoModelForCausalLM.from_config(FAMILIES["llama"]()).eval()
    model = lab.models.describe("llama", "test", whole.model, None, None)
    ids = torch.randint(5, 90, (2, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    for position in (None, 1, 8):
        with activations_set(model, 1, {5: 90.0}, position):
            how = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
            made = whole.generate(ids, attention_mask=mask, **how)
            full = torch.cat([mask, torch.ones(2, 5, dtype=torch.long)], 1)
            places = (full.cumsum(1) - 1).clamp(min=0)
            with torch.no_grad():
                said = whole(input_ids=made, attention_mask=full, position_ids=places).logits.argmax(-1)
        assert torch.equal(said[:, 5:-1], made[:, 6:])


def test_a_mask_is_read_wherever_it_is_given_and_refused_where_it_says_nothing():
    model = drawn("llama")
    given, real = inputs(model, "left")
    ids, mask = given.values()
    with activations_set(model, 1, {5: 7.0}, 1), torch.no_grad():
        want = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(model.model(ids, mask).last_hidden_state[real], want[real])
        with pytest.raises(ValueError, match=r"attention_mask \[B, tokens so far\], here \[3, 9\]; got \[3, 1, 9, 9\]"):
            model.model(input_ids=ids, attention_mask=mask[:, None, None].bool() & torch.ones(9, 9).tril().bool())


def test_coordinates_may_come_from_moments():
    model = lab.models.tiny("llama", layers=3, dim=16, heads=2)
    mean = lab.capture.moments(model, ["one text", "and another"], progress=False)["mean"].sel(layer=1)
    ids = {"input_ids": torch.tensor([[5, 6, 7]])}
    with activations_set(model, 1, mean.isel(dim=[2, 3]).assign_coords(dim=[2, 3])):
        by_array = run(model, ids)
    with activations_set(model, 1, {2: float(mean[2]), 3: float(mean[3])}):
        by_hand = run(model, ids)
    torch.testing.assert_close(by_array, by_hand)
    assert not torch.allclose(by_array, run(model, ids), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: without_keys(m, [0]), "count from 1"),
        (lambda m: without_keys(m, [1], layers=[4]), r"no attention in layer \[4\].*1 to 3"),
        (lambda m: activations_set(m, 3, {0: 0.0}), "that a block reads, 1 to 2; got 3"),
        (lambda m: activations_set(m, 1, {99: 0.0}), r"dims from 0 to 31; got \[99\]"),
        (lambda m: activations_set(m, 1, {0: 0.0}, 0), "position counts from 1"),
        (rounding, "nothing to round"),
        (lambda m: rounding(m, weights=1), "from 2 to 16; got 1"),
    ],
)
def test_bad_interventions_are_refused(change, says):
    with pytest.raises(ValueError, match=says), change(drawn("llama")):
        pass


def test_a_wrong_number_of_logits_and_a_cache_are_refused():
    model = drawn("llama")
    with with_sink_logit(model, torch.zeros(3)), pytest.raises(ValueError, match="each of 4 heads; got"):
        run(model, inputs(model)[0])
    cache = model.model(input_ids=torch.tensor([[5, 6]]), use_cache=True).past_key_values
    with without_keys(model), pytest.raises(ValueError, match="use_cache=False"):
        model.model(input_ids=torch.tensor([[7]]), past_key_values=cache)


def test_rounding():
    x = torch.tensor([[1.0, -0.4, 0.26], [0.0, 0.0, 0.0], [10.0, 4.0, -3.0]])
    assert rounded(x, 2, 0).tolist() == [[1, 0, 0], [0, 0, 0], [10, 0, 0]]
    torch.testing.assert_close(rounded(x, 3, 0)[2], torch.tensor([10, 10 / 3, -10 / 3]))
    assert rounded(x, 2).tolist() == [[0, 0, 0], [0, 0, 0], [10, 0, 0]]
    assert rounded(x.half(), 4, 0).dtype == torch.half
    fine = torch.randn(5, 40)
    off = (rounded(fine, 8, 0) - fine).abs().amax(1)
    assert bool((off <= fine.abs().amax(1) / 127 / 2 * 1.001).all())
    with pytest.raises(ValueError, match="from 2 to 16; got 17"):
        rounded(x, 17)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rounded_weights_are_each_output_channels_and_come_back(name):
    model = drawn(name)
    given, _ = inputs(model)
    want = run(model, given)
    before = {key: weight.clone() for key, weight in model.model.state_dict().items()}
    part = model.model.h[0].attn.c_attn if name == "gpt2" else model.model.layers[0].mlp.up_proj
    with rounding(model, weights=3):
        outputs = part.weight.T if name == "gpt2" else part.weight
        assert max(len(row.unique()) for row in outputs) <= 7
        assert len(outputs.unique()) > 7
        assert not torch.allclose(run(model, given), want)
    assert all(torch.equal(weight, before[key]) for key, weight in model.model.state_dict().items())
    with rounding(model, activations=4):
        assert not torch.allclose(run(model, given), want)
    assert torch.equal(run(model, given), want)


def test_fewer_bits_cost_more_and_the_loss_is_asked():
    model = drawn("llama")
    given, _ = inputs(model, lengths=(9, 9))

    def loss(out, batch):
        return out.last_hidden_state.square().mean() + len(batch)

    found = rounding_loss(model, [given, given], bits=(8, 4, 2), loss=loss, progress=False)
    assert found.change.dims == ("what", "bits")
    change = found.change.values
    assert (np.diff(change, axis=1) > 0).all()
    assert (change[:, 0] < 0.2).all()
    with torch.inference_mode():
        assert float(found.plain) == pytest.approx(float(loss(model.model(**given), given)), rel=1e-5)
    with rounding(model, weights=4), torch.inference_mode():
        out = model.model(**given).last_hidden_state
    want = (out - run(model, given)).norm() / run(model, given).norm()
    assert float(found.change.sel(what="weights", bits=4)) == pytest.approx(float(want), rel=1e-4)
    assert set(rounding_loss(model, [given], bits=(8,), progress=False).data_vars) == {"change"}
    with pytest.raises(ValueError, match="no batches"):
        rounding_loss(model, [])


def test_padding_does_not_count_in_the_change():
    model = drawn("llama")
    given, _ = inputs(model, lengths=(9, 3))
    other = {**given, "input_ids": given["input_ids"].masked_fill(given["attention_mask"] == 0, 50)}
    one, two = (rounding_loss(model, [batch], bits=(4,), progress=False) for batch in (given, other))
    same = {"what": "weights", "bits": 4}
    assert float(one.change.sel(same)) == pytest.approx(float(two.change.sel(same)), rel=1e-5)


TEXTS = ["a singular value decomposition", "hello there", "mean of the tokens " * 5]


def test_activations_are_those_of_all_tokens():
    model = lab.models.tiny("llama", layers=3, dim=16, heads=2)

    def grow(_module, _args, out):
        out = out.clone()
        out[:, 1, 3] = 4000.0  # of the second token
        out[:, 0, 5] = 99.0
        return out

    hook = model.model.layers[0].register_forward_hook(grow)
    found = activations(model, TEXTS, progress=False, batch_tokens=30)
    states = []
    for text in TEXTS:
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        with lab.capture.tap(model, [f"layer.{i}" for i in range(4)]) as seen:
            run(model, {"input_ids": ids})
        states.append([seen[f"layer.{i}"][0].double().numpy() for i in range(4)])
    hook.remove()
    assert found.massive.sel(layer=1).values.tolist() == [1, 1, 1]
    assert found.position.sel(layer=1, rank=1).values.tolist() == [2, 2, 2]
    assert found.dim.sel(layer=1, rank=[1, 2]).values.tolist() == [[3, 5]] * 3
    for b in range(3):
        for i in range(4):
            x = np.abs(states[b][i]).ravel()
            here = found.isel(layer=i, sequence=b)
            np.testing.assert_allclose(here.largest, np.sort(x)[::-1][:3], rtol=1e-5)
            assert float(here["median"]) == pytest.approx(np.sort(x)[(len(x) - 1) // 2], rel=1e-5)
            np.testing.assert_allclose(here.ratio, here.largest / here["median"])
            assert int(here.massive) == ((x > 100) & (x > 1000 * np.median(x))).sum()
    for i in range(4):
        x = np.concatenate([states[b][i].ravel() for b in range(3)])
        away = x - x.mean()
        assert float(found.kurtosis[i]) == pytest.approx((away**4).mean() / (away**2).mean() ** 2, rel=1e-6)
    assert found.length.values.tolist() == [len(s[0]) for s in states]


def test_texts_without_a_token_are_named():
    model = lab.models.tiny("llama", layers=1, dim=16, heads=2)
    model.tokenizer.post_processor = None
    from attention_oracle import reads_letters

    bare = lab.models.describe("bare", "test", model.model, reads_letters, 60)
    with pytest.raises(ValueError, match=r"texts \[1\] have no token"):
        activations(bare, ["a", "", "b"], progress=False)
