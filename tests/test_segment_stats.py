"""lab.kernels.segment_stats: kernel and torch path against the definition in float64."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.kernels import KERNELS, layout, segment_stats

IMPLEMENTATIONS = {"kernel": KERNELS["segment_stats"][0], "torch": segment_stats.by_torch}
definition = KERNELS["segment_stats"][1]
size = st.integers(1, 70) | st.sampled_from([31, 32, 33, 63, 64, 65])  # BLOCK_T = 32, BLOCK_D = 64
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)


def value_and_grad(function, x, mask, dys):
    x = x.detach().clone().requires_grad_()
    ys = function(x, mask)
    grads = torch.autograd.grad(ys, x, [dy.to(y.dtype) for dy, y in zip(dys, ys, strict=True)])
    return [y.detach() for y in ys], grads[0]


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("where", ["padded", "ragged"])
@settings(max_examples=6)
@given(B=st.integers(1, 4), T=size, D=size, seed=st.integers(0, 99))
@example(B=1, T=2050, D=3, seed=0)
@example(B=2, T=40, D=193, seed=0)  # the norm of a token is a sum over several blocks
def test_matches_float64(implementation, dtype, where, B, T, D, seed):
    g = torch.Generator().manual_seed(seed)
    x, mask = torch.randn(B, T, D, generator=g).to(dtype), torch.rand(B, T, generator=g) < 0.6
    dys = [torch.randn(B, *[D] * (i < 4), generator=g).to(dtype) for i in range(6)]
    if where == "ragged":
        x, mask = layout.to_ragged(x, mask)
    else:
        x = torch.where(mask[..., None], x, torch.nan)
    want, exact = value_and_grad(definition, x.double(), mask, dys)
    got, grad = value_and_grad(implementation, x, mask, dys)
    eps, wide = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    for i, (ours, right) in enumerate(zip(got, want, strict=True)):
        assert ours.dtype == (dtype if i < 4 else torch.float32)
        scale = 5 * D if i == 5 else 5
        torch.testing.assert_close(ours.double(), right, rtol=eps if i < 4 else wide * 8, atol=8 * wide * scale)
    torch.testing.assert_close(grad.double(), exact, rtol=eps, atol=8 * wide * 60)  # six terms, each up to 10


@every_implementation
@pytest.mark.parametrize("where", ["padded", "ragged"])
def test_empty_segments_first_of_equals_and_zero_tokens(implementation, where):
    x = torch.zeros(3, 40, 5)
    mask = torch.ones(3, 40, dtype=torch.bool)
    mask[0], mask[1, :3] = False, False
    x[0] = torch.nan
    given_x, given_mask = (x, mask) if where == "padded" else layout.to_ragged(x, mask)
    dys = [torch.full((3, *[5] * (i < 4)), float(10**i)) for i in range(6)]
    values, grad = value_and_grad(implementation, given_x, given_mask, dys)
    assert all(torch.equal(v, torch.zeros_like(v)) for v in values)
    want = torch.zeros(3, 40, 5)  # mean to all, maximum to the first of equals, and no gradient of a norm at zero
    want[1, 3:] += 1 / 37
    want[2] += 1 / 40
    want[1, 3] += 110
    want[2, 0] += 110
    want[1:, 39] += 1000
    torch.testing.assert_close(grad, want if where == "padded" else want[mask])


@every_implementation
@pytest.mark.parametrize(("B", "T", "D"), [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_nothing_to_read(implementation, B, T, D):
    x = torch.randn(B, T, D)
    for given_x, mask in (
        (x, torch.zeros(B, T, dtype=torch.bool)),
        (x[:, :0].reshape(0, D), torch.zeros(B + 1).long()),
    ):
        values, grad = value_and_grad(implementation, given_x, mask, [torch.ones(B, *[D] * (i < 4)) for i in range(6)])
        assert [v.shape for v in values] == [(B, D)] * 4 + [(B,)] * 2
        assert not any(v.any() for v in values)
        assert torch.equal(grad, torch.zeros_like(given_x))


def test_half_norms_do_not_overflow():
    x, mask = torch.full((1, 3, 4), 200.0, dtype=torch.float16), torch.ones(1, 3, dtype=torch.bool)
    for run in IMPLEMENTATIONS.values():
        *_, norm, square = run(x, mask)
        assert (norm.item(), square.item()) == (400, 160_000)


def test_gradcheck():
    x, mask = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True), torch.rand(2, 4) < 0.7
    assert torch.autograd.gradcheck(lambda x: segment_stats.by_torch(x, mask), x)


@pytest.mark.parametrize("where", ["padded", "ragged"])
def test_the_operator_is_registered_as_torch_expects_and_repeats_its_bits(where):
    x, mask = torch.randn(2, 40, 5), torch.rand(2, 40) < 0.7
    x, mask = (x, mask) if where == "padded" else layout.to_ragged(x, mask)
    result = torch.library.opcheck(torch.ops.lab.segment_stats.default, (x.requires_grad_(), mask))
    assert set(result.values()) == {"SUCCESS"}
    one, two = (segment_stats.apply(x, mask) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
