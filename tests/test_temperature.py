"""Selective attention's temperatures: those that its layers multiply by, and nothing where there are none."""

import numpy as np
import pytest
import torch

import lab
from lab.attention import temperatures, use
from lab.attention.calls import attending


def moved(model):
    """Temperatures that differ from token to token and head to head."""
    for name, value in model.model.named_parameters():
        if "normalizer" in name:
            torch.nn.init.normal_(value, std=0.2)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_they_are_the_formula(kind):
    model = lab.models.tiny(kind, layers=2, dim=32)
    ids = torch.randint(5, 90, (3, 7))
    attention = "self_attn" if kind == "llama" else "attention.self"
    entered = []
    hooks = [
        part.register_forward_pre_hook(lambda _, args, kw: entered.append((*args, *kw.values())[0]), with_kwargs=True)
        for name, part in model.model.named_modules()
        if name.endswith(attention)
    ]
    with use(model, "ssa") as ssa:
        moved(ssa)
        entered.clear()
        found = temperatures(ssa, input_ids=ids)
        hidden = [state.detach().double() for state in entered[-2:]]
        state = {k: v.detach().double() for k, v in model.model.named_parameters()}
        length, read = ([v for k, v in state.items() if k.endswith(end)] for end in ("r.length", "r.of_query"))
    for hook in hooks:
        hook.remove()
    assert found.tau.shape == (2, 4, 3, 7)
    assert found.layer.values.tolist() == [1, 2]
    seen = np.arange(1, 8) if kind == "llama" else np.full(7, 7)
    for layer in (0, 1):
        own = torch.einsum("btd,hd->hbt", hidden[layer], read[layer]).tanh().numpy()
        np.testing.assert_allclose(found.spike.values[layer], own, rtol=1e-5, atol=1e-5)
        want = 1 + own + length[layer].numpy().reshape(4, 1, 1) * np.log(seen)
        np.testing.assert_allclose(found.tau.values[layer], want, rtol=1e-5, atol=1e-5)
    assert found.spike.std("position").min() > 0
    assert abs(found.spike).max() < 1


def test_they_are_what_the_scores_are_multiplied_by():
    model = lab.models.tiny("llama", layers=1, dim=32)
    ids = torch.randint(5, 90, (2, 6))
    seen = {}

    def listen(call):
        seen["weights"], seen["scores"] = call.inside.answer(call).weights(0, 6), call.scores()
        return call.own()

    with use(model, "ssa", length=0.3) as ssa:
        moved(ssa)
        tau = torch.tensor(temperatures(ssa, input_ids=ids).tau.values[0]).transpose(0, 1)
        with torch.no_grad(), attending(ssa, listen):
            ssa.model(input_ids=ids)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    want = (tau[..., None] * seen["scores"].double()).masked_fill(~causal, -torch.inf).softmax(-1)
    torch.testing.assert_close(seen["weights"].double(), want, rtol=1e-4, atol=1e-6)


def test_padded_keys_are_not_counted():
    model = lab.models.tiny("llama", layers=1, dim=32)
    ids, mask = torch.randint(5, 90, (1, 6)), torch.tensor([[0, 0, 1, 1, 1, 1]])
    with use(model, "ssa", length=1.0) as ssa:
        tau = temperatures(ssa, input_ids=ids, attention_mask=mask).tau.values[0, 0, 0]
    np.testing.assert_allclose(tau[2:], 1 + np.log(np.arange(1, 5)), rtol=1e-6)


@pytest.mark.parametrize("length", [0.0, 0.4])
def test_a_token_adds_the_same_wherever_it_stands(length):
    """In a model that rotates its queries what is the token's own tells nothing of its place, nor of padding."""
    model = lab.models.tiny("llama", layers=1, dim=32)
    ids = torch.full((1, 12), 33)
    aside, mask = torch.cat([ids[:, :5] * 0, ids], 1), torch.cat([torch.zeros(1, 5), torch.ones(1, 12)], 1).long()
    with use(model, "ssa") as ssa, torch.no_grad():
        moved(ssa)
        for name, value in ssa.model.named_parameters():
            if name.endswith("normalizer.length"):
                value.fill_(length)
        spike = temperatures(ssa, input_ids=ids).spike
        other = temperatures(ssa, input_ids=aside, attention_mask=mask).spike
        plain = ssa.model(input_ids=ids).last_hidden_state
        padded = ssa.model(input_ids=aside, attention_mask=mask).last_hidden_state
    assert float(abs(spike).min()) > 1e-3
    np.testing.assert_allclose(spike, np.repeat(spike.values[..., :1], 12, -1), rtol=1e-5)
    np.testing.assert_allclose(other.isel(position=slice(5, None)), spike, rtol=1e-5)
    torch.testing.assert_close(padded[:, 5:], plain, rtol=1e-4, atol=1e-4)  # rotations tell distances alone


def test_half_precision_does_not_reach_them():
    model = lab.models.tiny("llama", layers=1, dim=32)
    ids = torch.randint(5, 90, (2, 6))
    with use(model, "ssa") as ssa:
        moved(ssa)
        want = temperatures(ssa, input_ids=ids)
        with torch.autocast("cpu", torch.bfloat16):
            got = temperatures(ssa, input_ids=ids)
    np.testing.assert_allclose(got.tau, want.tau, rtol=1e-5, atol=1e-5)  # what enters layer 1 is float32 in both


def test_where_there_are_none_it_says_so():
    model = lab.models.tiny("llama", layers=1, dim=32)
    ids = torch.randint(5, 90, (1, 4))
    with pytest.raises(ValueError, match="has no temperatures: call this inside"):
        temperatures(model, input_ids=ids)
    with use(model, "gated") as gated, pytest.raises(ValueError, match="has no temperatures"):
        temperatures(gated, input_ids=ids)
