"""One contract for every normalizer, drawn: the formula in decimals, masks, empty rows, gradients, halves, blocks."""

import pytest
import torch
from formulas import FORMULAS, by_formula
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.attention import NORMALIZERS
from lab.attention.normalizer import wants

NAMES = sorted(NORMALIZERS)
SHIFTLESS = {
    "softmax", "ssmax", "adaptive_temperature", "sparsemax", "entmax15", "entmax", "ssa", "mta", "gated"
}  # fmt: skip
WHOLE_ROWS = {"adaptive_temperature", "sparsemax", "entmax15", "entmax", "lssar", "mta"}


@st.composite
def rows(draw, dtype=torch.float64):
    """Scores [B, H, Tq, Tk] and a mask [B, 1, Tq, Tk] in which some rows see nothing."""
    B, H, Tq, Tk = (draw(st.integers(1, n)) for n in (2, 3, 4, 9))
    g = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    scores = draw(st.sampled_from([0.3, 2.0, 6.0])) * torch.randn(B, H, Tq, Tk, generator=g, dtype=torch.float64)
    mask = torch.rand(B, 1, Tq, Tk, generator=g) < draw(st.sampled_from([0.5, 1.0]))
    mask[0, 0, draw(st.integers(0, Tq - 1))] &= draw(st.booleans())
    return scores.to(dtype), mask


def poisoned(scores, mask):
    """NaN and infinities where nothing may be read."""
    bad = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=scores.dtype)
    return torch.where(mask, scores, bad[torch.arange(scores.shape[-1]) % 3])


def test_every_normalizer_has_a_formula_here():
    assert set(FORMULAS) == set(NORMALIZERS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12)
@given(data=st.data())
def test_weights_are_the_formulas(name, dtype, data):
    scores, mask = data.draw(rows(dtype))
    got = NORMALIZERS[name](poisoned(scores, mask), mask)
    want = by_formula(FORMULAS[name], scores, mask)
    assert got.dtype == dtype
    assert (got[~mask.expand(got.shape)] == 0).all()
    inside = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    # a logit's rounding is relative to the logit, at most 6 * 4 * log 9 * 1.5 of them here, and a power of 8 or 3 of it
    rounding = 256 * inside * want.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
    bound = want.abs() * torch.finfo(dtype).eps + rounding + torch.finfo(dtype).smallest_normal
    want = want.to(dtype).double()  # where it is beyond the type's range it is inf in both
    assert ((got.double() == want) | ((got.double() - want).abs() <= bound)).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(data=st.data())
