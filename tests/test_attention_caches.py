"""Watching beside caches of fixed size, and where a pass says by itself which way it looks."""

import numpy as np
import pytest
import torch
import transformers as tf
from attention_oracle import drawn, inputs, matrices, statistics

import lab
from lab.attention.calls import listening

IDS = torch.randint(5, 95, (2, 8), generator=torch.Generator().manual_seed(3))
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
BACKENDS = ("auto", "chunked", "eager", "flash", "tiles", "fused")


def same(got, want, leave=("backend",)):
    for name in set(want.data_vars) - set(leave):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5, err_msg=name)


def oracle(result, model, ids, real, leave=(), **more):
    given = {"input_ids": ids, "attention_mask": real.long(), **more}
    for layer, A in enumerate(matrices(model, given)):
        for name, want in statistics(A, real).items():
            got = result[name].isel(threshold=0) if name.endswith("_rate") else result[name]
            if name not in leave:
                np.testing.assert_allclose(got[layer], want, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_cache_with_free_places_is_watched_as_one_without(kind, padded, backend):
    """The first tokens, then one more: queries stand behind what the cache holds, not at its end."""
    model = drawn(kind)
    mask = MASK if padded else torch.ones_like(MASK)
    with lab.attention.watch(model, backend=backend) as sinks, torch.no_grad():
        cache = tf.StaticCache(config=model.model.config, max_cache_len=12)
        for start, stop in ((0, 6), (6, 7), (7, 8)):
            kw = {"attention_mask": mask[:, :stop]} if padded else {}
            model.model(input_ids=IDS[:, start:stop], past_key_values=cache, use_cache=True, **kw)
    result = sinks.result()
    leave = {"entropy", "effective_keys", "distance"} if backend == "fused" else ()
    assert result.length.values.tolist() == mask.sum(1).tolist()
    oracle(result, model, IDS, mask.bool(), leave)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_tokens_take_the_fast_way(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = drawn("llama")
    with lab.attention.watch(model) as sinks, torch.no_grad():
        cache = tf.StaticCache(config=model.model.config, max_cache_len=12)
        model.model(input_ids=IDS, past_key_values=cache, use_cache=True)
    assert set(sinks.result().backend.values) == {"tiles" if threads == 1 else "flash"}
    oracle(sinks.result(), model, IDS, torch.ones_like(MASK).bool())


def test_several_tokens_behind_a_cache():
    model = drawn("llama")
    found = []
    for cache in (tf.StaticCache(config=model.model.config, max_cache_len=12), tf.DynamicCache()):
        with lab.attention.watch(model) as sinks, torch.no_grad():
            model.model(input_ids=IDS[:, :3], past_key_values=cache, use_cache=True)
            model.model(input_ids=IDS[:, 3:], past_key_values=cache, use_cache=True)
        found.append(sinks.result())
    same(*found)
    oracle(found[0], model, IDS, torch.ones_like(MASK).bool())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])  # one mask for all layers, one for each kind, learned
def test_generation(kind, padded):
    base = drawn(kind)
    whole = tf.AutoModelForCausalLM.from_config(base.model.config).eval()
    getattr(whole, whole.base_model_prefix).load_state_dict(base.model.state_dict())
    model = lab.models.describe(kind, "test", whole, None, 60, example=base.example)
    mask = MASK if padded else torch.ones_like(MASK)
    if kind == "gemma2":  # its window is short
        mask, ids = mask[:, 3:], IDS[:, 3:]
    else:
        ids = IDS
    found = {}
    for cache in ("dynamic", "static"):
        with lab.attention.watch(model) as sinks:
            out = whole.generate(
                ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None,
                cache_implementation=cache,
            )  # fmt: skip
        found[cache] = sinks.result(), out
    assert torch.equal(found["static"][1], found["dynamic"][1])
    result = found["static"][0]
    same(result, found["dynamic"][0])
    assert result.length.values.tolist() == (mask.sum(1) + 3).tolist()  # the last token was never a query
    seen = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)
    places = (seen.cumsum(1) - 1).clamp(min=0)  # as generation counts them
    oracle(result, base, out[:, :-1], seen.bool(), position_ids=places)


