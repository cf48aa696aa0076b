"""lab.attention.together: attention and its statistics from one product, against their definitions in float64."""

import numpy as np
import pytest
import torch
from attention_oracle import drawn, inputs
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lab
from lab.attention import together


def defined(query, key, value, causal, scale):
    """out, columns, sum of entropies, of 1 / sum A^2 and of distances, from the whole matrix."""
    shared = query.shape[1] // key.shape[1]
    q, k, v = query.double(), *(x.double().repeat_interleave(shared, 1) for x in (key, value))
    Tq, Tk = q.shape[2], k.shape[2]
    scores = scale * q @ k.mT
    if causal:
        scores = scores.masked_fill(torch.ones(Tq, Tk).triu(1).bool(), -torch.inf)
    A = scores.softmax(-1)
    back = torch.arange(Tk - Tq, Tk)[:, None] - torch.arange(Tk)
    spread = torch.special.entr(A).sum((2, 3)), (1 / A.square().sum(-1)).sum(-1)
    return A @ v, A.sum(2), *spread, (A * back).sum((2, 3))


def tensors(B, H, K, Tq, Tk, D, Dv, dtype, seed=0, size=1.0):
    g = torch.Generator().manual_seed(seed)
    shapes = (B, H, Tq, D), (B, K, Tk, D), (B, K, Tk, Dv)
    q, k, v = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes)
    return (size * q).to(dtype), k.to(dtype), v.to(dtype)


@settings(max_examples=30)
@given(
    B=st.integers(1, 3), K=st.integers(1, 3), shared=st.integers(1, 4), T=st.integers(1, 40), D=st.integers(1, 9),
    Dv=st.integers(1, 9), how=st.sampled_from(["causal", "full", "one"]), rows=st.sampled_from([1, 5, 16, 128]),
    at_once=st.sampled_from([1, 100, 2**20]), seed=st.integers(0, 99),
)  # fmt: skip
@example(B=2, K=2, shared=2, T=33, D=8, Dv=8, how="causal", rows=16, at_once=1, seed=0)
def test_all_is_as_defined(B, K, shared, T, D, Dv, how, rows, at_once, seed):
    q, k, v = tensors(B, K * shared, K, 1 if how == "one" else T, T, D, Dv, torch.float64, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "ROWS", rows)
        patch.setattr(together, "AT_ONCE", at_once)
        out, got = together.attend(q, k, v, how == "causal", 0.7)
        same, alone = together.attend(q, k, v, how == "causal", 0.7, spread=False)
    for a, b in zip((out, *got), defined(q, k, v, how == "causal", 0.7), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert torch.equal(out, same)
    assert torch.equal(got.columns, alone.columns)
    assert torch.equal(got.distance, alone.distance)
    assert alone.entropy.isnan().all()
    assert alone.effective.isnan().all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 5e-3), (torch.float16, 6e-4)])
def test_in_half_precision_only_the_output_is_rounded(dtype, bound):
    q, k, v = tensors(1, 4, 2, 700, 700, 16, 16, dtype, size=3)
    out, got = together.attend(q, k, v, True, 0.25)
    want = defined(q, k, v, True, 0.25)
    assert out.dtype == dtype
    assert (out - want[0]).abs().max() <= bound * want[0].abs().max()
    for a, b in zip(got, want[1:], strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)


def test_scores_of_a_thousand_and_equal_ones():
    q, k = torch.full((1, 1, 6, 4), 500.0), torch.zeros(1, 1, 6, 4)
    k[:, :, 2] = 1
    out, got = together.attend(q, k, k, True, 0.5)
    for a, b in zip((out, *got), defined(q, k, k, True, 0.5), strict=True):
        torch.testing.assert_close(a.double(), b)


@pytest.mark.parametrize("side", ["none", "left"])
def test_a_generation_is_the_models_own(side, plain_torch):
    model = drawn("llama")
    ids, _ = inputs(model, side)
    head = torch.nn.Linear(model.model.config.hidden_size, 50, bias=False)

    def steps():
        cache, mask, seen = None, ids.get("attention_mask"), []
        given = ids["input_ids"]
        mask = torch.ones_like(given) if mask is None else mask
        for _ in range(4):
            got = model.model(input_ids=given, attention_mask=mask, past_key_values=cache, use_cache=True)
            cache, given = got.past_key_values, head(got.last_hidden_state[:, -1:]).argmax(-1)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            seen.append(given)
        return torch.cat(seen, 1)

    with torch.inference_mode():
        want = steps()
        with lab.attention.watch(model, backend="fused") as fused:
            assert torch.equal(steps(), want)
        with lab.attention.watch(model) as plain:
            steps()
    for name in ("mass", "entropy", "distance", "effective_keys"):
        np.testing.assert_allclose(*(s.result()[name].values for s in (fused, plain)), rtol=1e-4, atol=1e-5)


def test_where_a_graph_is_recorded_or_weights_drop_out_the_answer_is_the_models(plain_torch):
    model = drawn("llama")
    given, _ = inputs(model, "right")

    def passed():
        model.model.zero_grad()
        out = model.model(**given).last_hidden_state
        out.square().sum().backward()
        return [out, *(p.grad for p in model.model.parameters() if p.grad is not None)]

    plain = passed()
    with lab.attention.watch(model, backend="fused") as sinks:
        watched = passed()
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert sinks.result().entropy.notnull().all()