def test_gradients_are_those_of_the_weights(name, data):
    scores, mask = data.draw(rows())
    scores = scores.clamp(-8, 8).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: NORMALIZERS[name](s, mask), scores, eps=1e-6, atol=1e-6, rtol=1e-4, nondet_tol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_gradients(name):
    scores = torch.tensor([[0.3, -0.7, 1.9, 0.95, 0.1], [1.2, 0.4, -0.2, 0.8, 2.1]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True], [True] * 5])
    assert torch.autograd.gradgradcheck(lambda s: NORMALIZERS[name](s[None, None], mask), scores.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_float32_gradients_are_those_of_float64(name, data):
    scores, mask = data.draw(rows(torch.float32))
    towards = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    got, want = (gradient(NORMALIZERS[name], scores.to(t), mask, towards.to(t)) for t in (torch.float32, torch.float64))
    bound = 2000 * torch.finfo(torch.float32).eps * want.abs().max().clamp(min=1)
    assert (got.double() - want).abs().max() <= bound


def gradient(function, scores, mask, towards):
    scores = scores.clone().requires_grad_()
    (function(scores, mask) * towards).sum().backward()
    return scores.grad


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_what_is_masked_is_never_read(name, data):
    scores, mask = data.draw(rows(torch.float32))
    towards = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    clean, bad = scores, poisoned(scores, mask)
    assert torch.equal(NORMALIZERS[name](bad, mask), NORMALIZERS[name](clean, mask))
    grad = gradient(NORMALIZERS[name], bad, mask, towards)
    assert torch.equal(grad, gradient(NORMALIZERS[name], clean, mask, towards))
    assert (grad[~mask.expand(grad.shape)] == 0).all()


EXTREMES = [
    [-torch.inf] * 4, [0.0] * 4, [1.0] * 4, [5.0] * 4, [-5.0] * 4, [1e4] * 4, [-1e4] * 4, [1e4, -1e4, 0.0, 1.0],
    [0.0, 1.0, 0.0, -torch.inf], [1.0, 1.0, -1.0, 0.0], [1e4, 1e4, 9999.0, -1e4], [-1e4, -1e4, -9999.0, -torch.inf],
    [-90.0, -100.0, -120.0, -89.0], [1e-6, -1e-6, 2e-6, 0.0], [1e-30, 0.0, 0.0, 0.0],
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_extremes_are_the_formulas(name, dtype):
    scores = torch.tensor(EXTREMES, dtype=dtype)[None, None].requires_grad_()
    got = NORMALIZERS[name](scores)
    want = by_formula(FORMULAS[name], scores.detach(), torch.ones(1, 1, 1, 4, dtype=torch.bool))
    if name == "lssar":  # log(1 + e^x) of 1e-6 or 1e-30 is, in this many digits, little or nothing else than log 2
        got, want = got[..., :-2, :], want[..., :-2, :]
    # a difference of 1 between logits of 1e4 keeps 1e4 eps of its digits, times log 4 for those that scale by length
    torch.testing.assert_close(got.double(), want, rtol=4e4 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)
    (got * torch.arange(1.0, 5)).sum().backward()
    assert got.isfinite().all()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_row_sums_to_what_is_said(name, data):
    scores, mask = data.draw(rows())
    weights, mass = NORMALIZERS[name](scores, mask), NORMALIZERS[name].mass
    total, sees = weights.sum(-1), mask.any(-1).expand(scores.shape[:-1])
    assert (total[~sees] == 0).all()
    if mass == "any":
        return
    assert (weights >= 0).all()
    assert (total <= 1 + 1e-12).all()
    if mass == "1" and name != "linear":  # similarities given as scores may all be negative
        assert (total[sees] >= 1 - 1e-12).all()


@pytest.mark.parametrize("name", NAMES)
def test_mass_is_claimed_no_lower_than_it_is(name):
    """The converse: what may sum to less than 1 does, and what may sum to anything leaves [0, 1]."""
    scores = torch.tensor([[-1.0, -0.5, -2.0, -0.1], [3.0, 2.5, 9.0, 4.0], [0.5] * 4], dtype=torch.float64)
    kernel = {"kernel": torch.eye(2), "mix": torch.full((1, 1, 1), 2.0)} if name == "mta" else {}
    weights = NORMALIZERS[name](scores[None], **kernel)
    total = weights.sum(-1)
    lower, beyond = bool((total < 0.99).any()), bool(((total > 1.01) | (weights < 0).any(-1)).any())
    assert (lower or beyond) == (NORMALIZERS[name].mass != "1" or name == "linear")
    assert beyond == (NORMALIZERS[name].mass == "any")


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_keys_may_come_in_any_order(name, data):
    scores, mask = data.draw(rows())
    order = torch.randperm(scores.shape[-1], generator=torch.Generator().manual_seed(3))
    extra = {}
    if "positions" in wants(NORMALIZERS[name].form):
        places = torch.arange(scores.shape[-1])
        extra = {"positions": (places[-scores.shape[-2] :], places)}
        if scores.shape[-2] > scores.shape[-1]:
            return
    moved = {"positions": (extra["positions"][0], extra["positions"][1][order])} if extra else {}
    got = NORMALIZERS[name](scores[..., order], mask[..., order], **moved)
    torch.testing.assert_close(got, NORMALIZERS[name](scores, mask, **extra)[..., order], rtol=1e-9, atol=1e-12)


def test_places_matter_to_a_convolution_and_to_slopes():
    scores, order = torch.randn(1, 2, 4, 6), torch.tensor([1, 0, 2, 3, 5, 4])
    kernel = {"kernel": torch.rand(2, 2, 3)}
    for name, extra in {"mta": kernel, "swat": {}}.items():
        moved = NORMALIZERS[name](scores[..., order], **extra)
        assert (moved - NORMALIZERS[name](scores, **extra)[..., order]).abs().max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_of_the_scores_is_seen_by_those_it_should(name):
    scores = torch.tensor([[0.2, -1.0, 1.5, 0.7, -0.3]], dtype=torch.float64)
    moved = (NORMALIZERS[name](scores + 2) - NORMALIZERS[name](scores)).abs().max()
    assert (moved < 1e-9) == (name in SHIFTLESS)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), block=st.integers(1, 9))
