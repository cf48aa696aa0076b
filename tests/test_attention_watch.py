"""lab.attention.watch: every backend against transformers' own eager matrices, in every family it names."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_oracle import PICTURES, TEXTS, drawn, inputs, matrices, statistics

import lab

ROOT = Path(__file__).parents[1]


def watched(model, given, **kw):
    with torch.inference_mode():
        plain = model.model(**given).last_hidden_state
    with lab.attention.watch(model, **kw) as sinks, torch.inference_mode():
        out = model.model(**given).last_hidden_state
    if kw.get("backend") == "fused":  # whose output is the model's
        real = given.get("attention_mask", plain.new_ones(plain.shape[:2])).bool()
        torch.testing.assert_close(out[real], plain[real])
    else:
        assert torch.equal(plain, out)
    return sinks.result()


def compare(result, A, real, *, rtol=1e-4, atol=2e-5, leave=()):
    for layer, matrix in enumerate(A):
        want = statistics(matrix, real)
        here = result.isel(layer=layer)
        for name, right in want.items():
            if name in leave:
                continue
            got = here[name].isel(threshold=0) if name.endswith("_rate") else here[name]
            np.testing.assert_allclose(got.values, right, rtol=rtol, atol=atol, err_msg=f"{name} of layer {layer + 1}")


FLASH = {"gpt2", "llama", "bert", "gptneox", "opt", "qwen3", "modernbert"}  # full or causal, and a softmax alone
BACKENDS = [(name, backend) for name in TEXTS for backend in ("chunked", "eager")]
BACKENDS += [(name, backend) for name in TEXTS for backend in (("flash", "tiles") if name in FLASH else ("auto",))]


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_texts_are_watched_as_eager_attention_has_them(name, side, backend, monkeypatch):
    monkeypatch.setattr("lab.attention.sinks.ELEMENTS", 3 * 4 * 9 * 2)  # two rows of queries at a time
    monkeypatch.setattr("lab.attention.runs.ELEMENTS", 3 * 4 * 9 * 2)  # some heads at a time
    monkeypatch.setattr("lab.attention.tiles.TILE", 4)  # three by three tiles, the last of one token
    monkeypatch.setattr("lab.attention.tiles.AT_ONCE", 3 * 4 * 4)  # and three heads of one text
    model = drawn(name)
    given, real = inputs(model, side)
    result = watched(model, given, backend=backend)
    tight = {"t5": 1e-3}.get(name, 1e-4)  # its scores are not scaled down, and reach 50
    compare(result, matrices(model, given), real, rtol=tight, atol=tight)
    assert result.support.values.tolist() == [(int(n) <= real.sum(1)).sum() for n in result.position]
    assert sorted(result.length.values) == sorted(real.sum(1).tolist())


@pytest.mark.parametrize("backend", ["auto", "chunked", "fused"])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name, backend):
    model = drawn(name)
    given, real = inputs(model)
    leave = {"entropy", "effective_keys", "distance"} if backend == "fused" else ()
    compare(watched(model, given, backend=backend), matrices(model, given), real, leave=leave)


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_fused_kernel_is_a_backend(name, side):
    model = drawn(name)
    given, real = inputs(model, side)
    result = watched(model, given, backend="fused")
    compare(result, matrices(model, given), real, leave={"entropy", "effective_keys", "distance"})
    assert np.isnan(result.entropy.values).all()
    assert set(result.backend.values) == {"fused"}


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", sorted(FLASH - {"modernbert"}))
def test_output_and_statistics_in_one_go(name, side, plain_torch, monkeypatch):
    monkeypatch.setattr("lab.attention.together.ROWS", 6)  # two or three queries at a time
    monkeypatch.setattr("lab.attention.together.AT_ONCE", 9 * 6)  # and some heads
    model = drawn(name)
    given, real = inputs(model, side)
    result = watched(model, given, backend="fused")
    compare(result, matrices(model, given), real)
    assert set(result.backend.values) == {"fused"}
    alone = watched(model, given, backend="fused", spread=False)
    assert alone.entropy.isnull().all()
    assert alone.effective_keys.isnull().all()
    for variable in ("mass", "distance", "row_mass"):
        np.testing.assert_array_equal(alone[variable], result[variable])


@pytest.mark.parametrize(("threads", "fast"), [(2, "tiles"), (3, "flash")])
@pytest.mark.parametrize("name", TEXTS)
def test_auto_takes_a_fast_one_where_it_may(name, threads, fast, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = drawn(name)
    result = watched(model, inputs(model, "left")[0])
    if name in FLASH:
        assert set(result.backend.values) == {fast}
    elif name == "modernbert_window":
        assert result.backend.values.tolist() == [fast, "chunked", "chunked"]
    else:
        assert set(result.backend.values) == {"chunked"}


@pytest.mark.parametrize(
    ("name", "backend", "says"),
    [
        ("mistral", "flash", "neither full nor causal"),
        ("gemma2", "flash", "softcap"),
        ("t5", "fused", "position bias"),
        ("gpt_oss", "fused", "sink logit"),
    ],
)
def test_a_backend_that_cannot_is_refused_by_name(name, backend, says):
    model = drawn(name)
    with (
        lab.attention.watch(model, backend=backend),
        torch.inference_mode(),
        pytest.raises(ValueError, match=f'backend "{backend}".*{says}.*chunked'),
    ):
        model.model(**inputs(model)[0])


def test_sink_logits_take_what_the_rows_do_not_have():
    model = drawn("gpt_oss")
    given, real = inputs(model)
    result = watched(model, given)
    np.testing.assert_allclose(result.sink_logit + result.row_mass, 1, atol=1e-5)
    assert 0.02 < float(result.sink_logit.mean()) < 0.98
    A = matrices(model, given)[0]
    whole = statistics(A / A.sum(-1, keepdims=True).clip(1e-30), real)
    np.testing.assert_allclose(result.lift[0], whole["lift"], rtol=1e-4)
    np.testing.assert_allclose(result.first_token[0], whole["first_token"], rtol=1e-4)
    np.testing.assert_allclose(result.share[0], whole["mass"], rtol=1e-4)


def test_what_a_sink_logit_leaves_may_be_above_no_threshold_where_its_share_is():
    model = drawn("gpt_oss")
    given, real = inputs(model)
    result = watched(model, given, thresholds=(0.1, 0.3))
    assert result.mass_rate.dims == result.sink_rate.dims == ("layer", "head", "threshold", "position")
    assert (result.mass_rate <= result.sink_rate).all()
    assert float((result.sink_rate - result.mass_rate).max()) == 1
    for threshold in (0.1, 0.3):
        want = statistics(matrices(model, given)[1], real, threshold)["mass_rate"]
        np.testing.assert_allclose(result.mass_rate.sel(layer=2, threshold=threshold), want)


def test_values_weigh_what_they_receive():
    model = drawn("llama")
    given, real = inputs(model)
    kept = []
    with lab.attention.watch(model) as sinks, torch.inference_mode():
        hook = model.model.layers[0].self_attn.v_proj.register_forward_hook(lambda _m, _a, out: kept.append(out))
        model.model(**given)
        hook.remove()
    norm = kept[0].unflatten(-1, (2, 8)).norm(dim=-1).repeat_interleave(2, 2)  # [B, T, H]
    A, want, length = matrices(model, given)[0], np.zeros((4, 9)), np.zeros((4, 9))
    for b, here in enumerate(real.numpy()):
        T = here.sum()
        alpha = A[b][:, here][:, :, here].sum(1) / (T - np.arange(T))
        want[:, :T] += alpha * norm[b, here].numpy().T
        length[:, :T] += norm[b, here].numpy().T
    result = sinks.result()
    np.testing.assert_allclose(result.value_mass[0], want / result.support.values, rtol=1e-4)
    np.testing.assert_allclose(result.value_norm[0], length / result.support.values, rtol=1e-4)


def test_batches_add_up_to_one_and_capture_may_run_the_model():
    model = drawn("llama")
    given, _ = inputs(model)
    whole = watched(model, given)
    with lab.attention.watch(model) as sinks, torch.inference_mode():
        for b in range(3):
            model.model(**{name: values[b : b + 1] for name, values in given.items()})
    apart = sinks.result()
    for name in ("mass", "lift", "sink_rate", "entropy", "distance", "first_token"):
        np.testing.assert_allclose(apart[name], whole[name], rtol=1e-4, atol=1e-5)
    with lab.attention.watch(model) as sinks:
        lab.capture.states(model, ["a text", "", "of several lengths"], progress=False)
    assert sorted(sinks.result().length.values) == [6, 18]  # the empty one is no sequence


def test_generation_with_a_cache_is_one_sequence():
    import transformers as tf

    base = drawn("llama")
    whole = tf.LlamaForCausalLM(base.model.config).eval()
    whole.model.load_state_dict(base.model.state_dict())
    model = lab.models.describe("llama", "test", whole, None, 60, example=base.example)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    ids = torch.randint(5, 95, (2, 5)) * mask
    with lab.attention.watch(model) as sinks:
        out = whole.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
        early = sinks.result()
        more = whole.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert out.shape == (2, 11)
    assert more.shape == (2, 8)
    seen = torch.cat([mask, torch.ones(2, 5, dtype=torch.long)], 1)  # the last token was never a query
    A = matrices(base, {"input_ids": out[:, :-1], "attention_mask": seen})
    compare(early, A, seen.bool())
    assert sinks.result().sizes["sequence"] == 4


def test_a_cache_cut_to_its_window_is_refused():
    import transformers as tf

    base = drawn("mistral")
    whole = tf.MistralForCausalLM(base.model.config).eval()
    model = lab.models.describe("mistral", "test", whole, None, 60, example=base.example)
    ids = torch.randint(5, 95, (1, 3))
    with lab.attention.watch(model), pytest.raises(ValueError, match="cut to a window"):
        whole.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_counts_once(reentrant, monkeypatch):
    model = drawn("llama")
    given, _ = inputs(model)
    whole = watched(model, given)
    module = model.model.train()
    module.activation_checkpointing_enable({"use_reentrant": reentrant})
    module.enable_input_require_grads()
    measured, rooms = [], sys.modules["lab.attention.watch"]  # by its name in the package it is the function
    measure = rooms.measure
    monkeypatch.setattr(rooms, "measure", lambda call, *more: measured.append(call.layer) or measure(call, *more))
    with lab.attention.watch(model) as sinks:
        module(**given, use_cache=False).last_hidden_state.square().sum().backward()
    assert measured == [1, 2, 3]  # not again for the gradients
    module.activation_checkpointing_disable()
    grads = module.layers[0].self_attn.q_proj.weight.grad.clone()
    module.zero_grad()
    module(**given, use_cache=False).last_hidden_state.square().sum().backward()
    torch.testing.assert_close(module.layers[0].self_attn.q_proj.weight.grad, grads, rtol=1e-4, atol=1e-4)
    result = sinks.result()
    assert result.sizes["sequence"] == 3
    np.testing.assert_allclose(result.mass, whole.mass, rtol=1e-4, atol=1e-5)


COMPILED = """
import sys
sys.path.insert(0, "tests")
import numpy as np, torch
import lab
from attention_oracle import drawn, inputs
model = drawn("llama")
given, _ = inputs(model)
def watched(module, passes):
    with lab.attention.watch(model) as sinks, torch.inference_mode():
        for _ in range(passes):
            module(**given)
    return sinks.result()
