"""lab.kernels.window_pool: torch's path and Triton's kernel against the float64 definition, on drawn geometry."""

import itertools
import math
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lab.kernels import window_filters, window_pool_torch, windows
from lab.kernels import window_pool as reductions
from lab.kernels.window_pool import window_pool

GPU = "cuda" if torch.cuda.is_available() else "cpu"
MODES = {  # name here -> (mode, the one argument beside x)
    **{mode: (mode, None) for mode in ("mean", "max", "softmax", "dsc", "mean_minus_x")},
    "logit": ("softmax", "logit"),
    "lp": ("lp", "p"),
    "mixed": ("mixed", "alpha"),
    "gated": ("gated", 1),
    "tree2": ("tree", 3),
    "tree3": ("tree", 7),
    "poset": ("poset", 5),
}
every_mode = pytest.mark.parametrize("name", MODES)
PATHS = ["slices", "torch's own", "triton"]  # of which mean and max alone take torch's own
every_path = pytest.mark.parametrize("path", PATHS)


@dataclass(frozen=True)
class Case:
    shape: tuple
    kernel: tuple
    stride: tuple
    padding: tuple
    ceil: bool
    layout: str = "dense"
    ties: bool = False
    seed: int = 0

    @property
    def args(self):
        return self.kernel, self.stride, self.padding, self.ceil

    @property
    def overlap(self):
        """At most so many windows contain one position."""
        return torch.tensor([-(-k // s) for k, s in zip(self.kernel, self.stride, strict=True)]).prod().item()


@st.composite
def cases(draw):
    d = draw(st.integers(1, 3))
    small = st.tuples(*[st.integers(1, {1: 9, 2: 7, 3: 4}[d])] * d)
    kernel = draw(st.tuples(*[st.integers(1, {1: 4, 2: 3, 3: 2}[d])] * d))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = draw(small)
    assume(all(k <= n + 2 * p for k, n, p in zip(kernel, size, padding, strict=True)))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size)
    stride = draw(st.tuples(*[st.integers(1, 4)] * d))
    layout = draw(st.sampled_from(["dense", "channels_last", "poisoned", "turned"]))
    return Case(
        shape, kernel, stride, padding, draw(st.booleans()), layout, draw(st.booleans()), draw(st.integers(0, 99))
    )


def laid_out(x, layout):
    """The same values, differently in memory; what lies between them is NaN."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "turned":
        return x.transpose(2, -1).contiguous().transpose(2, -1)
    if layout == "poisoned":
        large = x.new_full([n + 2 for n in x.shape], torch.nan)
        inner = large[tuple(slice(1, n + 1) for n in x.shape)]
        return inner.copy_(x)
    return x


def inputs(name, case, dtype):
    """x and the other argument's name and value, in dtype's values."""
    g = torch.Generator().manual_seed(case.seed)
    mode, other = MODES[name]
    x = torch.randn(case.shape, generator=g)
    if mode == "dsc":  # its slope is as 1 / |x|: away from zero the bound below holds
        x = x + x.sign() / 2
    if case.ties:
        x = (2 * x).round() / 2
    C, K = case.shape[1], torch.tensor(case.kernel).prod().item()
    value = None
    if other == "logit":
        value = torch.randn((case.shape[0], 1, *case.shape[2:]), generator=g).to(dtype)
    elif other in {"p", "alpha"}:
        value = torch.rand(C, generator=g) * (3 if other == "p" else 1) + (other == "p")
    elif isinstance(other, int):
        value = torch.randn(other, K, generator=g)
        if mode == "poset":
            value = (value > 0).float()
            value[0], value[-1] = 0, 1
        other = "weight"
    return laid_out(x.to(dtype), case.layout), other, value


def value_and_grads(function, x, value, dy):
    x = x.detach().requires_grad_()
    leaves = [x]
    if value is not None:
        value = value.detach().requires_grad_(dy is not None and value.requires_grad)
        leaves += [value] if value.requires_grad else []
    y = function(x, value)
    return y, *torch.autograd.grad(y, leaves, dy(y))


def definition(mode, other, w, x, value):
    if mode in window_filters.MODES:
        return window_filters.reference(x, mode, w, value)
    if other == "logit":
        return reductions.reference(x, mode, w, logit=value.expand_as(x))
    return reductions.reference(x, mode, w, scale=value)


@contextmanager
def on(path):
    """Triton's kernel by the switch that a user's environment sets at import, or torch's path, however small x is."""
    few = 0 if path == "slices" else window_pool_torch.FEW
    with (
        mock.patch.object(sys.modules["lab.kernels.segment_pool"], "INTERPRETED", path == "triton" and GPU == "cpu"),
        mock.patch.object(window_pool_torch, "FEW", few),
    ):
        yield


def check_case(name, path, case, dtype):
    mode, _ = MODES[name]
    if mode == "mean_minus_x":
        odd = tuple(k | 1 for k in case.kernel)
        case = Case(case.shape, odd, (1,) * len(odd), tuple(k // 2 for k in odd), False, case.layout, seed=case.seed)
    x, other, value = inputs(name, case, dtype)
    w = windows.plan(x, *case.args)
    dy = torch.randn((*case.shape[:2], *w.out[3 - len(case.kernel) :]), generator=torch.Generator().manual_seed(1)).to(
        dtype
    )
    if value is not None:
        value.requires_grad_(mode != "poset")
    want = value_and_grads(
        lambda x, v: definition(mode, other, w, x, v),
        x.double(),
        None if value is None else value.detach().double().requires_grad_(value.requires_grad),
        lambda _: dy.double(),
    )
    device = GPU if path == "triton" else "cpu"
    with on(path):
        moved = None if value is None else value.detach().to(device).requires_grad_(value.requires_grad)
        ours = value_and_grads(
            lambda x, v: window_pool(x, mode, *case.args, **({} if v is None else {other: v})),
            x.to(device),
            moved,
            lambda _: dy.to(device),
        )
    assert ours[0].dtype == dtype
    eps, fine = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    size = 1 + x.abs().max().item()
    gain = 1 if value is None or mode in {"lp", "mixed", "softmax"} else 1 + value.detach().abs().sum().item()
    bounds = [16 * fine * size * gain]  # float32 inside
    push = dy.abs().max().item()
    bounds += [16 * fine * size * gain * push * case.overlap]
    if len(want) == 3:
        windows_summed = dy.numel() if other != "logit" else case.overlap * case.shape[1]
        bounds += [16 * fine * size**2 * gain * push * windows_summed]
    for got, exact, atol in zip(ours, want, bounds, strict=True):
        torch.testing.assert_close(got.double().cpu(), exact, rtol=eps, atol=atol)


@every_path
@every_mode
@settings(max_examples=10)
@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
@example(case=Case((1, 2, 2), (1,), (1,), (0,), False, "channels_last"), dtype=torch.float32)  # its strides say both
def test_value_and_gradients_match_float64(name, path, dtype, case):
    check_case(name, path, case, dtype)


@pytest.mark.parametrize("path", ["slices", "triton"])
@pytest.mark.parametrize("offset", [0, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["softmax", "logit", "dsc"])
def test_half_values_far_from_zero_have_the_gradient_of_float32(name, dtype, offset, path):
    """x - y by a y that was rounded to the input's type is off by its rounding: at 100 by up to 1/4 in bfloat16."""
    mode, other = MODES[name]
    case = Case((2, 3, 8, 9), (3, 2), (2, 2), (1, 0), False)
    x, _, value = inputs(name, case, dtype)
    x, w = x + offset, windows.plan(x, *case.args)
    value = None if value is None else value.requires_grad_()
    dy = torch.randn(2, 3, *w.out[1:], generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = None if value is None else value.detach().double().requires_grad_()
    want = value_and_grads(lambda x, v: definition(mode, other, w, x, v), x.double(), exact, lambda _: dy.double())
    device = GPU if path == "triton" else "cpu"
    with on(path):
        moved = None if value is None else value.detach().to(device).requires_grad_()
        ours = value_and_grads(
            lambda x, v: window_pool(x, mode, *case.args, **({} if v is None else {other: v})),
            x.to(device),
            moved,
            lambda _: dy.to(device),
        )
    fine = 64 * torch.finfo(torch.float32).eps * (1 + x.abs().max().item())  # of x - y in float32, as often as summed
    for got, exact in zip(ours[1:], want[1:], strict=True):
        atol = fine * max(1, exact.abs().max().item())
        torch.testing.assert_close(got.double().cpu(), exact, rtol=torch.finfo(got.dtype).eps, atol=atol)


@every_mode
@pytest.mark.parametrize(
    "case",
    [
        Case((1, 2, 258), (2,), (2,), (0,), False),  # 129 columns of tiles of 128
        Case((3, 1, 11, 65), (2, 3), (2, 1), (1, 1), True),  # 18 rows of tiles of 4
        Case((1, 129, 2, 3), (2, 2), (1, 1), (0, 0), False, "channels_last"),
        Case((1, 64, 3, 6), (2, 2), (1, 2), (0, 0), True, "channels_last"),
        Case((1, 1, 8, 9), (1, 2), (2, 3), (0, 0), False),
    ],
    ids=["129 columns", "18 rows", "129 channels", "64 channels", "gaps"],
)
def test_kernel_at_the_edges_of_its_blocks(name, case):
    check_case(name, "triton", case, torch.float32)


@every_mode
@given(case=cases())
@settings(max_examples=6)
@example(case=Case((2, 2, 5, 4), (3, 2), (2, 3), (1, 0), True))
def test_torch_path_is_the_definition_in_float64(name, case):
    check_case(name, "slices", case, torch.float64)


@every_mode
def test_gradcheck(name):
    mode, _ = MODES[name]
    odd = mode == "mean_minus_x"
    case = Case((2, 2, 4, 3), (3, 3) if odd else (3, 2), (1, 1) if odd else (2, 1), (1, 1) if odd else (1, 0), not odd)
    x, other, value = inputs(name, case, torch.float64)
    x.requires_grad_()
    if value is None:
        assert torch.autograd.gradcheck(lambda x: window_pool(x, mode, *case.args), (x,))
    else:
        value = value.double().requires_grad_(mode != "poset")
        assert torch.autograd.gradcheck(lambda x, v: window_pool(x, mode, *case.args, **{other: v}), (x, value))


@every_path
@every_mode
def test_half_precision_windows_accumulate_in_float32(name, path):
    mode, other = MODES[name]
    n = 41  # past 16 a sum in bfloat16 grows by 1.0, not by 1.0625
    x = torch.full((1, 1, n), 1.0625, dtype=torch.bfloat16)
    geometry = (n, 1, n // 2) if mode == "mean_minus_x" else (n,)
    kw = {}
    if isinstance(other, int):
        kw["weight"] = torch.full((other, n), 1 / n)
    if other == "logit":
        kw["logit"] = torch.zeros(1, 1, n, dtype=torch.bfloat16)
    with on(path):
        y = window_pool(x, mode, *geometry, **kw)
    want = torch.zeros_like(y) if mode == "mean_minus_x" else torch.full_like(y, 1.0625)
    torch.testing.assert_close(y, want, rtol=2**-8, atol=2**-8)


@every_path
@every_mode
def test_nothing_is_lost_to_overflow(name, path):
    """Naive exponentials end at 88 in float32 and at 11 in half; cubes end at 40 in half."""
    for dtype, big in ((torch.float32, 1e4), (torch.float16, 3e4), (torch.bfloat16, 1e30)):
        x = torch.tensor([[[big, big / 2, -big, big / 4]]], dtype=dtype)
        x, (_, other, value) = x.requires_grad_(), inputs(name, Case((1, 1, 4), (2,), (2,), (0,), False), dtype)
        geometry = (3, 1, 1) if name == "mean_minus_x" else (2,)
        if name == "poset":
            value = value.clamp(0, 1)
        if isinstance(MODES[name][1], int) and name != "poset":
            value = value / 4 / value.abs().amax()
        kw = {} if value is None else {other: value * big if other == "logit" else value}
        with on(path):
            y = window_pool(x, MODES[name][0], *geometry, **kw)
            (grad,) = torch.autograd.grad(y.sum(), x)
        assert y.isfinite().all(), (dtype, y)
        assert grad.isfinite().all(), (dtype, grad)


@every_path
@every_mode
@pytest.mark.parametrize("side", [1, 3])
def test_same_bits_each_time_and_inputs_unchanged(name, path, side):
    case = Case((2, 2, 6, 5), (side, side), (1, 1), (side // 2, side // 2), False)
    x, other, value = inputs(name, case, torch.float32)
    kw = {} if value is None else {other: value}
    copies = x.clone(), None if value is None else value.clone()

    def once():
        leaf = x.detach().requires_grad_()
        y = window_pool(leaf, MODES[name][0], *case.args, **kw)
        return y.detach(), torch.autograd.grad(y.cos().sum(), leaf)[0]

    with on(path):
        first, second = once(), once()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(x, copies[0])
    assert value is None or torch.equal(value, copies[1])


@pytest.mark.parametrize("reach", [1, 59, 61, 400])
@pytest.mark.parametrize("name", ["softmax", "logit", "lp"])
def test_windows_share_a_shift_or_have_their_own_and_both_are_the_definition(name, reach):
    """Logits in -reach .. reach, or values whose p-th powers are: up to e^60 float32 holds all weights on one scale."""
    g = torch.Generator().manual_seed(reach)
    logit = reach * (2 * torch.rand(2, 3, 9, 8, generator=g) - 1)
    logit[:, 0, 0, :2] = torch.tensor([-reach, reach])
    p = torch.full((3,), 20.0, dtype=torch.float64)
    eps = math.exp(-reach / 20)
    x = {"softmax": logit, "logit": torch.randn(2, 3, 9, 8, generator=g), "lp": (logit / 20).exp()}[name]
    kw = {"logit": {"logit": logit}, "lp": {"p": p, "eps": eps}}.get(name, {})
    shared = window_pool_torch._shares_a_shift(logit)[1]
    if name == "lp":
        shared = window_pool_torch._shares_a_power(x, p, eps)[1]
    assert shared == (reach < 60)
    w = windows.plan(x, 3, 2, 1, False)

    def definition(x):
        scale, score = (p, None) if name == "lp" else (None, kw["logit"].double() if kw else None)
        return reductions.reference(x, MODES[name][0], w, score, scale, eps)

    dy = 1000 * torch.randn(2, 3, 5, 4, generator=g)
    want = value_and_grads(lambda x, _: definition(x), x.double(), None, lambda _: dy.double())
    with on("slices"):
        ours = value_and_grads(lambda x, _: window_pool(x, MODES[name][0], 3, 2, 1, **kw), x, None, lambda _: dy)
    size, fine = 1 + x.abs().max().item(), torch.finfo(torch.float32).eps
    push, steep = dy.abs().max().item() * 4, 20 if name == "lp" else size
    torch.testing.assert_close(ours[0].double(), want[0], rtol=16 * fine, atol=16 * fine * size)
    torch.testing.assert_close(ours[1].double(), want[1], rtol=steep * 16 * fine, atol=16 * fine * steep * push)


def test_the_place_of_a_maximum_is_exact_in_a_large_map():
    """From 2^24 on float32 knows only even places."""
    x = torch.zeros(1, 1, 2**24 + 4)
    x[0, 0, 2**24 + 1] = 1
    with on("slices"):
        y = window_pool(x.requires_grad_(), "max", 4, 2**12)
        (grad,) = torch.autograd.grad(y[..., -1].sum(), x)
    assert y[0, 0, -1] == 1
    assert grad.flatten().nonzero().tolist() == [[2**24 + 1]]


@every_path
def test_a_poset_filter_does_not_see_what_it_leaves_out(path):
    x = torch.tensor([[[[-torch.inf, 1.0], [2.0, -3.0]]]], requires_grad=True)
    weight = torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    with on(path):
        y = window_pool(x, "poset", 2, weight=weight)
        (grad,) = torch.autograd.grad(y.sum(), x)
    assert y.item() == 3
    assert grad.flatten().tolist() == [0, 1, 1, 0]


@every_path
@every_mode
def test_without_a_gradient_nothing_is_kept(name, path):
    case = Case((1, 1, 6), (3,), (1,), (1,), False)
    x, other, value = inputs(name, case, torch.float32)
    kw = {} if value is None else {other: value}
    with on(path), torch.no_grad():
        y = window_pool(x, MODES[name][0], *case.args, **kw)
    with on(path):
        assert torch.equal(window_pool(x.requires_grad_(), MODES[name][0], *case.args, **kw), y)
    geometry = windows.plan(x, *case.args).flat()
    if MODES[name][0] in reductions.MODES and name not in {"lp", "mixed"}:
        logit = windows.lift(value.expand_as(x)) if other == "logit" else None
        arguments = windows.lift(x), logit, None, geometry, MODES[name][0], 1e-6, 0, False
        assert [t.numel() for t in torch.ops.lab.window_reduce(*arguments)[1:]] == [0, 0]


@every_path
@given(case=cases())
@settings(max_examples=8)
@example(case=Case((1, 1, 3), (2,), (2,), (1,), True))  # the last window would start past the input
def test_agrees_with_torch_where_torch_is_right(path, case):
    x = inputs("mean", case, torch.float32)[0].requires_grad_()
    d = len(case.kernel)
    F = torch.nn.functional
    average, maximum = getattr(F, f"avg_pool{d}d"), getattr(F, f"max_pool{d}d")
    peers = {
        "mean": lambda: average(x, *case.args, count_include_pad=False),
        "max": lambda: maximum(x, case.kernel, case.stride, case.padding, 1, case.ceil),
    }
    for mode, peer in peers.items():
        with on(path):
            y = window_pool(x, mode, *case.args)
            torch.testing.assert_close(y, peer())
            ours = torch.autograd.grad((y * y.detach()).sum(), x)[0]
        theirs = peer()
        torch.testing.assert_close(ours, torch.autograd.grad((theirs * theirs.detach()).sum(), x)[0])


@every_path
def test_lp_is_torchs_up_to_its_sum(path):
    """torch's lp_pool is (sum x^p)^(1/p), ours (mean x^p)^(1/p)."""
    x = torch.rand(2, 3, 8, 8) + 0.1
    with on(path):
        ours = window_pool(x, "lp", 2, p=2.5)
    torch.testing.assert_close(ours * 4 ** (1 / 2.5), torch.nn.functional.lp_pool2d(x, 2.5, 2))


@every_path
@pytest.mark.parametrize("p", [1e-30, 1e-9, 1e-3, 1e-2, 0.2])
def test_a_small_power_keeps_its_digits_and_goes_to_the_geometric_mean(p, path):
    """y, dx and dp; below 1e-9 by the limits y = e^m, dx_i = y / (n x_i), dp = y var(u) / 2, u = ln x of mean m."""
    x = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1e-3
    w = windows.plan(x, (8, 3), (1, 2), (1, 0), False)

    def limit(x, p):
        values, inside = windows.unfold(windows.lift(x), w)
        n, u = inside.sum(-1), values.masked_fill(~inside, 1).log()
        m = u.sum(-1) / n
        variance = ((u - m[..., None]).square() * inside).sum(-1) / n
        return windows.lower(m.exp() * (1 + p.view(-1, 1, 1, 1) * variance / 2), 4)

    def definition(x, p):
        return limit(x, p) if p.max() < 1e-6 else reductions.reference(x, "lp", w, scale=p)

    power, dy = torch.full((3,), p).requires_grad_(), torch.randn(2, 3, *w.out[1:])
    exact = power.detach().double().requires_grad_()
    want = value_and_grads(definition, x.double(), exact, lambda _: dy.double())
    with on(path):
        ours = value_and_grads(
            lambda x, p: window_pool(x, "lp", *(part[1:] for part in w[:3]), p=p), x, power, lambda _: dy
        )
    fine = 16 * torch.finfo(torch.float32).eps
    for got, exact, terms in zip(ours, want, (1, w.size, dy.numel()), strict=True):
        atol = fine * exact.abs().max().item() * math.sqrt(terms)  # of sums whose terms differ in sign
        torch.testing.assert_close(got.double().cpu(), exact, rtol=fine, atol=atol)


@every_path
def test_powers_of_a_range_wider_than_float32_has_have_their_geometric_mean(path):
    """x / max underflows, and its logarithm would be infinite."""
    x = torch.tensor([[[1e-30, 1e30, 1e30, 1e-30]]])
    for p in (1e-12, torch.full((1,), 1e-12, requires_grad=True)):
        with on(path):
            y = window_pool(x, "lp", 4, p=p, eps=1e-30)
        torch.testing.assert_close(y, torch.ones(1, 1, 1), rtol=1e-4, atol=0)


@every_path
def test_the_first_of_equal_values_has_the_gradient(path):
    x = torch.ones(1, 1, 2, 4, requires_grad=True)
    for mode, kw in (("max", {}), ("mixed", {"alpha": 1.0}), ("poset", {"weight": torch.eye(4)})):
        with on(path):
            (grad,) = torch.autograd.grad(window_pool(x, mode, 2, **kw).sum(), x)
        assert grad[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]], mode


@every_path
def test_a_window_of_nothing_but_infinities_keeps_its_gradient(path):
    """No value is above -inf, so the window's first one has the gradient, not the map's first."""
    x = torch.zeros(1, 1, 4, 6)
    x[..., 2:] = -torch.inf
    with on(path):
        (grad,) = torch.autograd.grad(window_pool(x.requires_grad_(), "max", 2)[..., 1:].sum(), x)
    assert grad[0, 0].tolist() == [[0, 0, 1, 0, 1, 0], [0] * 6] * 2


@every_mode
def test_a_batch_that_is_worked_on_in_parts_is_its_examples(name):
    """More than 2^16 windows an example: each is a part, and what is summed over windows is summed over parts."""
    mode, other = MODES[name]
    case = Case((3, 1, 259, 258), (3, 3), (1, 1), (1, 1), False)
    x, other, value = inputs(name, case, torch.float32)
    if value is not None:
        value.requires_grad_(mode not in {"poset", "softmax"})

    def of(x, value):
        kw = {} if value is None else {other: value}
        return window_pool(x, mode, *case.args, **kw)

    with on("slices"):
        whole = value_and_grads(of, x, value, torch.cos)
        logits = [value] * 3 if other != "logit" else value.split(1)
        each = [value_and_grads(of, *one, torch.cos) for one in zip(x.split(1), logits, strict=True)]
    for got, want in zip(whole[:2], zip(*each, strict=True), strict=False):
        torch.testing.assert_close(got, torch.cat(want))
    if len(whole) == 3:
        total = sum(one[2] for one in each)
        torch.testing.assert_close(whole[2], total, rtol=1e-4, atol=1e-4 * total.abs().max().item())


@every_path
def test_a_half_gradient_of_many_windows_is_summed_in_float32(path):
    """41 windows share the peak: in bfloat16 the sum of 1.0625 would stop growing by it at 32."""
    x = torch.zeros(1, 1, 81, dtype=torch.bfloat16)
    x[..., 40] = 1
    x.requires_grad_()
    for mode, share in (("max", 1), ("mean", 41)):
        with on(path):
            y = window_pool(x, mode, 41, 1)
            (grad,) = torch.autograd.grad(y, x, torch.full_like(y, 1.0625))
        assert grad[0, 0, 40].item() == pytest.approx(41 * 1.0625 / share, rel=2**-7), mode


@every_path
def test_nan_is_seen_not_lost(path):
    x = torch.zeros(1, 1, 2, 4)
    x[0, 0, 1, 0] = torch.nan
    for name, (mode, other) in MODES.items():
        if mode in {"mean_minus_x", "lp"}:
            continue
        kw = {"weight": torch.ones(other, 4)} if isinstance(other, int) else {}
        with on(path):
            y = window_pool(x, mode, 2, **kw)
        assert y.isnan().tolist() == [[[[True, False]]]], name


@every_path
def test_logits_of_minus_infinity_take_a_position_out(path):
    x = torch.tensor([[[1.0, torch.nan, 3.0, 5.0, 7.0, 9.0]]], requires_grad=True)
    logit = torch.tensor([[[0.0, -torch.inf, -torch.inf, -torch.inf, 0.0, 0.0]]], requires_grad=True)
    with on(path):
        y = window_pool(x, "softmax", 2, logit=logit)
        grads = torch.autograd.grad(y.sum(), (x, logit))
    assert y.tolist() == [[[1, 0, 8]]]
    assert grads[0].tolist() == [[[1, 0, 0, 0, 0.5, 0.5]]]
    assert grads[1].tolist() == [[[0, 0, 0, 0, -0.5, 0.5]]]


@every_path
@every_mode
def test_an_empty_batch_stays_empty(name, path):
    x = torch.zeros(0, 2, 4, requires_grad=True)
    _, other, value = inputs(name, Case((1, 2, 4), (3,), (1,), (1,), False), torch.float32)
    kw = {} if value is None else {other: value[:0] if other == "logit" else value}
    with on(path):
        y = window_pool(x, MODES[name][0], 3, 1, 1, **kw)
        assert y.shape == (0, 2, 4)
        assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


@every_path
def test_channels_last_stays_channels_last(path):
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    with on(path):
        for mode, kw in (("softmax", {}), ("gated", {"weight": torch.zeros(1, 2, 2)})):
            y = window_pool(x, mode, 2, **kw)
            assert y.is_contiguous(memory_format=torch.channels_last)
            (grad,) = torch.autograd.grad(y.sum(), x)
            assert grad.is_contiguous(memory_format=torch.channels_last)


GRAPHS = """
import torch
from torch._dynamo.backends.debugging import aot_eager
from lab.kernels import windows
from lab.kernels.window_pool import window_pool

filters = {"gated": torch.randn(1, 9), "tree": torch.randn(7, 9), "poset": torch.eye(9)}
graphs = []

def backend(graph, inputs):
    graphs.append(graph)
    return aot_eager(graph, inputs)

def calls(x):
    for mode in ("mean", "max", "softmax", "dsc", "lp", "mixed", "mean_minus_x", "gated", "tree", "poset"):
        yield mode, {"weight": filters[mode]} if mode in filters else {}
    yield "softmax", {"logit": x.detach()[:, :1]}

for step in range(11):
    torch._dynamo.reset()
    graphs.clear()
    seen = 0
    compiled = torch.compile(window_pool, fullgraph=True, dynamic=True, backend=backend)
    for size in ((2, 3, 6, 8), (3, 4, 9, 7)):
        x = torch.randn(size, requires_grad=True)
        mode, kw = list(calls(x))[step]
        pair = [f(x, mode, 3, 1, 1, **kw) for f in (compiled, window_pool)]
        torch.testing.assert_close(*pair)
        torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in pair))
        seen = seen or len(graphs)  # dynamo may start over while it learns that a number is fixed
    assert len(graphs) == seen, mode
    print("one graph", mode)

x = torch.randn(2, 3, 1, 5, 4).to(memory_format=torch.channels_last_3d).requires_grad_()
geometry = windows.plan(x[:, :, 0], (2, 2), (2, 1), (1, 0), True).flat()
scale = (torch.rand(3) + 1).requires_grad_()
logit, ops = torch.randn_like(x, requires_grad=True), torch.ops.lab
for mode, logit, s in (("softmax", None, None), ("softmax", logit, None), ("lp", None, scale), ("max", None, None),
                       ("mixed", None, scale)):
    arguments = x, logit, s, geometry, mode, 1e-6, 1 if s is None else 2, False
    torch.library.opcheck(ops.window_reduce.default, arguments)
def means(x, p, alpha):
    return window_pool(x, "lp", 2, p=p), window_pool(x, "mixed", 2, alpha=alpha)

compiled = torch.compile(means, fullgraph=True, backend=backend)
good, ones = torch.tensor([2.0, 0.5]), torch.ones(1, 2, 4, 4)
for wrong in torch.tensor([[0.0, -1.0], [float("inf"), float("nan")]]):
    assert [y.isnan().all().item() for y in compiled(ones, wrong, wrong - 1)] == [True, True]
torch.testing.assert_close(compiled(ones, good, good / 2), means(ones, good, good / 2))
print("nan for what cannot be refused")

half = x.detach().bfloat16().requires_grad_()
for mode in ("softmax", "dsc"):
    torch.library.opcheck(ops.window_reduce.default, (half, None, None, geometry, mode, 1e-6, 1, False))
for mode, rows in (("gated", 1), ("tree", 3)):
    arguments = x, torch.randn(rows, 4, requires_grad=True), geometry, mode, True, False
    torch.library.opcheck(ops.window_filter.default, arguments)
print("contract")
"""


def plain(program, monkeypatch, tmp_path):
    """The output of a program in which neither Triton's interpreter nor the shape types are on."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_mode_compiles_in_one_graph_for_any_size(monkeypatch, tmp_path):
    """And the ops keep torch.library's contract: fake outputs like the real ones, gradients through a dynamic graph.

    In a graph, as on a GPU, p and alpha are not looked at, which would wait: out of range they give NaN, no plausible
    number.
    """
    output = plain(GRAPHS, monkeypatch, tmp_path)
    assert output.count("one graph") == 11
    assert "nan for what cannot be refused" in output
    assert "contract" in output


@pytest.mark.parametrize("fused", [False, True], ids=["torch", "triton"])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("mode", reductions.MODES + window_filters.MODES)
def test_no_op_writes_to_its_inputs_or_returns_one(mode, side, fused):
    """torch.library's schema test of the forward and the backward op; with windows of one an input is the result."""
    x = torch.randn(2, 3, 1, 5, 4)
    geometry = windows.plan(x[:, :, 0], side, 1, side // 2, False).flat()
    scale = torch.rand(3) if mode in {"lp", "mixed"} else None
    weight = torch.rand({"gated": 1, "tree": 3, "poset": 5}.get(mode, 0), side**2)
    if mode in window_filters.MODES:
        forward, backward = torch.ops.lab.window_filter.default, torch.ops.lab.window_filter_backward.default
        arguments = x, weight, geometry, mode, True, fused
        y, *kept = forward(*arguments)
        back = y, x, weight, *kept, geometry, mode, fused, mode != "poset"
    else:
        forward, backward = torch.ops.lab.window_reduce.default, torch.ops.lab.window_reduce_backward.default
        arguments = x, None, scale, geometry, mode, 1e-6, 1 if scale is None else 2, fused
        y, *kept = forward(*arguments)
        back = torch.randn_like(y), x, None, scale, y, *kept, geometry, mode, 1e-6, fused
    assert torch.library.opcheck(forward, arguments, test_utils="test_schema") == {"test_schema": "SUCCESS"}
    assert torch.library.opcheck(backward, back, test_utils="test_schema") == {"test_schema": "SUCCESS"}


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from lab.kernels import window_filters_triton, window_pool_triton
STRIDES, SIZES = ("i32",) * 5, ("i32",) * 3
SHORT = {  # loops unrolled
    "1d": dict(K=(1, 1, 3), S=(1, 1, 2), P=(0, 0, 1), LAST=False, ROWS=4, COLS=128),
    "2d": dict(K=(1, 3, 2), S=(1, 2, 1), P=(0, 1, 1), LAST=False, ROWS=4, COLS=128),
    "2d channels last": dict(K=(1, 2, 2), S=(1, 1, 2), P=(0, 1, 0), LAST=True, ROWS=4, COLS=128),
    "3d": dict(K=(2, 2, 2), S=(1, 2, 2), P=(1, 0, 1), LAST=False, ROWS=8, COLS=64),
}
LONG = {  # 18 offsets a window, 18 windows a position: loops left as they are
    "2d": dict(K=(1, 3, 6), S=(1, 1, 1), P=(0, 0, 3), LAST=False, ROWS=4, COLS=128),
    "3d channels last": dict(K=(2, 3, 3), S=(1, 1, 1), P=(0, 1, 1), LAST=True, ROWS=8, COLS=64),
}
POINTERS = {"x", "logit", "scale", "y", "kept", "dy", "dx", "dlogit", "weight", "partial"}
FULL = {"kept", "scale", "weight", "partial"}
turns = {}

def build(kernel, **constants):
    turn = turns[kernel] = turns.get(kernel, -1) + 1
    for loops, geometries in (("unrolled", SHORT), ("rolled", LONG)):
        name = list(geometries)[turn % len(geometries)]
        one(kernel, loops, name, constants | geometries[name])

def one(kernel, loops, geometry, constants):
    signature = {}
    unrounded = {"y"} if kernel.__name__ == "backward" else set()
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    for name in kernel.arg_names:
        if name in constants: signature[name] = "constexpr"
        elif name in POINTERS: signature[name] = "*fp32" if name in FULL | unrounded else "*bf16"
        elif name.endswith("_at"): signature[name] = STRIDES
        elif name in {"size", "out"}: signature[name] = SIZES
        else: signature[name] = "fp32" if name == "eps" else "i32"
    text = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert ".target sm_90" in text and "atom." not in text and "red.global" not in text
    body = [str(constants.get(name)) for name in ("MODE", "OWN", "KEEP", "R", "R_PAD")]
    where = kernel.fn.__module__.split(".")[-1]
    print("ok", where, kernel.__name__, *body, "|", loops, "|", geometry, "|", constants["LAST"])

for mode, own, keep in (("mean", True, 0), ("max", True, 1), ("lp", True, 2), ("softmax", True, 2),
                        ("softmax", False, 2), ("dsc", True, 4), ("mixed", True, 2), ("mean_minus_x", True, 0)):
    build(window_pool_triton.forward, MODE=mode, OWN=own, KEEP=keep)
    build(window_pool_triton.backward, MODE=mode, OWN=own)
for mode, rows, padded in (("gated", 1, 1), ("tree", 3, 4), ("tree", 7, 8), ("poset", 16, 16)):
    build(window_filters_triton.forward, MODE=mode, R=rows, R_PAD=padded, KEEP=True)
    build(window_filters_triton.backward, MODE=mode, R=rows)
    if mode != "poset":
        build(window_filters_triton.weight_gradient, R=rows, R_PAD=padded)
"""


def test_every_mode_and_geometry_compiles_for_sm_90(tmp_path, monkeypatch):
    """Without a GPU, and with neither atomics nor reductions to memory in the result.

    What a kernel's code depends on are its body (mode, whose logits, what is kept, how many filters), whether its loops
    are unrolled, and in which of two ways a tile lies; the sides of a window are numbers in the same lines. Every body
    is compiled with its loops unrolled and left, and geometries take turns, so that every kernel meets each.
    """
    lines = [line.removeprefix("ok ").split(" | ") for line in plain(COMPILE, monkeypatch, tmp_path).splitlines()]
    bodies = {body for body, *_ in lines}
    assert len(bodies) == 8 * 2 + 4 * 2 + 3
    assert {(body, loops) for body, loops, *_ in lines} == set(itertools.product(bodies, ("unrolled", "rolled")))
    kernels = {" ".join(body.split()[:2]) for body in bodies}
    assert len(kernels) == 5
    met = {(" ".join(body.split()[:2]), loops, last) for body, loops, _, last in lines}
    assert met == set(itertools.product(kernels, ("unrolled", "rolled"), ("True", "False")))


X = torch.zeros(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("x", "mode", "args", "kw", "says"),
    [
        (X, "median", (2,), {}, "mode must be one of .*'softmax'.*got 'median'"),
        (X, "max", (5,), {}, r"kernel_size must fit.*\(4, 4\).*got \(5, 5\)"),
        (X, "max", (0,), {}, "kernel_size must be.*>= 1; got 0"),
        (X, "max", ((2, 2, 2),), {}, r"kernel_size must be an int or 2.*got \(2, 2, 2\)"),
        (X, "max", (2, 0), {}, "stride must be.*>= 1; got 0"),
        (X, "max", (2, 1, -1), {}, "padding must be.*>= 0; got -1"),
        (X, "max", (2, 1, 2), {}, r"padding must be at most half.*\(2, 2\); got \(2, 2\)"),
        (X, "lp", (2,), {"p": 0.0}, "p must be > 0; got 0.0"),
        (X, "lp", (2,), {"p": float("nan")}, "p must be > 0; got nan"),
        (X, "lp", (2,), {"p": torch.tensor(0.0)}, "p must be > 0; got 0.0"),
        (X, "lp", (2,), {"p": torch.tensor([1.0, -1.0])}, "p must be > 0; got -1.0"),
        (X, "lp", (2,), {"p": torch.tensor([1.0, torch.nan])}, "p must be > 0; got nan"),
        (X, "lp", (2,), {"p": math.inf}, "p must be finite.*mode 'max'.*got inf"),
        (X, "lp", (2,), {"p": torch.tensor(torch.inf)}, "p must be finite.*mode 'max'.*got inf"),
        (X, "lp", (2,), {"p": 1e300}, "p must be finite in torch.float32.*got 1e"),
        (X, "lp", (2,), {"p": torch.ones(3)}, r"p must be one number or 2.*got \(3,\)"),
        (X, "lp", (2,), {"eps": 0.0}, "eps must be in .*float32; got 0.0"),
        (X, "lp", (2,), {"eps": -1.0}, "eps must be in .*got -1.0"),
        (X, "lp", (2,), {"eps": math.nan}, "eps must be in .*got nan"),
        (X, "lp", (2,), {"eps": 1e-60}, "eps must be in .*got 1e-60"),
        (X, "mixed", (2,), {"alpha": 1.5}, r"alpha must be in \[0, 1\]; got 1.5"),
        (X, "mixed", (2,), {"alpha": torch.tensor(5.0)}, r"alpha must be in \[0, 1\]; got 5.0"),
        (X, "mixed", (2,), {"alpha": torch.tensor([0.5, -0.5])}, r"alpha must be in \[0, 1\]; got \[-0.5, 0.5\]"),
        (X, "mixed", (2,), {"alpha": torch.tensor([0.5, math.nan])}, r"alpha must be in \[0, 1\]; got"),
        (X, "max", (True,), {}, "kernel_size must be an int.*got True"),
        (X, "max", ((2, True),), {}, r"kernel_size must be an int.*got \(2, True\)"),
        (X, "softmax", (2,), {"logit": torch.zeros(1, 3, 4, 4)}, r"broadcasts to x \(1, 2, 4, 4\); got \(1, 3, 4, 4\)"),
        (X, "max", (2,), {"logit": X}, "logit goes with softmax.*'max'"),
        (X, "mean_minus_x", (2,), {}, "keeps the input's size"),
        (X, "gated", (2,), {}, "gated needs a weight.*got none"),
        (X, "tree", (2,), {"weight": torch.zeros(4, 2, 2)}, r"R = 3 or 7.*got \(4, 2, 2\)"),
        (X, "max", (2,), {"weight": torch.zeros(1, 2, 2)}, "weight goes with"),
        (torch.zeros(2, 3), "max", (2,), {}, r"1 to 3 spatial axes.*got \(2, 3\)"),
        (X.long(), "max", (2,), {}, "float type.*int64"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_calls_are_refused(x, mode, args, kw, says):
    """Asked of the function behind the shape types, which would answer some of these first."""
    with pytest.raises(ValueError, match=says):
        getattr(window_pool, "__wrapped__", window_pool)(x, mode, *args, **kw)