def test_blocks_of_keys_give_the_whole_row(name, data, block):
    scores, mask = data.draw(rows(torch.float32))
    assert (NORMALIZERS[name].stream is None) == (name in WHOLE_ROWS)
    stream = NORMALIZERS[name].stream
    if stream is None:
        return
    scores, n = poisoned(scores, mask), mask.sum(-1, keepdim=True).clamp(min=1)
    values = torch.randn(*scores.shape[:2], scores.shape[-1], 3)
    places = torch.arange(scores.shape[-1])
    queries = torch.arange(scores.shape[-2]) + scores.shape[-1] - scores.shape[-2]
    sums = None
    for part in places.split(block):
        # head for head slopes are told by the whole, positions by the block
        extra = {"positions": (queries, part)} if name == "swat" else {}
        seen = mask[..., part].expand(*scores.shape[:-1], len(part))
        sums = stream.take(sums, scores[..., part], seen, values[..., part, :], n, **extra)
    want = NORMALIZERS[name](scores, mask) @ values
    size = NORMALIZERS[name](scores, mask).abs() @ values.abs()
    assert (stream.finish(sums) - want).abs().le(64 * torch.finfo(torch.float32).eps * (size + size.max())).all()


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("softmax", {"sink": 0.3}), ("softmax1", {"extra": 2.5}), ("softmax1", {"extra": 0.0}),
        ("sink_logit", {"sink": -1.2}), ("ssmax", {"s": 0.7}), ("ssa", {"spike": -0.4, "length": 0.2}),
        ("softpick", {"eps": 0.5}), ("recurrent", {"order": 4}), ("recurrent_norm", {"order": 3}),
        ("recurrent_gate", {"order": 1}),
    ],
)  # fmt: skip
def test_blocks_take_the_same_parameters(name, parameter):
    scores, values = 3 * torch.randn(2, 5, 7), torch.randn(2, 7, 3)
    sums, stream = None, NORMALIZERS[name].stream
    for part in torch.arange(7).split(3):
        seen = torch.ones(2, 5, len(part), dtype=torch.bool)
        sums = stream.take(sums, scores[..., part], seen, values[:, part], torch.tensor(7).expand(2, 5, 1), **parameter)
    want = NORMALIZERS[name](scores, **parameter) @ values
    assert (NORMALIZERS[name](scores, **parameter) - NORMALIZERS[name](scores)).abs().max() > 1e-3
    torch.testing.assert_close(stream.finish(sums), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("softmax", {"sink": torch.randn(2, 1, 1)}), ("sink_logit", {"sink": torch.randn(2, 1, 1)}),
        ("ssmax", {"s": torch.rand(2, 1, 1)}), ("sigmoid", {"bias": torch.randn(2, 1, 1)}),
        ("swat", {"slopes": torch.randn(2, 1, 1)}), ("entmax", {"alpha": 1.2 + torch.rand(2, 1, 1) / 2}),
        ("ssa", {"spike": torch.rand(3, 2, 4, 1), "length": torch.rand(2, 1, 1)}),
        ("mta", {"kernel": torch.randn(2, 2, 3), "mix": torch.randn(1, 2, 2), "after_kernel": torch.randn(2, 3, 4)}),
    ],
)  # fmt: skip
def test_parameters_get_their_gradients(name, parameters):
    scores = torch.randn(3, 2, 4, 5, dtype=torch.float64).requires_grad_()
    mask = torch.rand(3, 1, 4, 5) < 0.8
    mask[0, 0, 1] = False
    free = [p.double().requires_grad_() for p in parameters.values()]

    def weights(s, *values):
        return NORMALIZERS[name](s, mask, **dict(zip(parameters, values, strict=True)))

    assert torch.autograd.gradcheck(weights, (scores, *free))
    half = {key: p.half() for key, p in parameters.items()}
    assert NORMALIZERS[name](scores.detach().half(), mask, **half).dtype == torch.float16


