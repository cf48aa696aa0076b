"""Attention statistics with known answers, their memory, and what is refused."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_oracle import drawn, inputs
from torch import nn

import lab
from lab.attention.call import Call
from lab.attention.sinks import BACKENDS, measure
from lab.attention.visible import Visible

ROOT = Path(__file__).parents[1]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def call_of(query, key, value=None, *, causal=True, padding=None):
    """One layer's call, with a mask that is full or causal beside its padding."""
    (B, _, Tq, _), Tk = query.shape, key.shape[2]
    seen = torch.ones(Tq, Tk, dtype=torch.bool)
    seen = (seen.tril(Tk - Tq) if causal else seen).expand(B, 1, Tq, Tk)
    seen = seen if padding is None else seen & padding[:, None, None]
    visible = Visible((B, Tq, Tk), lambda i, j: seen[:, :, i:j], "causal" if causal else "full", padding)
    return Call(
        module=nn.Identity(), layer=1, cross=False, query=query, key=key, value=key if value is None else value,
        visible=visible, scaling=1.0, softcap=None, bias=None, sink=None, dropout=0.0, hidden=None, own=lambda: query,
    )  # fmt: skip


@every_backend
def test_uniform_attention(backend):
    T = 50
    zero = torch.zeros(1, 2, T, 4)
    seen = measure(call_of(zero, zero), backend)
    harmonic = sum(1 / t for t in range(1, T + 1))
    torch.testing.assert_close(seen.columns[0, 0, 0].item() / T, harmonic / T, rtol=1e-5, atol=0)
    torch.testing.assert_close(seen.columns, seen.even.expand(-1, 2, -1), rtol=1e-5, atol=1e-6)  # lift is 1 everywhere
    full = measure(call_of(zero, zero, causal=False), backend)
    torch.testing.assert_close(full.columns / T, torch.full((1, 2, T), 1 / T), rtol=1e-5, atol=0)
    assert full.ahead
    assert not seen.ahead


@every_backend
@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.9])
def test_a_head_made_to_have_a_sink(backend, alpha):
    """Query i gives key 1 exactly alpha and shares the rest evenly: the score is log(alpha i / (1 - alpha))."""
    T = 30
    others = torch.arange(T).clamp(min=1).float()
    query = torch.stack([(alpha * others / (1 - alpha)).log(), torch.zeros(T)], -1).view(1, 1, T, 2)
    key = torch.zeros(1, 1, T, 2)
    key[..., 0, 0] = 1
    seen = measure(call_of(query, key), backend)
    assert seen.columns[0, 0, 0].item() == pytest.approx(1 + alpha * (T - 1), rel=1e-5)
    rest = [sum((1 - alpha) / i for i in range(k, T)) for k in range(1, T)]
    np.testing.assert_allclose(seen.columns[0, 0, 1:], rest, rtol=1e-4)
    if backend == "fused":
        return
    i = np.arange(1, T)
    entropy = -(alpha * np.log(alpha) + (1 - alpha) * np.log((1 - alpha) / i)).sum()
    keys = 1 + (1 / (alpha**2 + (1 - alpha) ** 2 / i)).sum()
    back = (alpha * i + (1 - alpha) * (i - 1) / 2).sum()
    np.testing.assert_allclose(seen.totals[0, 0, :4], [T, entropy, keys, back], rtol=1e-4)


@every_backend
def test_columns_alone(backend):
    """Without their spread: entropy and effective keys are not there, all else is as with it."""
    call = call_of(torch.randn(2, 4, 9, 4), torch.randn(2, 2, 9, 4), padding=torch.ones(2, 9).bool().tril(6))
    whole, alone = measure(call, backend), measure(call, backend, spread=False)
    assert torch.equal(whole.columns, alone.columns)
    assert alone.totals[..., 1:3].isnan().all()
    torch.testing.assert_close(alone.totals[..., 0], whole.totals[..., 0])
    if backend != "fused":
        assert whole.totals.isfinite().all()
        assert torch.equal(alone.totals[..., 3:], whole.totals[..., 3:])


