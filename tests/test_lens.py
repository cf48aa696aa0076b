"""lab.capture.logit_lens, lab.geometry's CKA and the untrained twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lab

pytestmark = pytest.mark.usefixtures("plain_torch")  # the kernels have tests of their own


def hooks_of(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_the_lens_is_the_unembedding_of_the_normed_state():
    model = lab.models.tiny("gpt2", layers=3, dim=32)
    got = lab.capture.logit_lens(model, "a few words of text", top=2)
    ids = torch.tensor([model.tokenizer("a few words of text")["input_ids"]])
    with torch.inference_mode():
        out = model.model(input_ids=ids, output_hidden_states=True)
        states = [model.model.ln_f(h) for h in out.hidden_states[:-1]] + [out.last_hidden_state]
        p = torch.stack([(h[0] @ model.model.wte.weight.T).double().softmax(-1) for h in states])
    best = p.topk(2, dim=-1)
    np.testing.assert_allclose(got.probability, best.values, rtol=1e-4)
    assert got.word.values[3, 0, 0] == model.tokenizer.convert_ids_to_tokens(int(best.indices[3, 0, 0]))
    for position in range(ids.shape[1] - 1):
        told = p[:, position, ids[0, position + 1]]
        np.testing.assert_allclose(got.next[:, position], told, rtol=1e-4)
        rank = (p[:, position] > told[:, None]).sum(-1) + 1
        np.testing.assert_array_equal(got.rank_of_next[:, position], rank)
    assert np.isnan(got.next[:, -1]).all()
    kl = (p[-1] * (p[-1].log() - p.log())).sum(-1)
    np.testing.assert_allclose(got.kl, kl, rtol=1e-3, atol=1e-6)
    assert abs(got.kl[-1]).max() == 0
    kept = hooks_of(model.model)  # transformers', of output_hidden_states
    lab.capture.logit_lens(model, "a few words of text")
    assert hooks_of(model.model) == kept


def test_the_lens_refuses_what_it_cannot_know():
    llama = lab.models.tiny("llama", layers=2, dim=16, heads=2)
    with pytest.raises(ValueError, match="does not tie its unembedding"):
        lab.capture.logit_lens(llama, "a text")
    head = torch.randn(len(llama.tokenizer), 16)
    assert lab.capture.logit_lens(llama, "a text", unembedding=head).sizes["layer"] == 3
    with pytest.raises(ValueError, match=r"must be \[V, 16\], a tensor; got \(5, 4\)"):
        lab.capture.logit_lens(llama, "a text", unembedding=torch.zeros(5, 4))
    for wrong, got in ((torch.zeros(16), r"\(16,\)"), (np.zeros((5, 16)), "ndarray")):
        with pytest.raises(ValueError, match=f"a tensor; got {got}: pass the lm_head's weight"):
            lab.capture.logit_lens(llama, "a text", unembedding=wrong)
    for top in (0, len(head) + 1):
        with pytest.raises(ValueError, match=f"top must be from 1 to {len(head)}; got {top}"):
            lab.capture.logit_lens(llama, "a text", top=top, unembedding=head)
    with pytest.raises(TypeError, match="every text must be a string"):
        lab.capture.logit_lens(llama, None, unembedding=head)


def test_the_lens_cuts_a_long_text_as_the_states_are():
    model = lab.models.tiny("gpt2", layers=1, dim=16, heads=2, window=9)
    got = lab.capture.logit_lens(model, "word " * 40)
    assert got.sizes["position"] == 9
    assert got.token.values[-1] == model.tokenizer.sep_token  # the tokenizer closes what it cuts
    assert np.isfinite(got.next[:, :-1]).all()


def test_the_lens_needs_a_token():
    model = lab.models.tiny("gpt2", layers=1, dim=16, heads=2)
    bare = replace(model, tokenizer=lambda texts, **_: {"input_ids": [[] for _ in texts]})
    with pytest.raises(ValueError, match="must have at least one token; got ''"):
        lab.capture.logit_lens(bare, "")


def hsic(k, l):  # noqa: E741
    """Song et al., 2012, from the Gram matrices themselves."""
    n, one = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    return (np.trace(k @ l) + middle) / (n * (n - 3))


@pytest.mark.parametrize("n", [4, 9, 60])
def test_cka_is_its_definition_on_gram_matrices(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 7)) + 5, rng.normal(size=(n, 3))
    y[:, 0] += x[:, 0]
    k, l = x @ x.T, y @ y.T  # noqa: E741
    want = hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    np.testing.assert_allclose(lab.geometry.linear_cka(torch.tensor(x), torch.tensor(y)), want, rtol=1e-9)


def test_cka_knows_equal_turned_and_independent_spaces():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(256, 384)))
    turn = torch.linalg.qr(torch.tensor(rng.normal(size=(384, 384)))).Q
    assert lab.geometry.linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1, abs=1e-9)
    assert abs(lab.geometry.linear_cka(x, torch.tensor(rng.normal(size=(256, 384))))) < 0.03
    assert np.isnan(lab.geometry.linear_cka(x, torch.ones(256, 2)))
    for other in (x[:100], x[:3]):
        with pytest.raises(ValueError, match="the same rows, at least four"):
            lab.geometry.linear_cka(x[:3] if len(other) == 3 else x, other)


def test_cka_of_all_layers_and_of_two_models(minilm):
    texts, how = lab.data.docstrings(n=40, seed=0)["text"], {"pools": ("mean", "first"), "max_length": 32}
    states = lab.capture.states(minilm, texts, **how)
    found = lab.geometry.cka(states)
    assert found.dims == ("pool", "layer", "layer_")
    np.testing.assert_allclose(found, found.transpose("pool", "layer_", "layer"))
    own = np.array([np.diag(part) for part in found])
    assert np.isnan(own[1, 0])  # what enters the first block at [CLS] is one point for all texts
    np.testing.assert_allclose(np.delete(own.ravel(), 7), 1)
    x, y = (torch.tensor(states.h.sel(pool="first", layer=i).values) for i in (2, 5))
    assert float(found.sel(pool="first", layer=2, layer_=5)) == lab.geometry.linear_cka(x, y)
    twin = lab.models.untrained(minilm)
    assert (twin.depth, twin.dim, twin.name) == (6, 384, "minilm, untrained")
    assert lab.models.fingerprint(twin) == lab.models.fingerprint(lab.models.untrained(minilm))
    assert lab.models.fingerprint(twin) != lab.models.fingerprint(minilm)
    between = lab.geometry.cka(states, lab.capture.states(twin, texts, **how))
    assert float(between.max()) < 0.999
    with pytest.raises(ValueError, match="same examples and pools"):
        lab.geometry.cka(states, states.sel(pool=["mean"]))
    with pytest.raises(ValueError, match="at least 4 examples; got 3"):
        lab.geometry.cka(states.isel(example=slice(3)))


def test_cka_reads_each_layer_once_and_scores_each_pair_once(minilm, monkeypatch):
    from lab.geometry import layers, similarity

    calls, kind, rows = [], similarity.SIMILARITIES["linear_cka"], layers.rows
    monkeypatch.setattr(layers, "rows", lambda *given: calls.append("read") or rows(*given))
    counted = kind._replace(score=lambda both: calls.append("scored") or kind.score(both))
    monkeypatch.setitem(similarity.SIMILARITIES, "linear_cka", counted)
    states = lab.capture.states(minilm, lab.data.docstrings(n=8, seed=0)["text"], layers=[1, 2, 3])
    lab.geometry.cka(states)
    assert (calls.count("read"), calls.count("scored")) == (3, 6)
