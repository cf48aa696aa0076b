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
            torch.nn.init.normal_(value, std=0.5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_they_are_the_formula(kind):
    model = lab.models.tiny(kind, layers=2, dim=32)
    ids = torch.randint(5, 90, (3, 7))
    with use(model, "ssa") as ssa:
        moved(ssa)
        found = temperatures(ssa, input_ids=ids)
        state = dict(model.model.named_parameters())
        length = [v.detach() for k, v in state.items() if k.endswith("normalizer.length")]
    assert found.tau.shape == (2, 4, 3, 7)
    assert found.layer.values.tolist() == [1, 2]
    seen = np.arange(1, 8) if kind == "llama" else np.full(7, 7)
    for layer in (0, 1):
        want = 1 + found.spike.values[layer] + length[layer].double().numpy().reshape(4, 1, 1) * np.log(seen)
        np.testing.assert_allclose(found.tau.values[layer], want, rtol=1e-5, atol=1e-6)
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


def test_where_there_are_none_it_says_so():
    model = lab.models.tiny("llama", layers=1, dim=32)
    ids = torch.randint(5, 90, (1, 4))
    with pytest.raises(ValueError, match="has no temperatures: call this inside"):
        temperatures(model, input_ids=ids)
    with use(model, "gated") as gated, pytest.raises(ValueError, match="has no temperatures"):
        temperatures(gated, input_ids=ids)