@every_backend
def test_scores_of_a_hundred_do_not_overflow(backend):
    query = torch.full((1, 1, 20, 4), 50.0)
    key = torch.zeros(1, 1, 20, 4)
    key[:, :, 3] = 1  # 200 above all others
    seen = measure(call_of(query, key), backend)
    assert seen.columns[0, 0, 3].item() == pytest.approx(17)
    assert seen.columns.isfinite().all()
    assert seen.columns[0, 0, 0].item() == pytest.approx(1 + 1 / 2 + 1 / 3, rel=1e-5)


@every_backend
def test_a_sequence_of_padding_alone_and_one_token(backend):
    query, key = torch.randn(3, 2, 6, 4), torch.randn(3, 1, 6, 4)
    padding = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    seen = measure(call_of(query, key, padding=padding), backend)
    assert torch.equal(seen.columns[0], torch.zeros(2, 6))
    assert torch.equal(seen.columns[1], torch.tensor([0, 0, 1.0, 0, 0, 0]).expand(2, 6))
    assert seen.columns[2].sum().item() == pytest.approx(12, rel=1e-5)
    torch.testing.assert_close(seen.totals[..., 0], torch.tensor([[0.0, 0], [1, 1], [6, 6]]))


def test_packed_texts_are_refused():
    q = torch.randn(1, 1, 6, 4)
    seen = torch.block_diag(torch.ones(4, 4), torch.ones(2, 2)).bool().tril()[None, None]
    visible = Visible((1, 6, 6), lambda i, j: seen[:, :, i:j], None)
    with pytest.raises(ValueError, match=r"packed into one row.*padded batch"):
        measure(replace(call_of(q, q), visible=visible), "auto")


def test_holes_in_the_padding_go_to_rows():
    q, padding = torch.randn(1, 1, 6, 4), torch.tensor([[1, 0, 1, 1, 0, 1]]).bool()
    call = call_of(q, q, padding=padding)
    seen = measure(call, "auto")
    assert seen.backend == "chunked"
    with pytest.raises(ValueError, match=r'"flash" cannot take layer 1: padding between tokens.*chunked'):
        measure(call, "flash")
    kept = q[:, :, padding[0]]
    torch.testing.assert_close(seen.columns[..., padding[0]], measure(call_of(kept, kept), "flash").columns)


@pytest.mark.parametrize("name", ["softmax1", "sigmoid", "relu", "softpick"])
def test_another_normalizer_by_function_and_by_kernel(name):
    def weigh(scores, mask):
        n = mask.sum(-1, keepdim=True)
        if name == "softmax1":
            powers = torch.where(mask, scores, -torch.inf).exp()
            return powers / (1 + powers.sum(-1, keepdim=True))
        if name == "softpick":
            powers = torch.where(mask, scores, 0).expm1()
            return powers.relu() / (1e-6 + powers.abs().sum(-1, keepdim=True))
        found = scores.relu() / n if name == "relu" else (scores - n.log()).sigmoid()
        return torch.where(mask, found, 0)

    model = drawn("llama")
    given, real = inputs(model, "left")
    results = {}
    for backend, normalizer in (("chunked", weigh), ("fused", name)):
        with lab.attention.watch(model, backend=backend, normalizer=normalizer) as sinks, torch.inference_mode():
            model.model(**given)
        results[backend] = sinks.result()
    rows, kernel = results["chunked"], results["fused"]
    np.testing.assert_allclose(rows.mass, kernel.mass, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rows.row_mass, kernel.row_mass, rtol=1e-4, atol=1e-6)
    assert np.isnan(kernel.share).all()
    assert float(abs(rows.row_mass - 1).max()) > 1e-3
    # the proxy: rows made whole, whatever they weigh
    total = (rows.share * rows.queries).isel(layer=0, head=0) * rows.support
    if name not in {"relu", "softpick"}:  # whose rows may be empty
        assert float(rows.first_share.max()) <= 1 + 1e-5
        assert float(total.sum()) == pytest.approx(real.sum().item(), rel=0.3)


