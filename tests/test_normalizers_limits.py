"""What the papers prove of them: limits, projections, losses, recurrences; and peers' code where it is right."""

import itertools

import entmax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lab.attention import NORMALIZERS
from lab.attention.sparse import sparsemax_loss

draws = st.integers(0, 99).map(lambda seed: torch.Generator().manual_seed(seed))


def normal(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@given(g=draws)
def test_entmax_goes_from_softmax_to_sparsemax(g):
    scores = 2 * normal(3, 8, generator=g)
    entmax_at = [NORMALIZERS["entmax"](scores, alpha=a) for a in (1.0, 1.5, 2.0)]
    torch.testing.assert_close(entmax_at[0], scores.softmax(-1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(entmax_at[1], NORMALIZERS["entmax15"](scores))
    torch.testing.assert_close(entmax_at[2], NORMALIZERS["sparsemax"](scores))
    by_row = torch.tensor([[1.0], [1.5], [2.0]], dtype=torch.float64)
    for row in range(3):
        torch.testing.assert_close(NORMALIZERS["entmax"](scores, alpha=by_row)[row], entmax_at[row][row])


@pytest.mark.parametrize("alpha", [1.01, 1.25, 1.5, 1.9, 2.0])
@pytest.mark.parametrize("n", [1, 2, 33, 500])
def test_sparse_rows_are_the_peers(alpha, n):
    scores = 2 * torch.randn(4, n, dtype=torch.float64)
    got = NORMALIZERS["entmax"](scores, alpha=alpha)
    torch.testing.assert_close(got, entmax.entmax_bisect(scores, alpha=alpha, n_iter=80), rtol=1e-6, atol=1e-9)
    exact = {1.5: entmax.entmax15, 2.0: entmax.sparsemax}
    if alpha in exact:
        torch.testing.assert_close(got, exact[alpha](scores), rtol=1e-9, atol=1e-12)
    a, b = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    towards = torch.randn_like(scores)
    (NORMALIZERS["entmax"](a, alpha=alpha) * towards).sum().backward()
    (entmax.entmax_bisect(b, alpha=alpha, n_iter=80) * towards).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("alpha", [1.0, 1.1, 1.5, 2.0])
@pytest.mark.parametrize("n", [1, 64, 4096])
def test_a_long_float32_row_sums_to_one(alpha, n):
    for scale in (1e-3, 1.0, 30.0):
        weights = NORMALIZERS["entmax"](scale * torch.randn(3, n), alpha=alpha).double()
        want = NORMALIZERS["entmax"]((scale * torch.randn(3, n)).double(), alpha=alpha)
        assert (weights.sum(-1) - 1).abs().max() < 1e-5
        assert (want.sum(-1) - 1).abs().max() < 1e-12


@given(g=draws)
def test_sparsemax_is_the_nearest_point_of_the_simplex(g):
    z = normal(7, generator=g)
    p = NORMALIZERS["sparsemax"](z)
    others = torch.distributions.Dirichlet(torch.ones(7, dtype=torch.float64)).sample((200,))
    closer = torch.lerp(p, others, 0.01)
    assert ((p - z).square().sum() <= (closer - z).square().sum(-1)).all()
    assert ((NORMALIZERS["entmax15"](z) - z).square().sum() > (p - z).square().sum()) or (p.max() == 1)


@given(g=draws)
def test_the_jacobian_of_sparsemax_takes_the_mean_of_its_support_away(g):
    z, v = normal(9, generator=g).requires_grad_(), normal(9, generator=g)
    p = NORMALIZERS["sparsemax"](z)
    support = (p > 0).double()
    got = torch.autograd.grad(p, z, v)[0]
    torch.testing.assert_close(got, support * (v - (v * support).sum() / support.sum()))


@given(g=draws)
def test_sparsemax_loss_is_zero_where_it_should_be_and_has_its_gradient(g):
    z = normal(4, 6, generator=g).requires_grad_()
    y = torch.rand(4, 6, generator=g, dtype=torch.float64).softmax(-1)
    assert torch.autograd.gradcheck(lambda s: sparsemax_loss(s, y), z)
    loss = sparsemax_loss(z, y)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), z)[0], NORMALIZERS["sparsemax"](z) - y)
    assert (loss > 0).all()
    assert sparsemax_loss(z, NORMALIZERS["sparsemax"](z).detach()).abs().max() < 1e-12
    classes = torch.tensor([0, 5, 2, 2])
    torch.testing.assert_close(
        sparsemax_loss(z, classes), entmax.SparsemaxLoss(reduction="none")(z, classes), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(sparsemax_loss(z + 1e4, classes), sparsemax_loss(z, classes), rtol=1e-9, atol=1e-10)


def test_sparsemax_loss_of_two_classes_is_hubers():
    d = torch.linspace(-3, 3, 61, dtype=torch.float64)
    loss = sparsemax_loss(torch.stack([d, torch.zeros_like(d)], -1), torch.zeros(61, dtype=torch.int64))
    want = torch.where(d >= 1, 0, torch.where(d <= -1, -d, (1 - d) ** 2 / 4))
    torch.testing.assert_close(loss, want)


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        (torch.tensor([0, 3]), ValueError, "0 to 2; got 0 to 3"),
        (torch.tensor([-1, 1]), ValueError, "got -1"),
        (torch.tensor([0]), ValueError, r"\(2,\).*\(1,\)"),
        (torch.ones(2), ValueError, r"\(2, 3\)"),
    ],
)
def test_a_target_that_is_none_is_refused(target, error, says):
    with pytest.raises(error, match=says):
        sparsemax_loss(torch.zeros(2, 3), target)
    with pytest.raises(TypeError, match="float tensor"):
        sparsemax_loss(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]))


