"""What capture does to a model: nothing that stays. And what it does when things go wrong."""

import copy

import numpy as np
import pytest
import torch
from families import random_model, reads_letters

import lab

TEXTS = ["a text", "another one of them", "a third", "and the last of all"]


def tiny():
    return lab.models.tiny("llama", layers=2, dim=16, heads=2)


def hooks_of(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("measure", ["states", "moments", "tokens"])
def test_ctrl_c_inside_a_pass_leaves_no_hook(measure):
    model = tiny()
    handle = model.model.layers[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        getattr(lab.capture, measure)(model, TEXTS)
    handle.remove()
    assert hooks_of(model.model) == 0
    assert lab.capture.states(model, TEXTS).h.notnull().all()  # and the next pass counts from its own beginning


def test_a_generator_left_half_way_leaves_no_hook():
    model = tiny()

    def states_of(texts):
        with lab.capture.tap(model, ["layer.1"]) as seen:
            for text in texts:
                model.model(**model.tokenizer(text, return_tensors="pt", return_token_type_ids=False))
                yield seen["layer.1"]

    generator = states_of(TEXTS)
    next(generator)
    assert hooks_of(model.model) > 0
    generator.close()
    assert hooks_of(model.model) == 0


def test_a_pass_that_broke_off_does_not_shift_the_next_one():
    """ALBERT's one block is counted run by run: an exception in its second run must not leave the count at two."""
    model = lab.models.describe("albert", "test", random_model("albert"), reads_letters, 60)
    want = lab.capture.states(model, TEXTS).h
    calls = []

    def second(*_):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("in the second run")

    seen = {}
    with torch.inference_mode(), model.watching(seen.__setitem__, range(4)):
        handle = dict(model.model.named_modules())[model.blocks[0]].register_forward_hook(second)
        with pytest.raises(RuntimeError, match="second run"):
            model.model(**model.example)
        handle.remove()
        seen.clear()
        model.model(**model.example)
        first = {layer: state.clone() for layer, state in seen.items()}
    with torch.inference_mode(), model.watching(seen.__setitem__, range(4)):
        model.model(**model.example)
    assert all(torch.equal(first[layer], seen[layer]) for layer in range(4))
    np.testing.assert_array_equal(lab.capture.states(model, TEXTS).h, want)


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
def test_outputs_and_gradients_are_the_same_bits_while_all_is_watched(kind):
    model = lab.models.tiny(kind, layers=2, dim=16, heads=2)
    ids = torch.tensor([[5, 6, 7, 8, 9]])

    def run():
        model.model.zero_grad()
        out = model.model(input_ids=ids).last_hidden_state
        out.square().sum().backward()
        return out, [p.grad.clone() for p in model.model.parameters() if p.grad is not None]

    plain, plain_grads = run()
    with lab.capture.tap(model, ["layer.0", "layer.1", "layer.2", "attention.1", "query.2"]):
        watched, watched_grads = run()
    assert torch.equal(plain, watched)
    assert all(torch.equal(a, b) for a, b in zip(plain_grads, watched_grads, strict=True))


def test_compiled_models_are_refused_with_the_way_out():
    """Hooks set after the first compiled call would be passed by in silence."""
    model = tiny()
    compiled = torch.compile(model.model, backend="eager")
    with pytest.raises(ValueError, match=r"was compiled.*\(model\._orig_mod\)"):
        lab.capture.tap(compiled, ["layers.1"]).__enter__()
    with pytest.raises(ValueError, match="was compiled"):
        lab.models.describe("compiled", "test", compiled, model.tokenizer, 60)
    lab.models.describe("way out", "test", compiled._orig_mod, model.tokenizer, 60)
    model.model.compile(backend="eager")  # in place, after it was loaded
    with pytest.raises(ValueError, match="was compiled"):
        lab.capture.states(model, TEXTS)
    for compile_parts in (
        lambda model: [block.compile(backend="eager") for block in model.layers],
        lambda model: model.layers.__setitem__(0, torch.compile(model.layers[0], backend="eager")),
        lambda model: setattr(model.norm, "forward", torch.compile(model.norm.forward, backend="eager")),
        lambda model: setattr(model, "forward", torch.compile(model.forward, backend="eager")),
    ):
        model = tiny()
        compile_parts(model.model)
        for look in (
            lambda model=model: lab.capture.states(model, TEXTS, progress=False),
            lambda model=model: lab.models.describe("parts", "test", model.model, model.tokenizer, 60),
        ):
            with pytest.raises(ValueError, match=r"parts of this model were compiled, the first .*loaded anew"):
                look()
    with pytest.raises(ValueError, match=r"DataParallel splits its batches.*\.module"):
        lab.models.describe("parallel", "test", torch.nn.DataParallel(tiny().model), None, 60)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_adapters_are_seen_through():
    from peft import LoraConfig, get_peft_model

    plain = tiny()
    want = lab.capture.states(plain, TEXTS).h
    wrapped = get_peft_model(
        copy.deepcopy(plain.model), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=True)
    )
    model = lab.models.describe("lora", "test", wrapped, plain.tokenizer, 60)
    assert model.depth == 2
    np.testing.assert_allclose(lab.capture.states(model, TEXTS).h, want, rtol=1e-5, atol=1e-6)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    moved = lab.capture.states(model, TEXTS).h
    np.testing.assert_allclose(moved[0], want[0], rtol=1e-5, atol=1e-6)
    assert np.abs(moved - want)[1:].max() > 1e-4
    merged = lab.models.describe("merged", "test", wrapped.merge_and_unload(), plain.tokenizer, 60)
    np.testing.assert_allclose(lab.capture.states(merged, TEXTS).h, moved, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_shows_each_state_once():
    model = tiny()
    model.model.train()
    model.model.activation_checkpointing_enable()
    seen = []
    with model.watching(lambda layer, _: seen.append(layer), range(3)):
        model.model(**model.example).last_hidden_state.sum().backward()
        assert seen == [0, 1, 2]  # the second run of each block, in the backward pass, is nobody's
    model.model.eval()
    plain = tiny()
    np.testing.assert_array_equal(lab.capture.states(model, TEXTS).h, lab.capture.states(plain, TEXTS).h)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_pooled_in_float32(dtype):
    want, half = lab.capture.states(tiny(), TEXTS), tiny()
    half.model.to(dtype)
    half = lab.models.describe("half", "test", half.model, half.tokenizer, 60)
    got = lab.capture.states(half, TEXTS)
    assert got.h.dtype == np.float32
    cosine = (got.h * want.h).sum("dim") / np.sqrt((got.h**2).sum("dim") * (want.h**2).sum("dim"))
    assert cosine.min() > 0.999


def test_autocast_runs_in_bfloat16_and_stays_close():
    model = tiny()
    want, got = lab.capture.states(model, TEXTS), lab.capture.states(model, TEXTS, autocast=torch.bfloat16)
    assert not np.array_equal(got.h, want.h)
    np.testing.assert_allclose(got.h, want.h, rtol=0.05, atol=0.05)
    with lab.capture.tap(model, ["attention.1"]) as seen:
        lab.capture.states(model, TEXTS[:1], autocast=torch.bfloat16)
    assert seen["attention.1"].dtype == torch.bfloat16


def test_packed_texts_give_what_padded_ones_do():
    model = tiny()
    pools = ("mean", "max", "last", "first", "position_mean")
    padded = lab.capture.states(model, [*TEXTS, ""], pools=pools)
    packed = lab.capture.states(model, [*TEXTS, ""], pools=pools, packed=True)
    np.testing.assert_allclose(packed.h, padded.h, rtol=1e-3, atol=1e-5)
    assert packed.attrs["padding_efficiency"] == 1
    with pytest.raises(ValueError, match=r"tiny-bert cannot read packed texts: its attention mixes them"):
        lab.capture.states(lab.models.tiny("bert", layers=1, dim=16, heads=2), TEXTS, packed=True)
    rwkv = lab.models.describe("rwkv", "test", random_model("rwkv"), reads_letters, 60)
    with pytest.raises(ValueError, match="rwkv cannot read packed texts"):
        lab.capture.states(rwkv, TEXTS, packed=True)


class Small(torch.nn.Module):
    """A model on a device with room for a few tokens only."""

    def __init__(self, model, room):
        super().__init__()
        self.inner, self.room, self.config = model, room, model.config
        self.main_input_name = "input_ids"

    def forward(self, input_ids, attention_mask=None):
        out = self.inner(input_ids=input_ids, attention_mask=attention_mask)
        if input_ids.numel() > self.room:  # late, when states were already seen
            raise torch.OutOfMemoryError(f"{input_ids.numel()} tokens")
        return out


def test_out_of_memory_halves_the_batches_says_so_and_changes_nothing():
    plain = tiny()
    model = lab.models.describe("small", "test", Small(plain.model, 40), plain.tokenizer, 60)
    texts = [f"text {i}" for i in range(30)]
    with pytest.warns(UserWarning, match="out of memory: from here on") as said:
        got = lab.capture.states(model, texts, pools=("mean", "max"))
    assert len(said) <= 4
    want = lab.capture.states(plain, texts, pools=("mean", "max"))
    np.testing.assert_allclose(got.h, want.h, rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="out of memory"):
        counted = lab.capture.moments(model, texts)
    assert counted.attrs["tokens"] == want.tokens.sum()
    with pytest.raises(torch.OutOfMemoryError, match="tokens"):
        lab.capture.states(model, ["many words " * 50])  # one text alone that does not fit
    assert hooks_of(model.model) == 0


def test_models_with_a_mode_of_their_own_get_it_back():
    model = tiny()
    model.model.train()
    model.model.layers[0].eval()
    for measure in (lab.capture.states, lab.capture.moments, lab.capture.tokens):
        measure(model, TEXTS)
    assert model.model.training
    assert not model.model.layers[0].training