@pytest.mark.parametrize("name", ["softpick", "ssmax", "sparsemax"])
def test_other_normalizers_beside_such_a_cache(name):
    model = drawn("llama")
    found = []
    for cache in (tf.StaticCache(config=model.model.config, max_cache_len=12), tf.DynamicCache()):
        with lab.attention.use(model, name), lab.attention.watch(model) as sinks, torch.no_grad():
            model.model(input_ids=IDS[:, :6], past_key_values=cache, use_cache=True)
            model.model(input_ids=IDS[:, 6:7], past_key_values=cache, use_cache=True)
        found.append(sinks.result())
    same(*found)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["none", "right"])
@pytest.mark.parametrize(("kind", "told"), [("bert", True), ("bert", False), ("llama", False), ("llama", True)])
def test_a_pass_that_is_told_which_way_to_look(kind, told, side, attention):
    """llama makes its mask as it is told; bert does not, but sdpa without a mask, of unpadded texts, looks as told."""
    model = drawn(kind, attn_implementation=attention)
    given, real = inputs(model, side)
    causal = told and (kind == "llama" or (side == "none" and attention == "sdpa"))
    kept = []

    def hear(call):  # the textbook's, of the first layer's queries and keys
        T = call.query.shape[2]
        mask = real[:, None, None] & (torch.ones(T, T, dtype=torch.bool).tril() | (not causal))
        key, value = (x.repeat_interleave(call.group, 1).double() for x in (call.key, call.value))
        A = (call.query.double() @ key.mT * call.scaling).masked_fill(~mask, -torch.inf).softmax(-1)
        out = call.own()
        if call.layer == 1:
            mine = (A @ value).transpose(1, 2)
            torch.testing.assert_close(out[real].double(), mine[real], rtol=1e-4, atol=1e-5)  # the premise
            kept.append(torch.where(real[:, None, :, None], A, 0).numpy())
        return out

    told = {"is_causal": told}
    with lab.attention.watch(model) as sinks, listening(model, hear), torch.inference_mode():
        plain = model.model(**given, **told).last_hidden_state
    for name, want in statistics(kept[0], real).items():
        got = sinks.result()[name].isel(layer=0)
        got = got.isel(threshold=0) if name.endswith("_rate") else got
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5, err_msg=name)
    with lab.attention.use(model, "softmax"), torch.inference_mode():
        used = model.model(**given, **told).last_hidden_state
        with lab.attention.watch(model) as within:
            assert torch.equal(model.model(**given, **told).last_hidden_state, used)
    torch.testing.assert_close(used[real], plain[real], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(within.result().mass, sinks.result().mass, rtol=1e-3, atol=1e-4)


def test_looking_ahead_into_free_places_is_refused():
    model = drawn("llama")
    cache = tf.StaticCache(config=model.model.config, max_cache_len=12)
    with lab.attention.watch(model), torch.no_grad(), pytest.raises(ValueError, match="free places of a cache"):
        model.model(input_ids=IDS, past_key_values=cache, use_cache=True, is_causal=False)


def test_another_sequence_without_a_mask_cannot_be_causal():
    """sdpa would let the first query see the first key alone, as if the sequences stood beside each other."""
    config = drawn("bert").model.config
    config.is_decoder = config.add_cross_attention = True
    example = {"input_ids": IDS[:, :6], "encoder_hidden_states": torch.randn(2, 4, config.hidden_size)}
    model = lab.models.describe("bert", "drawn", tf.BertModel(config).eval(), None, None, example=example)
    with lab.attention.use(model, "softmax"), torch.no_grad():
        model.model(**example)
        with pytest.raises(ValueError, match=r"which of 4 keys 6 queries see with is_causal=True.*leave is_causal"):
            model.model(**example, is_causal=True)


def test_more_states_or_places_than_there_are_positions_are_refused():
    from lab.models import describe
    from lab.training.decoder import Decoder, DecoderConfig

    net = Decoder(
        DecoderConfig(
            vocab_size=50, hidden_size=16, num_attention_heads=2, position="learned", max_position_embeddings=8
        )
    ).eval()
    own = describe("decoder", "drawn", net, None, 8)
    gpt2 = lab.models.tiny("gpt2", layers=1, dim=16, window=8)
    long = {"input_ids": torch.randint(5, 50, (1, 9))}
    for model, given in ((own, long), (gpt2, {"inputs_embeds": torch.randn(1, 9, 16)})):
        for block in (lab.attention.watch(model), lab.attention.use(model, "softpick")):
            with block, torch.no_grad(), pytest.raises(ValueError, match="table of 8 positions; got 9"):
                model.model(**given)