@given(g=draws)
def test_softmax1_is_softmax_beside_a_zero(g):
    scores = normal(4, 6, generator=g)
    beside = torch.cat([scores, torch.zeros(4, 1, dtype=torch.float64)], -1).softmax(-1)[:, :-1]
    torch.testing.assert_close(NORMALIZERS["softmax1"](scores), beside)
    torch.testing.assert_close(NORMALIZERS["softmax1"](scores, extra=0.0), scores.softmax(-1))
    torch.testing.assert_close(NORMALIZERS["sink_logit"](scores), beside)


def test_a_constant_temperature_is_softmax():
    scores = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(NORMALIZERS["ssa"](scores, spike=0.0, length=0.0), scores.softmax(-1))
    torch.testing.assert_close(NORMALIZERS["ssa"](scores, spike=0.7, length=0.0), (1.7 * scores).softmax(-1))
    spikes = torch.linspace(-0.9, 0.9, 3, dtype=torch.float64)[:, None]
    entropy = torch.special.entr(NORMALIZERS["ssa"](scores[:1].expand(3, 5), spike=spikes)).sum(-1)
    assert (entropy.diff() < 0).all()


def test_identity_kernels_are_softmax_and_others_are_convolutions():
    scores, causal = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.ones(6, 6, dtype=torch.bool).tril()
    identity = torch.zeros(3, 5, dtype=torch.float64)
    identity[-1, 2] = 1
    same = NORMALIZERS["mta"](scores, causal, kernel=identity, mix=torch.eye(2).repeat(2, 1, 1), after_kernel=identity)
    torch.testing.assert_close(same, NORMALIZERS["softmax"](scores, causal))
    kernel = torch.randn(4, 2, 3, dtype=torch.float64)
    known = torch.zeros_like(scores)
    seen = scores.masked_fill(~causal, 0)
    for a in range(2):
        for b in range(3):
            for q in range(6):
                for k in range(6):
                    if q - 1 + a >= 0 and 0 <= k - 1 + b < 6:
                        known[:, :, q, k] += kernel[:, a, b] * seen[:, :, q - 1 + a, k - 1 + b]
    want = NORMALIZERS["softmax"](known, causal)
    torch.testing.assert_close(NORMALIZERS["mta"](scores, causal, kernel=kernel), want)
    mix = torch.randn(2, 2, 2, dtype=torch.float64)
    mixed = NORMALIZERS["mta"](scores, causal, kernel=kernel, mix=mix)
    torch.testing.assert_close(mixed[:, 3], mix[1, 1, 0] * want[:, 2] + mix[1, 1, 1] * want[:, 3])


def test_orders_of_the_series_lead_to_softmax():
    scores = 2 * torch.randn(5, 9, dtype=torch.float64)
    far = [(NORMALIZERS["recurrent"](scores, order=m) - scores.softmax(-1)).abs().max() for m in (2, 4, 8, 16, 32)]
    assert all(b < a for a, b in itertools.pairwise(far))
    assert far[-1] < 1e-9


def test_the_first_order_is_linear_attention_and_each_order_a_state():
    """Order 1 less order 0 is sum_j (q . k_j) v_j, read from the state sum_j k_j v_j^T as the keys come."""
    q, k, v = (normal(7, 3, generator=torch.Generator().manual_seed(i)) for i in range(3))
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    states = [torch.zeros(*[3] * m, 3, dtype=torch.float64) for m in range(3)]
    rows = {0: [], 1: [], 2: []}
    for t in range(7):
        powers = [torch.ones((), dtype=torch.float64), k[t], torch.einsum("a,b->ab", k[t], k[t])]
        states = [state + power[..., None] * v[t] for state, power in zip(states, powers, strict=True)]
        rows[0].append(states[0])
        rows[1].append(torch.einsum("a,ad->d", q[t], states[1]))
        rows[2].append(torch.einsum("a,b,abd->d", q[t], q[t], states[2]))
    order = {m: torch.stack(row) for m, row in rows.items()}
    gate = NORMALIZERS["recurrent_gate"]
    torch.testing.assert_close(gate(q @ k.T, causal, order=1) @ v, order[0] + order[1])
    torch.testing.assert_close(gate(q @ k.T, causal, order=2) @ v, order[0] + order[1] + order[2] / 2)
    whole = (q @ k.T).masked_fill(~causal, 0) @ v
    torch.testing.assert_close(gate(q @ k.T, causal, order=1) @ v - order[0], whole)


def test_linear_attention_is_its_recurrence():
    q, k, v = (normal(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    phi_q, phi_k = functional.elu(q) + 1, functional.elu(k) + 1
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    state, total, out = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), []
    for t in range(6):
        state, total = state + torch.outer(phi_k[t], v[t]), total + phi_k[t]
        out.append(phi_q[t] @ state / (phi_q[t] @ total))
    torch.testing.assert_close(NORMALIZERS["linear"](phi_q @ phi_k.T, causal) @ v, torch.stack(out))


def test_softmax_disperses_and_a_temperature_by_length_does_not():
    """One score of 4 among n of 0: its weight falls as 1 / n, but not under a temperature of log n."""
    weight = {}
    for n in (16, 4096):
        scores = torch.zeros(n, dtype=torch.float64)
        scores[0] = 4
        for name in ("softmax", "ssmax", "sparsemax", "lssar"):
            weight[name, n] = NORMALIZERS[name](scores)[0].item()
    assert weight["softmax", 16] > 0.7
    assert weight["softmax", 4096] < 0.02
    assert weight["ssmax", 4096] > weight["ssmax", 16] > 0.7
    assert weight["sparsemax", 4096] == 1
    assert weight["lssar", 4096] > 0.9
