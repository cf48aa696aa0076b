"""lab.kernels.parts: what is made a few segments at a time is what is made at once, and so are all its gradients."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.kernels import parts
from lab.kernels.layout import is_padded, keep, to_ragged, total
from lab.kernels.parts import by_parts, plan
from lab.pooling.generalized import GNP, GeM, GroupGeM, LSEPool, NormWeightedMeanPool, SoftmaxPool

LAYOUTS = pytest.mark.parametrize("ragged", [False, True], ids=["padded", "ragged"])
POOLS = {
    "gem": lambda: GeM(6),
    "group_gem": lambda: GroupGeM(6, num_groups=3),
    "lse": lambda: LSEPool(6),
    "lse, r learned": lambda: LSEPool(6, r=3.0, trainable=True),
    "lse, r small": lambda: LSEPool(6, r=1e-3),
    "softmax": lambda: SoftmaxPool(6, beta=-0.7),
    "softmax, beta learned": lambda: SoftmaxPool(6, beta=0.7, trainable=True),
    "gnp": lambda: GNP(6, p=-2.0, q=0.3),
    "norm_weighted_mean": lambda: NormWeightedMeanPool(6),
}


@pytest.fixture
def small(monkeypatch):
    """Parts of at most 400 bytes, of tensors of any size."""
    monkeypatch.setattr(parts, "BYTES", 400)
    monkeypatch.setattr(parts, "FULL", 1200)
    monkeypatch.setattr(parts, "FEWEST", 0)


def drawn(B, T, seed, kind="anywhere", D=6):
    """Poisoned x and a mask whose padding stands anywhere, in front, behind or nowhere; else some rows are empty."""
    g = torch.Generator().manual_seed(seed)
    x, n = torch.randn(B, T, D, generator=g, dtype=torch.float64), torch.randint(0, T + 1, (B, 1), generator=g)
    at = torch.arange(T)
    somewhere = torch.rand(B, T, generator=g) < 0.6
    mask = {"anywhere": somewhere, "front": at >= n, "behind": at < n, "nowhere": torch.ones_like(somewhere)}[kind]
    return x.masked_fill(~mask[..., None], torch.nan), mask


def spread(x, other, mask, scale):
    """Of two tensors of tokens and a parameter: neither linear in any of them."""
    both = keep(x, mask).exp() * keep(other, mask)[..., None] * scale
    return total(keep(both, mask), mask).sin(), total(keep(other, mask), mask)


@LAYOUTS
@settings(max_examples=20)
@given(
    B=st.integers(0, 9), T=st.integers(0, 12), seed=st.integers(0, 99),
    kind=st.sampled_from(["anywhere", "front", "behind", "nowhere"]), limit=st.sampled_from([1, 400, 2000]),
)  # fmt: skip
@example(B=9, T=12, seed=0, kind="behind", limit=600)  # one row in each part
def test_parts_are_the_whole(ragged, B, T, seed, kind, limit):
    x, mask = drawn(B, T, seed, kind)
    other = torch.randn(B, T, dtype=x.dtype, generator=torch.Generator().manual_seed(seed + 1))
    scale = torch.randn(6, dtype=x.dtype, generator=torch.Generator().manual_seed(seed + 2))
    if ragged:
        other, (x, mask) = other[mask], to_ragged(x, mask)
    inputs = [v.requires_grad_() for v in (x, other, scale)]
    whole = spread(x, other, mask, scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "BYTES", limit)
        patch.setattr(parts, "FULL", limit)
        patch.setattr(parts, "FEWEST", 0)
        made = by_parts(spread, (x, other), mask, scale)
        with torch.no_grad():
            torch.testing.assert_close(by_parts(spread, (x, other), mask, scale), made)
    torch.testing.assert_close(made, whole)
    dy = [torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3)) for y in whole]
    got, want = (torch.autograd.grad(y, inputs, dy, materialize_grads=True) for y in (made, whole))
    torch.testing.assert_close(got, want)
    assert all(g.isfinite().all() for g in got)


@LAYOUTS
def test_every_token_is_in_one_part_and_a_row_alone_has_no_padding(ragged, small):
    for seed, kind in enumerate(["anywhere", "front", "behind"]):
        x, mask = drawn(9, 12, seed, kind)
        x = x.nan_to_num(0)
        if ragged:
            x, mask = to_ragged(x, mask)
        seen = torch.zeros_like(x) if is_padded(mask) else torch.zeros_like(x)[None]
        found = plan(x, mask)
        for part in found:
            block = part.take(x if is_padded(mask) else x[None])
            assert block.shape[:2] == part.mask.shape
            part.put(seen, keep(block, part.mask))
            if len(block) == 1 and part.mask.any():
                assert part.mask.all()
        torch.testing.assert_close(seen.reshape(x.shape), keep(x, mask))
        assert [s for part in found for s in range(9)[part.segments]] == list(range(9))


@LAYOUTS
def test_inputs_made_from_one_another_are_not_counted_twice(ragged, small):
    x, mask = drawn(4, 5, 3)
    x = x.nan_to_num(0)
    if ragged:
        x, mask = to_ragged(x, mask)
    scale = torch.ones(6, dtype=x.dtype)

    x = x.requires_grad_()
    y, _ = by_parts(spread, (x, x.square().sum(-1)), mask, scale)
    want, _ = spread(x, x.square().sum(-1), mask, scale)
    for again in (False, True):
        got, right = (torch.autograd.grad(v.sum(), x, retain_graph=True, create_graph=again)[0] for v in (y, want))
        torch.testing.assert_close(got, right)
    got, right = (torch.autograd.grad(v.square().sum(), x)[0] for v in (got, right))
    torch.testing.assert_close(got, right)


def test_without_padding_parts_are_larger_and_nothing_is_made_twice(small):
    x, mask = drawn(9, 12, 0, "nowhere")  # 576 bytes a row
    seen = []

    def function(x, mask):
        seen.append(len(x))
        return (x.exp().sum(1),)

    by_parts(function, (x,), mask)
    assert seen == [2, 2, 2, 2, 1]
    seen.clear()
    (y,) = by_parts(function, (x.requires_grad_(),), mask)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], x.exp())
    assert seen == [9]
    seen.clear()
    mask[3, 4] = False
    by_parts(function, (x.detach(),), mask)
    assert seen == [1] * 9


def test_only_the_inputs_are_kept(small):
    x, mask = drawn(9, 12, 0)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v.shape) or v, lambda v: v):
        by_parts(lambda x, mask: (total(keep(x, mask).exp().sin(), mask),), (x.requires_grad_(),), mask)
    assert kept == [x.shape]


@LAYOUTS
@pytest.mark.parametrize("name", POOLS)
def test_pools_in_parts_are_the_pools_at_once(name, ragged, small, monkeypatch):
    x, mask = drawn(7, 9, 1)
    if ragged:
        x, mask = to_ragged(x, mask)
    pool = POOLS[name]().double()
    inputs = [x.requires_grad_(), *(p for p in pool.parameters() if p.requires_grad)]
    dy = torch.randn(7, 6, dtype=x.dtype)
    in_parts = pool(x, mask)
    grads = torch.autograd.grad(in_parts, inputs, dy)
    monkeypatch.setattr(parts, "FEWEST", 10**9)
    whole = pool(x, mask)
    torch.testing.assert_close(in_parts, whole)
    torch.testing.assert_close(grads, torch.autograd.grad(whole, inputs, dy))
    assert all(g.isfinite().all() for g in grads)


@LAYOUTS
@pytest.mark.parametrize("name", POOLS)
def test_pools_in_parts_can_be_differentiated_twice(name, ragged, small):
    x, mask = drawn(3, 4, 2)
    x = x.nan_to_num(0)
    if ragged:
        x, mask = to_ragged(x, mask)
    pool = POOLS[name]().double()
    x = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool(x, mask), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: pool(x, mask), (x,), fast_mode=True)


def test_a_small_tensor_goes_whole(monkeypatch):
    calls = []
    monkeypatch.setattr(parts, "BYTES", 10**4)
    for rows in (3, 200):
        x, mask = drawn(rows, 12, 0)
        by_parts(lambda x, mask: (calls.append(len(x)) or total(keep(x, mask), mask),), (x,), mask)
    assert calls[0] == 3
    assert sum(calls[1:]) == 200
    assert max(calls[1:]) < 200


@LAYOUTS
def test_a_gradient_of_its_own_is_given_what_was_pooled(ragged, small):
    """y = (sum_t x_t^2)^2 / 2 has dx_t = 2 x_t sqrt(2 y) dy: no other sum is needed."""
    x, mask = drawn(9, 12, 3)
    if ragged:
        x, mask = to_ragged(x, mask)

    def squares(x, mask):
        return (total(keep(x, mask).square(), mask).square() / 2,)

    def gradient(dy, y, x, mask):
        return (keep(x, mask) * 2 * ((2 * y[0]).sqrt() * dy[0])[:, None],)

    found = []
    for own in (None, gradient):
        given = x.clone().requires_grad_()
        (y,) = by_parts(squares, (given,), mask, gradient=own)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        found.append(given.grad)
    torch.testing.assert_close(*found)
