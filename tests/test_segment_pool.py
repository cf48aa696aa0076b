"""lab.kernels.segment_pool: the Triton kernel and the torch path against the definition in float64.

The kernel is called by its own name and not through the dispatcher, so that a run on a CPU compares Triton's
interpreter with the definition and not torch with torch.
"""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.kernels import KERNELS, layout, parts, segment_pool, segment_torch, weighted_sum


def in_parts_of_torch(*given):
    """As on a CPU where x is large: a few segments at a time; here, of 300 bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "BYTES", 300)
        patch.setattr(parts, "FEWEST", 0)
        patch.setattr(weighted_sum, "FEWEST", 0)
        return segment_torch.pool(*given)


IMPLEMENTATIONS = {
    "kernel": KERNELS["segment_pool"][0],
    "torch": segment_torch.pool,
    "torch, in parts": in_parts_of_torch,
}
definition = KERNELS["segment_pool"][1]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
size = st.integers(1, 70) | st.sampled_from([31, 32, 33, 63, 64, 65])  # BLOCK_T = 32, BLOCK_D = 64

every_mode = pytest.mark.parametrize("mode", segment_pool.MODES)
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
wide_or_not = pytest.mark.parametrize(
    ("mode", "wide"), [(mode, False) for mode in segment_pool.MODES] + [("softmax", True)]
)


def drawn(mode, wide, B, T, D, seed=0, dtype=torch.float32, layout_name="padded", p=0.6):
    """x, mask, scores (or None) and the gradient of the output; padding is poisoned."""
    g = torch.Generator().manual_seed(seed)
    x, dy = torch.randn(B, T, D, generator=g).to(dtype), torch.randn(B, D, generator=g).to(dtype)
    scores = (3 * torch.randn(B, T, *[D] * wide, generator=g)).to(dtype) if mode == "softmax" else None
    mask = torch.rand(B, T, generator=g) < p
    if layout_name == "ragged":
        return *layout.to_ragged(x, mask), None if scores is None else scores[mask], dy
    poison = [
        v if v is None else torch.where(mask.reshape(B, T, *[1] * (v.ndim - 2)), v, torch.nan) for v in (x, scores)
    ]
    return poison[0], mask, poison[1], dy


def value_and_grads(function, x, mask, mode, scores, dy):
    return value_and_grads_in_place(function, x.clone(), mask, mode, None if scores is None else scores.clone(), dy)


def value_and_grads_in_place(function, x, mask, mode, scores, dy):
    """With the strides that the inputs have."""
    inputs = [v.detach().requires_grad_() for v in (x, scores) if v is not None]
    y = function(inputs[0], mask, mode, *inputs[1:])
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


def scales(mode, x, scores, dy, exact):
    """How large the operands of each result are: float32 inside may be off by a few of its roundings of these."""
    top = [0.0 if v is None or not v.numel() else v.nan_to_num(0).abs().max().item() for v in (x, scores, dy)]
    at, score, g = max(top[0], 1e-3), top[1], top[2]
    if mode == "sum":
        return x.nan_to_num(0).abs().sum(-2).max().item() + at, g
    if mode == "std":
        spread = exact[exact > 0].min().item() if (exact > 0).any() else 1.0
        return at, g * (1 + at / spread)  # (x - mean) / std is as ill-conditioned as the spread is small
    if mode == "lse":
        return at + 10, g * (at + 10)  # exp(x - lse) turns the rounding of x - lse into a relative error
    if mode == "softmax":
        return at * (1 + score), g * (1 + score), g * (1 + score) * 2 * at
    return at, g


@pytest.fixture
def in_parts(monkeypatch):
    return lambda k: monkeypatch.setattr(segment_pool, "parts", lambda *_: k)


@wide_or_not
@every_implementation
@settings(max_examples=8)
@given(
    B=st.integers(1, 4), T=size, D=size, seed=st.integers(0, 99),
    dtype=st.sampled_from(list(DTYPES)), where=st.sampled_from(["padded", "ragged"]), k=st.sampled_from([1, 1, 3]),
)  # fmt: skip
@example(B=1, T=4096, D=3, seed=0, dtype="float16", where="padded", k=1)  # exposes a half-precision accumulator
@example(B=1, T=257, D=3, seed=0, dtype="bfloat16", where="ragged", k=5)
@example(B=2, T=129, D=193, seed=0, dtype="float32", where="padded", k=2)  # several blocks both ways
def test_matches_float64(implementation, mode, wide, B, T, D, seed, dtype, where, k):
    dtype = DTYPES[dtype]
    x, mask, scores, dy = drawn(mode, wide, B, T, D, seed, dtype, where)
    wider = [None if v is None else v.double() for v in (x, scores, dy)]
    exact = value_and_grads(definition, wider[0], mask, mode, *wider[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_pool, "parts", lambda *_: k)
        ours = value_and_grads(implementation, x, mask, mode, scores, dy)
    for got, want, scale in zip(ours, exact, scales(mode, *wider, exact[0]), strict=True):
        assert got.dtype == dtype
        atol = 8 * torch.finfo(torch.float32).eps * scale  # float32 inside
        torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=atol)


@wide_or_not
@every_implementation
def test_empty_segments_give_zeros_and_zero_gradient(implementation, mode, wide):
    x, mask, scores, dy = drawn(mode, wide, 4, 9, 5)
    mask[0], mask[2] = False, False
    x[~mask] = torch.nan
    alone = value_and_grads(
        implementation, x[1::2], mask[1::2], mode, None if scores is None else scores[1::2], dy[1::2]
    )
    y, *grads = value_and_grads(implementation, x, mask, mode, scores, dy)
    assert torch.equal(y[::2], torch.zeros(2, 5))
    torch.testing.assert_close(y[1::2], alone[0])
    for grad, other in zip(grads, alone[1:], strict=True):
        assert torch.equal(grad[::2], torch.zeros_like(grad[::2]))
        torch.testing.assert_close(grad[1::2], other)
    offsets = torch.tensor([0, 0, 9, 9])  # the same for ragged: first and last are empty
    rows, s = torch.randn(9, 5), None if scores is None else torch.randn(9, *[5] * wide)
    y, *grads = value_and_grads(implementation, rows, offsets, mode, s, dy[:3])
    assert torch.equal(y[::2], torch.zeros(2, 5))
    assert y[1].any()
    assert all(grad.isfinite().all() for grad in grads)


@wide_or_not
@every_implementation
@pytest.mark.parametrize("where", ["padded", "ragged"])
@pytest.mark.parametrize(("B", "T", "D"), [(0, 3, 2), (2, 0, 3), (2, 3, 0), (3, 4, 2)])
def test_nothing_to_pool_is_zeros_in_the_graph(implementation, mode, wide, where, B, T, D):
    x, mask, scores, dy = drawn(mode, wide, B, T, D, p=0.0, layout_name=where)
    y, *grads = value_and_grads(implementation, x, mask, mode, scores, dy)
    assert torch.equal(y, torch.zeros(B, D))
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)
    assert grads[0].shape == x.shape


@wide_or_not
@every_implementation
def test_padded_and_ragged_are_the_same(implementation, mode, wide):
    x, mask, scores, dy = drawn(mode, wide, 3, 50, 7, seed=4)
    padded = value_and_grads(implementation, x, mask, mode, scores, dy)
    rows, offsets = layout.to_ragged(x, mask)
    for kind in (torch.int64, torch.int32):
        ragged = value_and_grads(
            implementation, rows, offsets.to(kind), mode, None if scores is None else scores[mask], dy
        )
        torch.testing.assert_close(ragged[0], padded[0])
        for got, want in zip(ragged[1:], padded[1:], strict=True):
            torch.testing.assert_close(got, want[mask])
            assert torch.equal(want[~mask], torch.zeros_like(want[~mask]))


@every_implementation
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("where", ["padded", "ragged"])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_of_equal_extrema_the_first_has_the_gradient(implementation, mode, where, k, in_parts):
    in_parts(k)
    x = torch.zeros(1, 200, 3)
    x[0, [40, 41, 170]] = 1.0 if mode == "max" else -1.0  # in two blocks, and in two parts of four
    mask = torch.ones(1, 200, dtype=torch.bool)
    mask[0, 40] = False
    given_x, given_mask = (x, mask) if where == "padded" else layout.to_ragged(x, mask)
    _, grad = value_and_grads(implementation, given_x, given_mask, mode, None, torch.ones(1, 3))
    want = torch.zeros(1, 200, 3)
    want[0, 41] = 1
    assert torch.equal(grad, want if where == "padded" else want[mask])


@every_implementation
@pytest.mark.parametrize("k", [1, 3])
def test_minus_infinity_among_real_tokens(implementation, k, in_parts):
    in_parts(k)
    x = torch.randn(2, 40, 3)
    x[0, 3:30], x[1, :] = -torch.inf, -torch.inf
    x[1, 7, 0] = 0.5
    mask = torch.ones(2, 40, dtype=torch.bool)
    dy = torch.ones(2, 3)
    y, grad = value_and_grads(implementation, x, mask, "max", None, dy)
    torch.testing.assert_close(y, x.amax(1))
    assert torch.equal(grad.sum(1), dy)
    y, grad = value_and_grads(implementation, x, mask, "lse", None, dy)
    torch.testing.assert_close(y, x.logsumexp(1))
    assert torch.equal(y[1, 1:], torch.full((2,), -torch.inf))
    torch.testing.assert_close(grad[0], x[0].softmax(0))
    torch.testing.assert_close(grad[1, :, 0], (torch.arange(40) == 7).float())
    assert torch.equal(grad[1, :, 1:], torch.zeros(40, 2))  # no weight anywhere: no gradient, and no NaN
    scores = x[:, :, 1]
    y, *grads = value_and_grads(implementation, torch.randn(2, 40, 3), mask, "softmax", scores, dy)
    assert torch.equal(y[1], torch.zeros(3))
    assert all(torch.equal(g[1], torch.zeros_like(g[1])) and g.isfinite().all() for g in grads)


@every_implementation
@pytest.mark.parametrize("mode", ["max", "min"])
def test_padding_is_not_taken_for_an_infinite_extremum(implementation, mode):
    worst = -torch.inf if mode == "max" else torch.inf
    for poison in (0.0, torch.nan):
        x, mask = torch.full((2, 30, 3), worst), torch.ones(2, 30, dtype=torch.bool)
        mask[:, :4], x[:, :4] = False, poison
        y, grad = value_and_grads(implementation, x, mask, mode, None, torch.ones(2, 3))
        assert torch.equal(y, torch.full((2, 3), worst))
        assert torch.equal(grad[:, 4], torch.ones(2, 3))
        assert grad.sum() == 6


@every_mode
@every_implementation
def test_a_real_nan_is_seen_and_stays_in_its_segment(implementation, mode):
    x, scores = torch.randn(2, 40, 3), torch.zeros(2, 40) if mode == "softmax" else None
    x[0, 35, 1] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy, in the interpreter
        y = implementation(x, torch.ones(2, 40, dtype=torch.bool), mode, scores)
    assert y[0, 1].isnan()
    assert y.isnan().sum() == 1


@every_implementation
@pytest.mark.parametrize("where", ["padded", "ragged"])
@pytest.mark.parametrize("offset", [1e3, 1e4, -1e4])
def test_std_survives_an_offset(implementation, where, offset):
    """E[x^2] - E[x]^2 in float32 would be off by 60 at an offset of 1e4, where the variance is 0.0033."""
    x = offset + 0.1 * (2 * torch.rand(2, 700, 5) - 1)
    mask = torch.rand(2, 700) < 0.7
    want = definition(x.double(), mask, "std")
    got = implementation(*((x, mask) if where == "padded" else layout.to_ragged(x, mask)), "std")
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=0)


@every_implementation
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("where", ["padded", "ragged"])
@pytest.mark.parametrize("value", [0.1, 1234.567, -3e30])
def test_std_of_equal_tokens_is_zero_with_zero_gradient(implementation, where, value, k, in_parts):
    in_parts(k)
    x, mask = torch.full((2, 77, 3), value), torch.rand(2, 77) < 0.7
    given_x, given_mask = (x, mask) if where == "padded" else layout.to_ragged(x, mask)
    y, grad = value_and_grads(implementation, given_x, given_mask, "std", None, torch.ones(2, 3))
    assert torch.equal(y, torch.zeros(2, 3))
    assert torch.equal(grad, torch.zeros_like(grad))


@wide_or_not
@every_implementation
def test_long_half_precision_segments(implementation, mode, wide, monkeypatch):
    """One rounding at T = 32k: 1.001 added 32,768 times stops at 2,048 in a float16 accumulator."""
    monkeypatch.setattr(segment_pool, "BLOCK_T", 512)  # fewer steps: the interpreter takes 5 ms for each
    T = 32_768
    g = torch.Generator().manual_seed(0)
    x = (1 + 0.01 * torch.randn(1, T, 2, generator=g)).half()
    x = x / 32 if mode == "sum" else x  # the sum itself must fit float16
    scores = torch.randn(1, T, *[2] * wide, generator=g).half() if mode == "softmax" else None
    mask = torch.ones(1, T, dtype=torch.bool)
    want = definition(x.double(), mask, mode, None if scores is None else scores.double())
    for rows, segments, s in ((x, mask, scores), (x[0], torch.tensor([0, T]), None if scores is None else scores[0])):
        got = implementation(rows, segments, mode, s)
        torch.testing.assert_close(got.double(), want, rtol=2**-10, atol=1e-4)


@wide_or_not
@every_implementation
def test_strided_inputs_are_read_where_they_are_and_not_changed(implementation, mode, wide):
    x, mask, scores, dy = drawn(mode, wide, 2, 37, 6, seed=3)
    want = value_and_grads(implementation, x, mask, mode, scores, dy)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    every_other = torch.stack([mask, ~mask], -1)[..., 0]
    spread = None if scores is None else torch.stack([scores, scores], 1)[:, 1]
    kept = [v if v is None else v.clone() for v in (turned, every_other, spread)]
    expanded_dy = dy[:, :1].expand(2, 6)
    inputs = [v.requires_grad_() for v in (turned, spread) if v is not None]
    y = implementation(inputs[0], every_other, mode, *inputs[1:])
    torch.testing.assert_close(y, want[0])
    grads = torch.autograd.grad(y, inputs, expanded_dy)
    wanted = value_and_grads(implementation, x, mask, mode, scores, expanded_dy.contiguous())
    for got, right in zip(grads, wanted[1:], strict=True):
        torch.testing.assert_close(got, right)
    for now, before in zip((turned, every_other, spread), kept, strict=True):
        assert now is None or torch.equal(now.detach().nan_to_num(7), before.nan_to_num(7))
    rows, offsets = torch.randn(20, 12)[:, ::2], torch.tensor([0, 99, 11, 99, 20])[::2]
    s = None
    if mode == "softmax":
        s = torch.randn(20, 12)[:, ::2] if wide else torch.randn(40)[::2]
    for got, right in zip(
        value_and_grads_in_place(implementation, rows, offsets, mode, s, dy),
        value_and_grads(implementation, rows.contiguous(), offsets, mode, None if s is None else s.contiguous(), dy),
        strict=True,
    ):
        torch.testing.assert_close(got, right)
    one = torch.randn(2, 1, 6)  # a token that stands at every place, without a copy
    y = implementation(one.expand(2, 9, 6), torch.ones(2, 1, dtype=torch.bool).expand(2, 9), "mean")
    torch.testing.assert_close(y, one[:, 0])


@wide_or_not
@every_implementation
@pytest.mark.parametrize("where", ["padded", "ragged"])
def test_the_same_bits_every_time(implementation, mode, wide, where, in_parts):
    in_parts(3)
    x, mask, scores, dy = drawn(mode, wide, 3, 100, 70, layout_name=where)
    one, two = (value_and_grads(implementation, x, mask, mode, scores, dy) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


@wide_or_not
@pytest.mark.parametrize("where", ["padded", "ragged"])
@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS.values())[1:], ids=list(IMPLEMENTATIONS)[1:])
def test_gradcheck(implementation, mode, wide, where):
    """The torch path is what runs in float64; it can be differentiated twice."""
    x, mask, scores, _ = drawn(mode, wide, 3, 5, 3, layout_name=where)
    x, scores = x.nan_to_num(0).double(), None if scores is None else scores.nan_to_num(0).double()
    inputs = [v.requires_grad_() for v in (x, scores) if v is not None]
    assert torch.autograd.gradcheck(lambda x, *s: implementation(x, mask, mode, *s), inputs)
    assert torch.autograd.gradgradcheck(lambda x, *s: implementation(x, mask, mode, *s), inputs)


@wide_or_not
@pytest.mark.parametrize("where", ["padded", "ragged"])
def test_the_operator_is_registered_as_torch_expects(mode, wide, where):
    x, mask, scores, _ = drawn(mode, wide, 2, 6, 5, layout_name=where)
    x, scores = x.nan_to_num(0).requires_grad_(), None if scores is None else scores.nan_to_num(0).requires_grad_()
    result = torch.library.opcheck(torch.ops.lab.segment_pool.default, (x, mask, mode, scores))
    assert set(result.values()) == {"SUCCESS"}


@every_mode
def test_only_what_the_gradient_needs_is_kept(mode):
    x, mask, scores, _ = drawn(mode, False, 2, 6, 5)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v.shape) or v, lambda v: v):
        segment_pool.apply(x.requires_grad_(), mask, mode, scores)
    assert (x.shape in kept) == (mode in segment_pool.READS_X)


def test_the_kernel_runs_where_it_should(monkeypatch):
    calls = []
    monkeypatch.setattr(segment_pool, "apply", lambda x, *_: calls.append(x.dtype) or x[:, 0])
    mask = torch.ones(1, 2, dtype=torch.bool)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        segment_pool.segment_pool(torch.zeros(1, 2, 3, dtype=dtype), mask, "mean")
    assert calls == [torch.float32, torch.float16, torch.bfloat16]
    monkeypatch.setattr(segment_pool, "INTERPRETED", False)
    segment_pool.segment_pool(torch.zeros(1, 2, 3), mask, "mean")
    assert len(calls) == 3


def test_segments_are_cut_only_where_the_device_would_stand_idle():
    assert segment_pool.parts(6, 32_768, multiprocessors=0) == 1  # a CPU
    assert segment_pool.parts(64 * 6, 512, multiprocessors=132) == 1  # short ones are not worth a merge
    assert segment_pool.parts(32 * 64, 32_768, multiprocessors=132) == 1  # enough programs as it is
    assert segment_pool.parts(6, 32_768, multiprocessors=132) == 64
    assert segment_pool.parts(64, 32_768, multiprocessors=132) == 9
    assert segment_pool.parts(0, 0, multiprocessors=132) == 1


COMPILE = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lab.kernels import segment_pool_triton as kernel, segment_stats
from lab.kernels.segment_pool import MODES

def build(fn, types, constants):
    kind = lambda name: "constexpr" if name in constants else types.get(name, "i64" if "_" in name else "i32")
    source = ASTSource(fn=fn, signature={name: kind(name) for name in fn.arg_names}, constexprs=constants)
    return len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"])

sizes = {}
for padded, x in ((True, "*bf16"), (False, "*fp32")):
    types = dict.fromkeys(("x", "y", "dy", "dx", "scores", "out"), x)
    types |= {"mask": "*i1" if padded else "*i64", "lengths": "*i64", "winner": "*i32", "ends": "*i32"}
    types |= dict.fromkeys(("work", "shares", "dsquare"), "*fp32")
    blocks = {"PADDED": padded, "BLOCK_T": 32, "BLOCK_D": 64}
    sizes[f"stats forward {x}"] = build(segment_stats._forward, types, blocks)
    sizes[f"stats backward {x}"] = build(segment_stats._backward, types, blocks)
    for mode in MODES:
        types["aux"] = "*i32" if mode in ("max", "min") else "*fp32"
        for wide in (False, True)[: 1 + (mode == "softmax")]:
            types["ds"] = x if wide else "*fp32"
            constants = blocks | {"MODE": mode, "WIDE": wide}
            sizes[f"{mode} forward {x} {wide}"] = build(kernel.forward, types, constants | {"SPLIT": padded})
            sizes[f"{mode} backward {x} {wide}"] = build(kernel.backward, types, constants)
        sizes[f"{mode} combine {x}"] = build(kernel.combine, types, {"MODE": mode, "LANES": 16, "BLOCK_D": 64})
print(json.dumps(sizes))
"""


def without_interpreter(code):
    """The last line that `code` prints in a Python of its own, with Triton's compiler instead of its interpreter."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


def test_the_segment_kernels_compile_for_sm_90_without_a_gpu():
    """segment_pool's, and segment_stats', which is written with the same helpers."""
    try:
        import triton.backends.nvidia  # noqa: F401
    except ImportError:
        pytest.skip("THIS TRITON HAS NO NVIDIA BACKEND: THE KERNELS WERE NOT COMPILED")
    sizes = json.loads(without_interpreter(COMPILE))
    assert len(sizes) == 6 * len(segment_pool.MODES) + 4 + 4  # softmax has scores of two kinds; stats two ways
    assert min(sizes.values()) > 1000
