"""Watching a model that attends by something else than softmax: its own weights are what is seen."""

import numpy as np
import pytest
import torch
from attention_oracle import drawn, inputs

import lab
from lab.attention.calls import attending
from lab.models import describe
from lab.training.decoder import Decoder, DecoderConfig


def padded_ids():
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = 0
    return {"input_ids": torch.randint(0, 90, (3, 9)), "attention_mask": mask}


@pytest.mark.parametrize("name", ["softpick", "lssa", "ssmax", "sigmoid", "sparsemax", "gated", "mta"])
def test_the_weights_seen_are_those_the_model_computes_with(name):
    model = lab.models.tiny("llama", layers=2, dim=32)
    inputs, whole = padded_ids(), {}
    with torch.no_grad(), lab.attention.use(model, name):
        for number, weight in model.model.named_parameters():
            if ".normalizer." in number:  # as training leaves them: no initial values any more
                weight.add_(0.3 * torch.randn_like(weight))
        want = model.model(**inputs)[0]

        def matrix(call):
            whole[call.layer] = call.inside.answer(call).weights(0, 9)
            return call.own()

        with attending(model, matrix):
            model.model(**inputs)
        with lab.attention.watch(model) as sinks:
            assert torch.equal(model.model(**inputs)[0], want)
    seen = sinks.result()
    real = inputs["attention_mask"].bool()
    visible = (torch.ones(9, 9, dtype=torch.bool).tril() & real[:, None])[:, None]
    for layer, A in whole.items():
        A = torch.where(visible & real[:, None, :, None], A, 0)
        for text in range(3):
            rows = A[text][:, real[text]]
            got = seen.sel(layer=layer, sequence=text)
            np.testing.assert_allclose(got.row_mass, rows.sum(-1).mean(-1), rtol=2e-5, atol=1e-6)
            share = rows.abs() / rows.abs().sum(-1, keepdim=True).clamp(min=1e-30)
            first = share[..., int(real[text].int().argmax())].mean(-1)
            np.testing.assert_allclose(got.first_token, first, rtol=2e-5, atol=1e-6)
            n = visible[text, 0][real[text]].sum(-1)
            none = ((rows == 0) & visible[text][:, real[text]]).sum(-1) / n
            np.testing.assert_allclose(got.zeros, none.mean(-1), rtol=1e-6)
    assert set(seen.backend.values) == {"chunked"}


@pytest.mark.parametrize(
    ("kind", "name", "takes"),
    [
        ("gpt_oss", "softmax", True),
        ("gpt_oss", "gated", True),
        ("llama", "sink_logit", True),
        ("llama", "softmax", False),
        ("llama", "softpick", False),  # its rows lack something to 1 too, and no sink logit has it
    ],
)
def test_the_share_of_a_sink_logit_is_seen_under_use(kind, name, takes):
    model = drawn(kind)
    given, _ = inputs(model, "left")
    with torch.no_grad(), lab.attention.use(model, name), lab.attention.watch(model) as sinks:
        model.model(**given)
    seen = sinks.result()
    if takes:
        np.testing.assert_allclose(seen.sink_logit, 1 - seen.row_mass, atol=1e-5)
        assert 0.005 < float(seen.sink_logit.mean()) < 0.995
    else:
        assert not seen.sink_logit.any()


def test_sparse_weights_are_counted_and_a_softmax_has_none():
    model = lab.models.tiny("llama", layers=1, dim=32)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.mul_(4)
    found = {}
    for name in ("softmax", "sparsemax"):
        with torch.no_grad(), lab.attention.use(model, name), lab.attention.watch(model) as sinks:
            model.model(**padded_ids())
        found[name] = float(sinks.result().zeros.mean())
    assert found["softmax"] == 0
    assert found["sparsemax"] > 0.2


def test_texts_beside_a_key_bias_are_whole_texts_each_time():
    net = Decoder(DecoderConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, bias="key")).eval()
    model = describe("decoder", "drawn", net, None, None)
    ids = torch.randint(0, 50, (4, 7))
    with torch.no_grad(), lab.attention.watch(model) as apart:
        for pair in ids.split(2):
            net(input_ids=pair)
    with torch.no_grad(), lab.attention.watch(model) as once:
        net(input_ids=ids)
    one, two = apart.result(), once.result()
    np.testing.assert_allclose(one.mass, two.mass, rtol=1e-5, atol=1e-6)
    assert one.sizes["position"] == 8
    np.testing.assert_allclose(one.row_mass, 1, rtol=1e-5)
