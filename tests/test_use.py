"""Other normalizers in whole models: softmax is the model's own, the others are what their stages say, refusals are."""

import math
from dataclasses import replace

import jaxtyping
import pytest
import torch
import transformers as tf
from families import FAMILIES, REFUSED, SEQ2SEQ, WINDOWED, family, random_model
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lab.attention import NORMALIZERS, answer, use
from lab.attention.answer import Answer
from lab.attention.calls import attending
from lab.models.hooks import state_of
from lab.models.loaded import describe
from lab.models.wrap import half


def inputs_of(model, side=None):
    """Twelve tokens, of which the first text has seven and the second ten where a side is padded."""
    if not model.reads_tokens:
        return {}
    ids = torch.randint(1, 90, (3, 12), generator=torch.Generator().manual_seed(5))
    mask = torch.ones(3, 12, dtype=torch.long)
    if side is None:
        return {model.reads: ids}
    for row, real in ((0, 7), (1, 10)):
        padding = slice(real, None) if side == "right" else slice(None, 12 - real)
        mask[row, padding] = 0
        if side == "left":
            ids[row] = ids[row].roll(12 - real)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {model.reads: ids, "attention_mask": mask} | (
        {"position_ids": positions} if model.causal or model.name == "bert" else {}
    )


def state(model, inputs):
    with torch.no_grad():
        out = state_of(model.model(**model.example | inputs))
    mask = inputs.get("attention_mask")
    return out if mask is None else torch.cat([row[real.bool()] for row, real in zip(out, mask, strict=True)])


