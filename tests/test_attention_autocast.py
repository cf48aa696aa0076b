"""Under autocast attention that is exchanged is computed in float32, as the fused one is, and given back half."""

from contextlib import contextmanager

import pytest
import torch
from attention_oracle import drawn, inputs

import lab
from lab.attention import NORMALIZERS, use, with_sink_logit, without_keys
from lab.attention.calls import attending

HALF = torch.bfloat16
ROUNDING = torch.finfo(HALF).eps
WAYS = {
    "use": lambda model: use(model, "softmax"),
    "with_sink_logit": lambda model: with_sink_logit(model, 1.0),
    "without_keys": lambda model: without_keys(model, (2,)),
}


def half():
    return torch.autocast("cpu", HALF)


@contextmanager
def given_states(model, states):
    """The first layer's queries, keys and values are these; yields a list that takes what its attention gives."""
    own, out = model.model.encoder.layer[0].attention.self, []
    hooks = [getattr(own, name).register_forward_hook(lambda _m, _a, _out, x=x: x) for name, x in states.items()]
    hooks.append(own.register_forward_hook(lambda _m, _a, found: out.append(found[0])))
    try:
        yield out
    finally:
        for hook in hooks:
            hook.remove()


def states_of(scale, dtype=HALF):
    """Numbers that are exact in half precision; queries and keys large, so that scores are."""
    g = torch.Generator().manual_seed(3)
    made = {name: torch.randn(3, 9, 32, generator=g) for name in ("query", "key", "value")}
    sizes = {"query": scale, "key": scale, "value": 1.0}
    return {name: (x * sizes[name]).to(HALF).to(dtype).requires_grad_() for name, x in made.items()}


def defined(states, real, way):
    """[B, T, H D] in float64: softmax over the keys that may be seen, beside one more logit where there is one."""
    q, k, v = (x.double().unflatten(-1, (4, 8)).transpose(1, 2) for x in states.values())
    seen = real[:, None, None].clone()
    if way == "without_keys":
        seen[..., 1] = False
    scores = (q @ k.mT / 8**0.5).masked_fill(~seen, -torch.inf)
    if way == "with_sink_logit":
        scores = torch.cat([scores, torch.ones_like(scores[..., :1])], -1)
    weights = scores.softmax(-1)[..., :9]
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("scale", [1.0, 6.0, 24.0])
@pytest.mark.parametrize("way", WAYS)
def test_values_and_gradients_are_those_of_float64(way, scale):
    model = drawn("bert")
    given, real = inputs(model)
    states = states_of(scale)
    with WAYS[way](model), given_states(model, states) as out, half():
        model.model(**given)
    got = out[0]
    exact = {name: x.detach().double().requires_grad_() for name, x in states.items()}
    want = defined(exact, real, way)
    assert got.dtype == HALF
    largest = float(states["value"].detach().abs().max())
    torch.testing.assert_close(got[real].double(), want[real], rtol=0, atol=ROUNDING * largest)
    towards = torch.randn(got.shape, generator=torch.Generator().manual_seed(4)).to(HALF) * real[..., None]
    found = torch.autograd.grad(got, states.values(), towards)
    wanted = torch.autograd.grad(want, exact.values(), towards.double())
    for name, mine, right in zip(states, found, wanted, strict=True):
        assert mine.dtype == HALF
        torch.testing.assert_close(
            mine.double(),
            right,
            rtol=ROUNDING,
            atol=1e-4 * float(right.detach().abs().max()),
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_is_a_rounding_of_what_it_is_without(name):
    model = drawn("bert")
    given, real = inputs(model)
    found = []
    with use(model, name):
        g = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for which, p in model.model.named_parameters():
                if ".normalizer." in which:
                    p.add_(0.3 * torch.randn(p.shape, generator=g))
        for autocast in (False, True):
            states = states_of(6.0, HALF if autocast else torch.float32)
            with given_states(model, states) as out, torch.no_grad(), torch.autocast("cpu", HALF, enabled=autocast):
                model.model(**given)
            found.append(out[0][real])
    assert [part.dtype for part in found] == [torch.float32, HALF]
    bound = ROUNDING * float(found[0].abs().max())
    torch.testing.assert_close(found[1].float(), found[0], rtol=ROUNDING, atol=bound / 16)


def test_scores_and_weights_are_float32_and_a_double_stays_one():
    model, kinds = drawn("llama"), set()

    def listen(call):
        kinds.add(
            (call.scores().dtype, lab.attention.answer.Answer(NORMALIZERS["softmax"], call, {}).weights(0, 2).dtype)
        )
        return call.own()

    with attending(model, listen), torch.no_grad(), half():
        model.model(**inputs(model)[0])
    assert kinds == {(torch.float32, torch.float32)}
    double = drawn("bert")
    double.model.double()
    with use(double, "softmax"), torch.no_grad(), half():
        assert double.model(**inputs(double)[0]).last_hidden_state.dtype == torch.float64


def test_autocast_goes_on_behind_the_attention():
    model, kinds = drawn("llama"), []
    with use(model, "softpick"), torch.no_grad(), half():
        hook = model.model.layers[1].mlp.up_proj.register_forward_hook(lambda _m, _a, out: kinds.append(out.dtype))
        model.model(**inputs(model)[0])
        hook.remove()
    assert kinds == [HALF]


def test_scores_given_by_hand_are_not_halved_either():
    g = torch.Generator().manual_seed(5)
    scores, values = 20 * torch.randn(2, 4, 9, 9, generator=g), torch.randn(2, 4, 9, 5, generator=g)
    seen = torch.ones(9, 9, dtype=torch.bool).tril().expand_as(scores)
    mixed = {"kernel": torch.randn(4, 3, 5, generator=g), "mix": torch.randn(2, 2, 2, generator=g)}
    stream, n = NORMALIZERS["softmax"].stream, seen.sum(-1, keepdim=True)
    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", HALF, enabled=autocast):
            sums = None
            for keys in (slice(0, 4), slice(4, 9)):
                sums = stream.take(sums, scores[..., keys], seen[..., keys], values[..., keys, :], n)
            found.append((NORMALIZERS["mta"](scores, seen, **mixed), stream.finish(sums)))
    for plain, other in zip(*found, strict=True):
        assert torch.equal(plain, other)