want, got = watched(model.model, 1), watched(torch.compile(model.model, backend="eager"), 2)
assert got.sizes["sequence"] == 6
np.testing.assert_allclose(got.mass, want.mass, rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(got.entropy[..., 3:], want.entropy, rtol=1e-4, atol=1e-5)
print("the same")
"""


def test_under_torch_compile():
    """In a Python of its own: a compiler cannot trace the shape checks that tests add to every function."""
    run = subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout.endswith("the same\n"), run.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_half_precision(name, dtype):
    """All backends see the same half queries and keys, and two of them count in float32."""
    model = drawn(name, scale=1.5)
    model.model.to(dtype)
    given, _ = inputs(model, "left", lengths=(40, 17))
    flash, tiles, chunked = (watched(model, given, backend=backend) for backend in ("flash", "tiles", "chunked"))
    for variable in ("mass", "lift", "effective_keys", "entropy", "distance"):  # the kernel's own lse is 2e-5 off
        np.testing.assert_allclose(tiles[variable], chunked[variable], rtol=1e-4, atol=1e-4, err_msg=variable)
    for variable, bound in {"mass": 1e-3, "lift": 1e-2, "effective_keys": 2e-2}.items():
        np.testing.assert_allclose(flash[variable], chunked[variable], rtol=bound, err_msg=variable)
    np.testing.assert_allclose(flash.entropy, chunked.entropy, atol=1e-2)
    np.testing.assert_allclose(flash.distance, chunked.distance, atol=0.04)


def test_what_is_not_finite_in_padding_is_not_seen():
    model = drawn("llama")
    given, real = inputs(model, "left")
    want = watched(model, given)

    def nan_in(module, args, output):
        return output.masked_fill(~real[..., None], torch.nan)

    first = model.model.layers[0].self_attn
    for backend in ("flash", "tiles", "chunked", "fused"):
        with lab.attention.watch(model, backend=backend) as sinks, torch.inference_mode():
            hooks = [part.register_forward_hook(nan_in) for part in (first.q_proj, first.k_proj, first.v_proj)]
            model.model(**given)
        for hook in hooks:
            hook.remove()
        got = sinks.result()
        for variable in ("mass", "value_mass"):
            np.testing.assert_allclose(got[variable][0], want[variable][0], rtol=1e-4, atol=1e-6, err_msg=backend)