def unlike_the_start(model, scale=0.3):
    """Every parameter of the normalizers somewhere else, so that one that is not read is seen."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.model.named_parameters():
            if ".normalizer." in name:
                p.add_(scale * torch.randn(p.shape, generator=g, dtype=p.dtype))


@pytest.mark.parametrize("name", sorted((set(FAMILIES) - REFUSED) | set(WINDOWED) | {"t5"}))
def test_softmax_is_the_models_own(name):
    model = family(name)
    for side in (None, "left", "right") if model.reads_tokens else (None,):
        inputs = inputs_of(model, side)
        if name in {"t5", "opt"}:
            inputs.pop("position_ids", None)
        want = state(model, inputs)
        with use(model, "softmax") as used:
            torch.testing.assert_close(state(used, inputs), want, rtol=1e-4, atol=2e-5)
        assert torch.equal(state(model, inputs), want)  # restored
    one = {key: value[:1] for key, value in inputs_of(model).items()}
    with use(model, "softmax"):
        got = state(model, one)
    torch.testing.assert_close(got, state(model, one), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_both_halves_of_an_encoder_decoder(name, part):
    module, blocks, example = half(random_model(name), part)
    model = describe(name, "random", module, None, None, blocks=blocks, example=example)
    want = state(model, {})
    with use(model, "softmax"):
        torch.testing.assert_close(state(model, {}), want, rtol=1e-4, atol=2e-5)
    with use(model, "softpick"):
        assert (state(model, {}) - want).abs().max() > 1e-3


ELSEWHERE = {"gated": "gpt_oss", "sparsemax": "mistral"}
FAR_FROM_SOFTMAX = {"recurrent": {"order": 2}}  # order 8 is softmax to 1e-6 at these scores


@pytest.mark.parametrize("name", NORMALIZERS)
def test_others_are_not_softmax_and_padding_is_never_seen(name):
    for kind in ("bert", ELSEWHERE.get(name, "llama")):
        model = family(kind)
        plain = state(model, inputs_of(model, "right"))
        with use(model, name, **FAR_FROM_SOFTMAX.get(name, {})):
            unlike_the_start(model)
            left, right = (state(model, inputs_of(model, side)) for side in ("left", "right"))
            alone = state(model, {model.reads: inputs_of(model, "right")[model.reads][:1, :7]})
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(right[:7], alone[0], rtol=1e-4, atol=1e-4)
        assert ((right - plain).abs().max() > 1e-4) == (name != "softmax")


@pytest.mark.parametrize("name", NORMALIZERS)
def test_blocks_of_rows_do_not_show(name, monkeypatch):
    model = family("mistral")
    inputs = inputs_of(model, "left")
    found = []
    with use(model, name):
        unlike_the_start(model)
        weights = list(model.model.parameters())
        for at_once in (2**22, 3 * 4 * 12 * 5, 1):
            monkeypatch.setattr(answer, "SCORES_AT_ONCE", at_once)
            out = state_of(model.model(**inputs))
            towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
            grads = torch.autograd.grad((out * towards).sum(), weights, allow_unused=True)
            found.append([out.detach(), *(g for g in grads if g is not None)])
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * max(1, want.abs().max().item()))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made inside."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            if isinstance(made, torch.Tensor) and made.untyped_storage().nbytes() > 0:
                self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return out


@pytest.mark.parametrize("name", ["softmax", "softpick", "entmax15", "mta"])
def test_nothing_is_as_large_as_the_attention_matrix(name, monkeypatch):
    T = 1024
    config = tf.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=99,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = describe("llama", "random", tf.AutoModel.from_config(config).eval(), None, None)
    ids = torch.randint(1, 90, (1, T))
    monkeypatch.setattr(answer, "SCORES_AT_ONCE", 2**15)
    with use(model, name), Largest() as seen:
        state_of(model.model(input_ids=ids, use_cache=False)).sum().backward()
    assert seen.elements < 2 * T * T / 8
    with Largest() as whole:
        torch.ones(2, T, T)
    assert whole.elements == 2 * T * T


def test_the_gradient_holds_no_attention_matrix_either(monkeypatch):
    T, model, held = 512, family("llama"), {}
    ids = torch.randint(1, 90, (1, T))

    def note(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    found = {}
    for at_once in (2**13, 2**22):  # blocks of 8 queries, and all of them in one
        monkeypatch.setattr(answer, "SCORES_AT_ONCE", at_once)
        held.clear()
        with use(model, "softmax"), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            state_of(model.model(input_ids=ids, use_cache=False)).sum().backward()
        found[at_once] = sum(held.values())
    matrices = 3 * 4 * T * T  # of three layers with four heads
    assert found[2**22] > matrices
    assert found[2**13] < matrices / 2


@pytest.mark.parametrize("name", sorted(set(NORMALIZERS) - {"mta"}))
def test_cached_tokens_are_those_of_one_pass(name):
    model = family("llama")
    ids = torch.randint(1, 90, (2, 9))
    with use(model, name), torch.no_grad():
        unlike_the_start(model)
        want = model.model(input_ids=ids).last_hidden_state
        first = model.model(input_ids=ids[:, :5], use_cache=True)
        cache = first.past_key_values
        second = model.model(input_ids=ids[:, 5:8], past_key_values=cache).last_hidden_state
        third = model.model(input_ids=ids[:, 8:], past_key_values=cache).last_hidden_state
    torch.testing.assert_close(torch.cat([first.last_hidden_state, second, third], 1), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2"])  # one mask a pass, and one for each kind of layer
def test_generation_is_the_models_own(name):
    torch.manual_seed(0)
    config = FAMILIES[name]()
    whole = tf.AutoModelForCausalLM.from_config(config).eval()
    model = describe(name, "random", whole.model, None, None)
    ids = torch.randint(1, 90, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    how = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    want = whole.generate(ids, **how)
    for cache in ("dynamic", "static"):
        with use(model, "softmax"):
            assert torch.equal(whole.generate(ids, cache_implementation=cache, **how), want)
    with use(model, "softpick"):
        other = whole.generate(ids, **how)
        assert torch.equal(whole.generate(ids, cache_implementation="static", **how), other)
    assert not torch.equal(other, want)
    assert torch.equal(whole.generate(ids, cache_implementation="static", **how), want)


@pytest.mark.parametrize(
    "changed",
    [lambda m: use(m, "softmax"), lambda m: use(m, "swat"), lambda m: attending(m, lambda call: call.own())],
    ids=["softmax", "swat", "own"],
)
def test_a_cache_longer_than_its_tokens_moves_no_position(changed):
    model = family("llama")
    ids = torch.randint(1, 90, (2, 6))
    with changed(model), torch.no_grad():
        want = model.model(input_ids=ids).last_hidden_state
        cache = tf.StaticCache(config=model.model.config, max_cache_len=16)
        first = model.model(input_ids=ids[:, :4], past_key_values=cache).last_hidden_state
        rest = model.model(input_ids=ids[:, 4:], past_key_values=cache).last_hidden_state
    torch.testing.assert_close(torch.cat([first, rest], 1), want, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's tracer does it itself
@pytest.mark.parametrize("name", ["entmax15", "ssmax"])
def test_compiled_models_give_the_same(name, monkeypatch):
    model = family("llama")
    inputs = inputs_of(model, "left")
    # jaxtyping's checks, which stand in tests alone, cannot be traced
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with use(model, name):
        want = state(model, inputs)
        compiled = torch.compile(model.model, backend="eager")
        with torch.no_grad():
            out = compiled(**inputs).last_hidden_state
    got = torch.cat([row[real.bool()] for row, real in zip(out, inputs["attention_mask"], strict=True)])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    model = family("llama")
    ids = torch.randint(1, 90, (2, 8))
    with use(model, "ssa"):
        unlike_the_start(model)
        found = []
        for step in range(2):
            model.model.zero_grad()
            if step:
                model.model.activation_checkpointing_enable({"use_reentrant": reentrant})
                model.model.train()
            embedded = model.model.get_input_embeddings()(ids)
            model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state.square().sum().backward()
            found.append({name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None})
    assert any(".normalizer." in name for name in found[0])
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["softmax", "softpick", "lssa", "recurrent_norm", "gated"])
def test_halves_are_a_rounding_of_float32(name, dtype):
    model = family("gpt2")
    inputs = {"input_ids": torch.randint(1, 90, (2, 12))}
    with use(model, name):
        want = state(model, inputs)
    model.model.to(dtype)
    with use(model, name):
        got = state(model, inputs)
    assert got.dtype == dtype
    # twenty roundings deep, each of its dtype's size beside the state's
    assert (got.float() - want).abs().mean() < 20 * torch.finfo(dtype).eps * want.abs().mean()


@pytest.mark.parametrize("name", ["softmax", "ssa", "mta", "gated", "linear", "lssar", "entmax", "recurrent_norm"])
def test_gradients_through_a_layer(name):
    torch.manual_seed(0)
    config = tf.Starcoder2Config(  # shared keys as llama, but its norms stay in float64
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=20, bos_token_id=None, eos_token_id=None, residual_dropout=0.0,
    )  # fmt: skip
    model = describe("starcoder2", "random", tf.AutoModel.from_config(config).double().eval(), None, None)
    embedded = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    with use(model, name):
        unlike_the_start(model)
        mine = [p for n, p in model.model.named_parameters() if ".normalizer." in n or "q_proj" in n]

        def run(x, *_):
            return model.model(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state[:, 1:]

        assert all(p.dtype == torch.float64 for p in mine)
        assert torch.autograd.gradcheck(run, (embedded, *mine), atol=1e-5, fast_mode=True)


def by_hand(model, inputs, attend):
    with attending(model, lambda call: attend(call, call.visible.rows(0, call.query.shape[2])).contiguous()):
        return state(model, inputs)


def shared(call, tensor):
    return tensor.repeat_interleave(call.query.shape[1] // tensor.shape[1], dim=1)


def test_stages_are_what_they_say():
    """Queries, keys, values and outputs changed by hand, in matrices, for each normalizer that changes them."""
    model = family("llama")
    inputs = inputs_of(model)

    def lssa(call, seen):
        q, k = (functional.normalize(t, dim=-1) for t in (call.query, shared(call, call.key)))
        n = seen.sum(-1, keepdim=True)
        a = functional.softplus(math.log(8) * n.log() * (q @ k.mT)) * seen
        return (a / a.sum(-1, keepdim=True) @ shared(call, call.value)).transpose(1, 2)

    def linear(call, seen):
        a = (functional.elu(call.query) + 1) @ (functional.elu(shared(call, call.key)) + 1).mT * seen
        return (a / a.sum(-1, keepdim=True) @ shared(call, call.value)).transpose(1, 2)

    def norm(call, seen):
        s = call.scores()
        a = (1 + s + s**2 / 2) * seen
        out = (a @ shared(call, call.value)).transpose(1, 2)
        return out / out.square().mean(-1, keepdim=True).sqrt()

    for name, attend, options in (("lssa", lssa, {}), ("linear", linear, {}), ("recurrent_norm", norm, {"order": 2})):
        with use(model, name, **options):
            got = state(model, inputs)
        torch.testing.assert_close(got, by_hand(model, inputs, attend), rtol=1e-3, atol=1e-4)

    def softmax(call, seen):
        return call.scores().masked_fill(~seen, -torch.inf).softmax(-1)

    def gated(call, seen):
        opened = (call.hidden @ call.module.normalizer["gate"].T).sigmoid().unflatten(-1, (4, 8))
        return (softmax(call, seen) @ shared(call, call.value)).transpose(1, 2) * opened

    def ssa(call, seen):
        p, n = call.module.normalizer, seen.sum(-1, keepdim=True)
        own = (call.hidden @ p["of_query"].T).tanh().transpose(1, 2)[..., None]
        temperature = 1 + own + p["length"] * n.log()
        value = call.value * (1 + (call.value * p["of_value"][:, None]).sum(-1, keepdim=True).tanh())
        weights = (temperature * call.scores()).masked_fill(~seen, -torch.inf).softmax(-1)
        return (weights @ shared(call, value)).transpose(1, 2)

    for name, attend in (("gated", gated), ("ssa", ssa)):
        with use(model, name):
            unlike_the_start(model)
            torch.testing.assert_close(state(model, inputs), by_hand(model, inputs, attend), rtol=1e-3, atol=1e-4)


def test_parameters_are_the_models_inside_and_gone_behind():
    model = family("gpt2")
    before = list(model.model.state_dict())
    inputs = inputs_of(model)
    with use(model, "ssmax", s=0.6):
        mine = {n: p for n, p in model.model.named_parameters() if ".normalizer." in n}
        assert [p.shape for p in mine.values()] == [(4, 1, 1)] * 3
        assert all(n in model.model.state_dict() and (p == 0.6).all() for n, p in mine.items())
        optimizer = torch.optim.SGD(mine.values(), lr=0.1)
        model.model(**inputs).last_hidden_state[..., 0].sum().backward()
        assert all((p.grad != 0).any() for p in mine.values())
        optimizer.step()
        assert all((p != 0.6).any() for p in mine.values())
        trained, kept = state(model, inputs), {k: v.clone() for k, v in model.model.state_dict().items()}
        with use(model, "ssmax", s=0.6):
            assert (state(model, inputs) - trained).abs().max() > 1e-6
        torch.testing.assert_close(state(model, inputs), trained)  # the outer block's are back
    assert list(model.model.state_dict()) == before
    with use(model, "ssmax"):
        model.model.load_state_dict(kept)
        torch.testing.assert_close(state(model, inputs), trained)


def test_parameters_are_gone_behind_an_error():
    model = family("gpt2")
    before, plain = list(model.model.state_dict()), state(model, inputs_of(model))
    with pytest.raises(KeyError, match="mine"), use(model, "mta"):
        raise KeyError("mine")
    assert list(model.model.state_dict()) == before
    assert torch.equal(state(model, inputs_of(model)), plain)


def test_dropout_is_asked_for_while_training_only():
    torch.manual_seed(0)
    config = tf.BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=99,
        attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0,
    )  # fmt: skip
    model = describe("bert", "random", tf.AutoModel.from_config(config).eval(), None, None)
    inputs = inputs_of(model)
    with use(model, "softpick"):
        assert torch.equal(state(model, inputs), state(model, inputs))
        model.model.train()
        assert not torch.equal(state(model, inputs), state(model, inputs))
    model.model.eval()
    softmax, want = NORMALIZERS["softmax"], state(model, inputs)
    with attending(model, lambda call: Answer(softmax, replace(call, dropout=0.5), {}).output()):
        torch.testing.assert_close(state(model, inputs), want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "name", "options", "says"),
    [
        ("gpt2", "softpik", {}, "no normalizer 'softpik'; did you mean 'softpick'"),
        ("gpt2", "softmax", {"alpha": 1.5}, r"softmax has no option \['alpha'\]; it has none"),
        ("gpt2", "softmax", {"sink": 1.0}, "no option"),
        ("gpt2", "entmax", {"alpha": 3.0}, "from 1, softmax, to 2"),
        ("gpt2", "mta", {"group": 3}, "divide the 4 heads; got 3"),
        ("gpt2", "mta", {"size": (0, 3)}, "1 or more of each"),
        ("bloom", "softmax", {}, "BloomModel does not ask"),
        ("falcon", "softpick", {}, "FalconModel does not ask"),
        ("mamba", "softmax", {}, "cannot be exchanged"),
        ("resnet", "softmax", {}, "cannot be exchanged"),
        ("gpt_oss", "softpick", {}, "sink logits of its own.*softmax and gated"),
        ("gpt_oss", "sink_logit", {}, "sink logits of its own"),
        ("gemma2", "linear", {}, "caps its scores"),
        ("t5", "linear", {}, "adds a bias to its scores"),
    ],
)
def test_what_cannot_be_done_is_refused(kind, name, options, says):
    model = family(kind)
    names = list(model.model.state_dict())
    with pytest.raises(ValueError, match=says), use(model, name, **options):
        pass
    assert list(model.model.state_dict()) == names


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"lab\.models"), use(torch.nn.Linear(2, 2), "softmax"):
        pass


def test_convolutions_refuse_a_cache_and_another_sequence():
    model = family("llama")
    ids = torch.randint(1, 90, (1, 6))
    with use(model, "mta"), torch.no_grad():
        first = model.model(input_ids=ids, use_cache=True)
        with pytest.raises(ValueError, match="use_cache=False"):
            model.model(input_ids=ids[:, :1], past_key_values=first.past_key_values)
    module, blocks, example = half(random_model("bart"), "decoder")
    decoder = describe("bart", "random", module, None, None, blocks=blocks, example=example)
    for name in ("mta", "swat"):
        with pytest.raises(ValueError, match="another sequence"), use(decoder, name):
            pass
