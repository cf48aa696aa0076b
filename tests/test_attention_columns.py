"""lab.kernels.attention_columns: kernel and torch path against the definition in float64."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.kernels import KERNELS, attention_columns

IMPLEMENTATIONS = {"kernel": KERNELS["attention_columns"][0], "torch": attention_columns.by_torch}
definition = KERNELS["attention_columns"][1]
every_implementation = pytest.mark.parametrize("run", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
every_normalizer = pytest.mark.parametrize("normalizer", attention_columns.WEIGHTS)


def drawn(B, K, group, Tq, Tk, D, seed=0, dtype=torch.float32):
    """query, key, value, rows, bounds; sequences of one run each, of any length and place, some empty."""
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(B, K * group, Tq, D, generator=g).to(dtype)
    key, value = (torch.randn(B, K, Tk, D, generator=g).to(dtype) for _ in range(2))
    ends = torch.randint(0, Tk + 1, (B, 2), generator=g).sort(1).values.int()
    ends[0] = torch.tensor([0, Tk])
    return query, key, value, torch.rand(B, Tq, generator=g) + 0.5, ends


def poisoned(query, key, value, rows, bounds):
    """The same with NaN wherever there is no token."""
    Tq, Tk = query.shape[2], key.shape[2]
    real = (torch.arange(Tk) >= bounds[:, :1]) & (torch.arange(Tk) < bounds[:, 1:])
    gone = ~real[:, None, :, None]
    query = query.masked_fill(gone[:, :, Tk - Tq :], torch.nan)
    return query, key.masked_fill(gone, torch.nan), value.masked_fill(gone, torch.nan), rows, bounds


def value_and_grad(run, tensors, bounds, normalizer, causal, douts, scale=0.6):
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    found = run(*tensors, bounds, normalizer, causal, scale)
    grads = torch.autograd.grad(found, tensors, [dy.to(y.dtype) for dy, y in zip(douts, found, strict=True)])
    return [*(part.detach() for part in found), *grads]


def both(run, inputs, normalizer, causal):
    *tensors, bounds = inputs
    g = torch.Generator().manual_seed(1)
    query, key = tensors[:2]
    douts = [
        torch.randn(query.shape, generator=g).to(query.dtype),
        torch.randn(*query.shape[:2], key.shape[2], generator=g),
    ]
    got = value_and_grad(run, tensors, bounds, normalizer, causal, douts)
    want = value_and_grad(definition, [t.double() for t in tensors], bounds, normalizer, causal, douts)
    return got, want


@every_implementation
@every_normalizer
@settings(max_examples=4)
@given(
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)),
    Tk=st.integers(1, 20) | st.sampled_from([31, 33, 64, 65]),
    short=st.integers(0, 40),
    D=st.integers(1, 20),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
@example(sizes=(1, 1, 2), Tk=70, short=0, D=3, causal=True, seed=0)  # blocks of 64 keys, of 64 and of 32 queries
@example(sizes=(2, 1, 2), Tk=66, short=0, D=3, causal=False, seed=3)
@example(sizes=(1, 1, 1), Tk=66, short=65, D=4, causal=True, seed=0)  # one new query, as in generation
def test_matches_float64(run, normalizer, sizes, Tk, short, D, causal, seed):
    inputs = drawn(*sizes, max(1, Tk - short), Tk, D, seed)
    got, want = both(run, poisoned(*inputs), normalizer, causal)
    # scores up to some 0.6 * 20 in float32; a gradient sums over at most 3 heads x 70 queries of them
    for ours, right, terms in zip(got, want, (8, 70, 70, 210, 210, 70), strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=1e-5, atol=8 * terms * torch.finfo(torch.float32).eps)


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid", "softpick"])
def test_half_precision(run, dtype, normalizer):
    got, want = both(run, poisoned(*drawn(2, 1, 2, 40, 40, 16, dtype=dtype)), normalizer, True)
    assert [part.dtype for part in got] == [dtype, torch.float32, *[dtype] * 3, torch.float32]
    eps = torch.finfo(dtype).eps
    # weights (and their gradients) are rounded to half before they multiply values, queries and keys
    for ours, right, terms in zip(got, want, (2, 0, 8, 8, 8, 0), strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=eps if terms else 1e-5, atol=terms * eps or 1e-5)


@every_implementation
@every_normalizer
def test_rows_without_keys_and_padding_are_zeros_without_gradient(run, normalizer):
    query, key, value, rows, _ = drawn(3, 1, 2, 9, 9, 4)
    bounds = torch.tensor([[0, 0], [4, 9], [0, 5]], dtype=torch.int32)
    got, _ = both(run, poisoned(query, key, value, rows, bounds), normalizer, True)
    out, columns, dq, dk, dv, drows = got
    for b, gone in enumerate((slice(0, 9), slice(0, 4), slice(5, 9))):
        for part in (out, columns[..., None], dq, dk, dv, drows[:, None, :, None]):
            assert torch.equal(part[b, :, gone], torch.zeros_like(part[b, :, gone]))
    assert all(part.isfinite().all() for part in got)
    assert out[1, :, 4:].any(-1).any(-1).all()


@every_implementation
def test_uniform_scores_have_known_columns(run):
    T = 40
    query, key, value = torch.zeros(1, 1, T, 4), torch.zeros(1, 1, T, 4), torch.ones(1, 1, T, 4)
    rows, bounds = torch.ones(1, T), torch.tensor([[0, T]], dtype=torch.int32)
    tails = torch.tensor([sum(1 / i for i in range(k, T + 1)) for k in range(1, T + 1)])
    out, columns = run(query, key, value, rows, bounds, "softmax", True, 1.0)
    torch.testing.assert_close(columns[0, 0], tails)  # the first is the harmonic number H_T
    torch.testing.assert_close(out, value)
    _, columns = run(query, key, value, rows, bounds, "softmax1", False, 1.0)
    torch.testing.assert_close(columns, torch.full((1, 1, T), T / (T + 1)))


@every_implementation
def test_large_scores_do_not_overflow(run):
    query, key, value, rows, bounds = drawn(1, 1, 1, 20, 20, 4)
    for normalizer in ("softmax", "softmax1", "sigmoid", "softpick"):
        got = run(query * 1e3, key * 10, value, rows, bounds, normalizer, True, 1.0)
        want = definition(*(t.double() for t in (query * 1e3, key * 10, value, rows)), bounds, normalizer, True, 1.0)
        for ours, right in zip(got, want, strict=True):
            torch.testing.assert_close(ours.double(), right, rtol=1e-3, atol=1e-3)  # scores of 1e4 are exact to 1e-3


def test_strides_are_free():
    query, key, value, rows, bounds = drawn(2, 2, 2, 20, 20, 6)
    want = attention_columns.apply(query, key, value, rows, bounds, "softmax", True, 1.0)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key)]
    turned.append(value.mT.contiguous().mT)
    got = attention_columns.apply(*turned, rows, bounds, "softmax", True, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@every_normalizer
def test_gradcheck(normalizer):
    query, key, value, rows, bounds = (
        t.double().requires_grad_() if t.is_floating_point() else t for t in drawn(2, 1, 2, 4, 5, 2)
    )

    def run(*tensors):
        return attention_columns.by_torch(*tensors, bounds, normalizer, True, 0.8)

    assert torch.autograd.gradcheck(run, (query, key, value, rows))


def test_rows_in_parts_are_rows_at_once(monkeypatch):
    *tensors, bounds = drawn(2, 1, 2, 20, 20, 4)
    want = attention_columns.by_torch(*tensors, bounds, "softmax", True, 1.0)
    monkeypatch.setattr(attention_columns, "ROWS", 2 * 2 * 20 * 3)  # three rows at a time
    got = attention_columns.by_torch(*tensors, bounds, "softmax", True, 1.0)
    for ours, right in zip(got, want, strict=True):
        torch.testing.assert_close(ours, right)


def test_the_operator_is_registered_as_torch_expects_and_repeats_its_bits():
    *tensors, bounds = drawn(2, 1, 2, 5, 6, 4)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    arguments = (*tensors, bounds, "softmax", True, 1.0)
    result = torch.library.opcheck(torch.ops.lab.attention_columns.default, arguments)
    assert set(result.values()) == {"SUCCESS"}
    one, two = (attention_columns.apply(*arguments) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_mask_says_which_run_is_real():
    query, key, value, *_ = drawn(2, 1, 2, 6, 6, 4)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    got = attention_columns.attention_columns(query, key, value, mask, causal=True)
    for b, run in enumerate((slice(2, 6), slice(0, 3))):
        alone = attention_columns.attention_columns(*(x[b : b + 1, :, run] for x in (query, key, value)))
        torch.testing.assert_close(got.out[b : b + 1, :, run], alone.out)
        torch.testing.assert_close(got.columns[b : b + 1, :, run], alone.columns)
        assert got.columns[b].sum() == pytest.approx(2 * mask[b].sum().item(), rel=1e-5)  # two heads, a row each token
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attention_columns.attention_columns(query, key, value).out, plain)


X = torch.zeros(2, 4, 6, 8)


@pytest.mark.parametrize(
    ("tensors", "kw", "says"),
    [
        ((X, X, X), {"normalizer": "softmix"}, "no normalizer 'softmix'.*'softmax1'"),
        ((X, X[:, :3], X[:, :3]), {}, "H a multiple of K.*got query"),
        ((X, X[:, :, :5], X[:, :, :5]), {}, "Tq <= Tk"),
        ((X, X, X[..., :4]), {}, "key and value .B, K, Tk, D.; got"),
        ((X, X.half(), X), {}, "one float type; got torch.float32, torch.float16"),
        ((X, X, X), {"mask": torch.ones(2, 6)}, r"bool \(2, 6\).*got torch.float32"),
        ((X, X, X), {"mask": torch.tensor([[1, 0, 1, 1, 1, 1]] * 2).bool()}, "one run.*hole"),
        ((X, X, X), {"rows": torch.ones(2, 5)}, r"rows must be \(2, 6\).*got \(2, 5\)"),
    ],
)
def test_bad_calls_are_refused(tensors, kw, says):
    with pytest.raises(ValueError, match=says):
        attention_columns.attention_columns(*tensors, **kw)


COMPILE = """
import json
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from lab.kernels import attention_columns, attention_columns_triton as kernels
HALF = {"q", "k", "v", "dout", "dq", "dk", "dv"}
FULL = {"row", "weight", "dcolumns", "delta", "dweight"}
found = {}
for kernel in (kernels.forward, kernels.columns, kernels.backward_q, kernels.backward_kv):
    for mode in attention_columns.WEIGHTS:
        more = {"softmax": [("*fp32", False, 64)], "softpick": [("*fp16", True, 128)]}.get(mode, [])
        for dtype, causal, D in [("*bf16", True, 128), *more]:
            backward = kernel.__name__.startswith("backward")
            constants = {"MODE": mode, "CAUSAL": causal, "BLOCK_M": 32 if backward else 64, "BLOCK_N": 64, "BLOCK_D": D}
            types = dict.fromkeys(HALF, dtype) | dict.fromkeys(FULL, "*fp32") | {"bounds": "*i32", "scale": "fp32"}
            types["out"] = "*fp32" if kernel is kernels.columns else dtype
            types |= dict.fromkeys(constants, "constexpr")
            signature = {name: types.get(name, "i32") for name in kernel.arg_names}
            built = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
            text = built.asm["ptx"]
            assert ".target sm_90" in text and "atom." not in text and " red." not in text.replace("\\t", " ")
            found[f"{kernel.__name__} {mode} {dtype}"] = built.metadata.shared
print(json.dumps(found))
"""


def test_the_kernels_compile_for_sm_90_without_a_gpu():
    """With neither atomics nor more shared memory than a block of that device may have, 227 KiB."""
    try:
        import triton.backends.nvidia  # noqa: F401
    except ImportError:
        pytest.skip("THIS TRITON HAS NO NVIDIA BACKEND: THE KERNELS WERE NOT COMPILED")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr
    shared = json.loads(run.stdout.splitlines()[-1])
    assert len(shared) == 4 * (5 + 2)  # each kernel for each normalizer, two of them in a second type
    assert {name.split()[1] for name in shared} == {"softmax", "softmax1", "sigmoid", "relu", "softpick"}
    assert max(shared.values()) <= 227 * 1024