@pytest.mark.parametrize("name", NAMES)
def test_layout_and_input_are_left_alone(name):
    scores = torch.randn(2, 5, 3, 4).transpose(1, 3)  # [2, 4, 3, 5], strided
    before = scores.clone()
    torch.testing.assert_close(NORMALIZERS[name](scores), NORMALIZERS[name](scores.contiguous()))
    assert torch.equal(scores, before)
    if name != "mta":
        torch.testing.assert_close(NORMALIZERS[name](scores[0, 0, -1]), NORMALIZERS[name](scores[:1, :1])[0, 0, -1])
    assert NORMALIZERS[name](torch.zeros(1, 2, 0, 5)).shape == (1, 2, 0, 5)


@pytest.mark.parametrize(
    ("scores", "mask", "error", "says"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), None, TypeError, "float type.*int64"),
        ([[0.0]], None, TypeError, "got list"),
        (torch.zeros(()), None, ValueError, "single number"),
        (torch.zeros(2, 3), torch.ones(2, 3), TypeError, "mask must be bool.*float32"),
        (torch.zeros(2, 3), [True], TypeError, "got list"),
        (torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool), ValueError, r"broadcast.*\(2, 3\).*\(2, 4\)"),
        (torch.zeros(3), torch.ones(1, 3, dtype=torch.bool), ValueError, "broadcast"),
    ],
)
def test_what_is_no_row_is_refused(scores, mask, error, says):
    with pytest.raises(error, match=says):
        NORMALIZERS["softmax"](scores, mask)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("softmax", {"alpha": 1.5}, "no parameter.*alpha.*sink"),
        ("softmax1", {"extra": -1.0}, "0 or more; got -1"),
        ("softpick", {"eps": 0.0}, "must be positive; got 0"),
        ("entmax", {"alpha": 2.1}, "from 1, softmax, to 2, sparsemax; got 2.1"),
        ("entmax", {"alpha": 0.9}, "got 0.9"),
        ("lssar", {"power": 0.5}, "1 or more; got 0.5"),
        ("recurrent", {"order": 3}, "even order.*got 3"),
        ("recurrent_norm", {"order": 0}, "1 to 32; got 0"),
        ("swat", {"window": 0}, "got 0"),
        ("mta", {"kernel": torch.ones(3, 2, 2)}, r"one for each head; got \[3, 2, 2\]"),
        ("mta", {"mix": torch.ones(2, 2, 2)}, "for the 2 heads"),
    ],
)
def test_a_wrong_parameter_is_refused(name, wrong, says):
    with pytest.raises(ValueError, match=says):
        NORMALIZERS[name](torch.zeros(1, 2, 3, 4), **wrong)


def test_a_convolution_needs_queries():
    with pytest.raises(ValueError, match=r"\[\.\.\., Tq, Tk\]"):
        NORMALIZERS["mta"](torch.zeros(4))


def test_each_says_what_it_is():
    for name, normalizer in NORMALIZERS.items():
        assert normalizer.formula
        assert "https://" in normalizer.source, name