def test_intervals_over_sequences():
    model = drawn("llama")
    with lab.attention.watch(model, thresholds=(0.1, 0.3), first=2) as sinks, torch.inference_mode():
        model.model(**inputs(model)[0])
    result = sinks.result()
    interval = lab.stats.bootstrap(result.first_token, along="sequence", draws=200)
    assert interval.estimate.dims == ("layer", "head")
    assert bool((interval.low <= interval.high).all())
    np.testing.assert_allclose(interval.estimate, result.share.sel(position=1), rtol=1e-4)
    rates = result.sink_rate.sel(position=1)
    assert bool((rates.sel(threshold=0.1) >= rates.sel(threshold=0.3)).all())
    above = (result.first_token > 0.1).mean("sequence")
    np.testing.assert_allclose(rates.sel(threshold=0.1), above, rtol=1e-6)


def test_a_threshold_is_strict():
    zero = torch.zeros(1, 1, 2, 4)
    tally = lab.attention.tally.Tally((0.75, 0.7499), 4)
    tally.add({1: measure(call_of(zero, zero), "eager")})  # alpha_1 = (1 + 1/2) / 2
    tally.close()
    assert tally.result().sink_rate.isel(position=0).values.ravel().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kw", "says"),
    [
        ({"backend": "fast"}, "no backend 'fast'.*'auto', 'flash', 'tiles', 'chunked'"),
        ({"thresholds": ()}, "thresholds in"),
        ({"thresholds": (1.5,)}, "thresholds in .*1.5"),
        ({"first": 0}, "first >= 1; got .* 0"),
    ],
)
def test_bad_calls_are_refused(kw, says):
    with pytest.raises(ValueError, match=says), lab.attention.watch(lab.models.tiny("llama", layers=1, dim=16), **kw):
        pass


def test_only_models_that_were_loaded_are_watched():
    with pytest.raises(TypeError, match=r"from lab.models.load.*got Linear"), lab.attention.watch(nn.Linear(2, 2)):
        pass


def test_nothing_watched_is_said():
    with lab.attention.watch(lab.models.tiny("llama", layers=1, dim=16)) as sinks:
        pass
    with pytest.raises(ValueError, match="nothing was watched"):
        sinks.result()


def test_all_is_restored_also_after_an_error():
    model = lab.models.tiny("llama", layers=1, dim=16)
    before = model.model.config._attn_implementation, len(model.model._forward_hooks)
    with pytest.raises(KeyError), lab.attention.watch(model):
        raise KeyError
    assert (model.model.config._attn_implementation, len(model.model._forward_hooks)) == before


MEMORY = """
import os, sys, torch
from contextlib import nullcontext
from pathlib import Path
import lab
torch.set_num_threads(1)  # a forked child has none of its parent's threads
model = lab.models.tiny("llama", layers=2, dim=128, heads=4, window=8192)
def kilobytes(name):
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line).split()[1])
def added(T, backend):
    ids = torch.randint(5, 900, (1, T))
    with torch.inference_mode():
        model.model(input_ids=ids[:, :64], use_cache=False)
        with lab.attention.watch(model, backend=backend) if backend != "none" else nullcontext():
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
            before = kilobytes("VmHWM")
            model.model(input_ids=ids, use_cache=False)
    return (kilobytes("VmHWM") - before) / 1024
for case in sys.argv[1:]:
    child = os.fork()  # each has memory of its own, none has to import anew
    if not child:
        T, backend = case.split()
        print(case, added(int(T), backend), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@cache
def growth():
    """{"length backend": MiB that one pass adds to the peak of its process}."""
    cases = [f"{T} {backend}" for T in (2048, 4096) for backend in ("flash", "tiles", "chunked")] + ["4096 none"]
    # what is freed goes back at once: else a short pass lives on what the start of the process left
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEMORY, *cases]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    rows = [line.rsplit(" ", 1) for line in run.stdout.splitlines()]
    assert [case for case, _ in rows] == cases, run.stderr
    return {case: float(value) for case, value in rows}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="PEAK MEMORY WAS NOT MEASURED: no Linux")
@pytest.mark.parametrize("backend", ["flash", "tiles", "chunked"])
def test_memory_is_linear_in_the_length(backend):
    """Of 2,048 and 4,096 tokens, where the weights of one layer alone would be 64 and 256 MiB."""
    short, long = (growth()[f"{T} {backend}"] for T in (2048, 4096))
    assert 0 < short < long < 2.6 * short + 10
    assert long < growth()["4096 none"] + 80
