"""Small classifiers: what they learn, that what is said of them on the way is so, and collapse where theory has it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lab
from lab import geometry
from lab.training import CLASSIFIER_LOSSES as LOSSES
from lab.training import ClassifierRecipe, classify, expected_lengths, free_features, mixed
from lab.training.classifier import Classifier

SMALL = ClassifierRecipe(hidden=(12, 8), steps=40, batch=32, rate=0.05)


def blobs(n=96, classes=3, seed=0, spread=0.4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, 6, generator=generator) * 2
    return centres[labels] + spread * torch.randn(n, 6, generator=generator), labels.numpy()


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_learns(loss):
    x, labels = blobs()
    run = classify(x, labels, replace(SMALL, loss=loss, steps=120), every=60, progress=False)
    assert run.curve.step.values.tolist() == [0, 60, 120]
    first, last = run.curve.loss.values[[0, -1]]
    assert last < 0.5 * first
    assert run.curve.nearest_centre[-1, -1] > 0.97
    assert run.curve.nc1[-1, -1] < 0.5 * run.curve.nc1[0, 0]
    if loss == "pairs":
        assert run.curve[["accuracy", "nc3", "nc4"]].to_array().isnull().all()
    else:
        assert run.curve.accuracy[-1] > 0.97
        assert run.accuracy(x, labels) == pytest.approx(float(run.curve.accuracy[-1]))


def test_what_is_said_of_the_end_is_what_the_model_holds():
    x, labels = blobs()
    run = classify(x, labels, replace(SMALL, linear=(7,)), progress=False)
    states = lab.capture.states(run.model, x, progress=False)
    assert states.width.values.tolist() == [6, 12, 8, 7]
    last = run.curve.isel(step=-1)
    seen = lab.geometry.measure(states, labels, progress=False).squeeze("pool")
    for name in ("nc1", "nc2_norms", "nc2_angles", "cdnv", "nearest_centre"):
        np.testing.assert_allclose(last[name], seen[name], rtol=1e-4)
    h = run.features(x)
    torch.testing.assert_close(h, torch.tensor(states.h.values[3, 0, :, :7]), rtol=1e-5, atol=1e-6)
    bias = run.model.model.head.bias
    scores = (h.double() @ run.weight.double().T + bias.double()).detach()
    assert float(last.loss) == pytest.approx(
        float(torch.nn.functional.cross_entropy(scores, torch.tensor(labels))), rel=1e-5
    )
    assert float(last.nc3) == pytest.approx(geometry.nc3(h, labels, weight=run.weight).item(), rel=1e-4)
    assert float(last.nc4) == pytest.approx(geometry.nc4(h, labels, weight=run.weight, bias=bias).item())


def test_linear_layers_are_linear_and_relu_layers_are_not():
    net = Classifier(6, 3, replace(SMALL, linear=(5, 4)))
    x = torch.randn(4, 8)
    straight = torch.nn.Sequential(*net.blocks[2:])
    torch.testing.assert_close(straight(2 * x - 1) + straight(torch.ones(4, 8)), 2 * straight(x))
    assert (net.blocks[1](net.blocks[0](torch.randn(9, 6))) >= 0).all()
    assert net.head.bias is not None
    assert Classifier(6, 3, replace(SMALL, bias=False)).head.bias is None


def test_losses_are_their_formulas():
    features, targets = torch.randn(5, 8), torch.eye(3)[[0, 1, 2, 1, 1]]
    soft = 0.9 * targets + 0.1 / 3
    net = Classifier(6, 3, SMALL)
    y = (features @ net.head.weight.T + net.head.bias).double().detach()
    assert LOSSES["mse"](net, features, soft).item() == pytest.approx(((y - soft) ** 2).sum(1).mean().item() / 2)
    want = -(soft * y.log_softmax(1)).sum(1).mean().item()
    assert LOSSES["cross_entropy"](net, features, soft).item() == pytest.approx(want, rel=1e-5)
    cosine = Classifier(6, 3, replace(SMALL, loss="normalized", scale=7.0))
    units = [t / t.norm(dim=1, keepdim=True) for t in (features, cosine.head.weight)]
    torch.testing.assert_close(cosine.scores(features), 7 * units[0] @ units[1].T)
    torch.testing.assert_close(cosine.scores(3 * features), cosine.scores(features))
    u, kind = units[0].double().numpy(), targets.argmax(1).numpy()
    near, far = [], []
    for i in range(5):
        for j in range(5):
            d = np.linalg.norm(u[i] - u[j])
            if i != j:
                (near if kind[i] == kind[j] else far).append(d**2 if kind[i] == kind[j] else max(0, 1 - d) ** 2)
    assert LOSSES["pairs"](net, features, targets).item() == pytest.approx(np.mean(near) + np.mean(far), rel=1e-5)


def test_pairs_of_one_kind_and_equal_rows_have_gradients():
    net, same = Classifier(6, 3, SMALL), torch.eye(3)[[1, 1, 1]]
    features = torch.ones(3, 8, requires_grad=True)
    LOSSES["pairs"](net, features, same).backward()
    assert features.grad.isfinite().all()
    LOSSES["pairs"](net, features, torch.eye(3)).backward()
    assert features.grad.isfinite().all()


def test_targets_are_smoothed_and_mixed(monkeypatch):
    x, labels = blobs()
    seen = []
    kept = LOSSES["mse"]
    monkeypatch.setitem(LOSSES, "mse", lambda net, h, t: seen.append(t) or kept(net, h, t))
    classify(x, labels, replace(SMALL, loss="mse", smoothing=0.3, steps=1), progress=False)
    batch = seen[1]  # the first look is at the plain targets
    assert sorted(set(batch.flatten().tolist())) == pytest.approx([0.1, 0.8])
    assert set(seen[0].flatten().tolist()) == set(seen[2].flatten().tolist()) == {0.0, 1.0}
    seen.clear()
    classify(x, labels, replace(SMALL, loss="mse", mixup=1.0, steps=1), progress=False)
    torch.testing.assert_close(seen[1].sum(1), torch.ones(32))
    assert ((seen[1] > 0.01) & (seen[1] < 0.99)).any()


def test_mixed_rows_are_between_two():
    x = torch.randn(50, 4)
    both = mixed(x, 0.5, seed=[1, 2])
    share = both.share[:, None]
    torch.testing.assert_close(both.x, share * x[both.first] + (1 - share) * x[both.second])
    assert sorted(both.second.tolist()) == list(range(50))
    assert ((both.share >= 0) & (both.share <= 1)).all()
    assert torch.equal(both.x, mixed(x, 0.5, seed=[1, 2]).x)
    assert not torch.equal(both.x, mixed(x, 0.5, seed=[1, 3]).x)
    middling = [mixed(torch.zeros(4000, 1), alpha).share.sub(0.5).abs().mean() for alpha in (0.2, 1.0, 8.0)]
    assert middling[0] > middling[1] > middling[2]
    with pytest.raises(ValueError, match=r"alpha > 0; got 0"):
        mixed(x, 0.0)


def test_a_seed_is_a_run():
    x, labels = blobs()
    one, again, other = (
        classify(x, labels, replace(SMALL, seed=seed, mixup=0.4, steps=5), progress=False) for seed in (0, 0, 1)
    )
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)
    assert one.curve.loss[0] != other.curve.loss[0]  # the weights it begins with are the seed's too


def test_names_of_classes_may_be_words():
    x, labels = blobs()
    words = np.array(["c", "a", "b"])[labels]
    run = classify(x, words, replace(SMALL, steps=120), progress=False)
    assert run.names == ["a", "b", "c"]
    assert run.accuracy(x, words) > 0.97


@pytest.mark.parametrize(
    "wrong",
    [{"hidden": ()}, {"loss": "hinge"}, {"smoothing": 1.0}, {"mixup": -1.0}, {"rate": 0.0}, {"steps": 0},
     {"linear": (0,)}, {"scale": 0.0}, {"loss": "pairs", "mixup": 1.0}, {"loss": "pairs", "smoothing": 0.1}],
)  # fmt: skip
def test_a_recipe_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"got|no loss|takes no"):
        ClassifierRecipe(**wrong)


def test_what_cannot_be_classified_is_refused():
    x, labels = blobs()
    with pytest.raises(TypeError, match="float tensor"):
        classify(x.numpy(), labels, SMALL)
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        classify(x.long(), labels, SMALL)
    with pytest.raises(ValueError, match=r"got \[96, 1, 2, 3\]: images\.flatten\(1\)"):
        classify(x.view(96, 1, 2, 3), labels, SMALL)
    with pytest.raises(ValueError, match="one for each of the 96 rows"):
        classify(x, labels[1:], SMALL)
    with pytest.raises(ValueError, match="at least two classes"):
        classify(x, np.zeros(96), SMALL)
    with pytest.raises(ValueError, match="NaN or infinite values in 1"):
        classify(x.index_fill(0, torch.tensor([4]), torch.nan), labels, SMALL)
    with pytest.raises(FloatingPointError, match="at step"):
        classify(x * 1e18, labels, replace(SMALL, loss="mse", rate=10.0), progress=False)


# features that are free


@pytest.mark.parametrize(("counts", "layers"), [((20, 20, 20), 1), ((60, 20, 5), 1), ((30, 20, 12), 2), ((15, 15), 3)])
def test_free_features_are_where_theory_has_them(counts, layers):
    how = {"layers": layers, "decay_weight": 4e-3, "decay_features": 1e-3}
    found = free_features(counts, dim=8, iterations=2000, **how)
    want = expected_lengths(counts, **how)
    assert (want > 0.1).all()
    grouped = geometry.Classes(found.features, found.labels)
    torch.testing.assert_close(grouped.means.norm(dim=1), want, rtol=1e-4, atol=1e-5)
    assert len(found.layers) == layers
    for state in found.layers:
        assert geometry.nc1(state, found.labels) < 1e-8
        assert geometry.nc2_frame(state, found.labels) < 1e-5
        equal = geometry.nc2_norms(state, found.labels) < 1e-5
        assert equal == (len(set(counts)) == 1)


def test_a_minority_vanishes_below_the_threshold_and_only_there():
    how = {"decay_weight": 1.5e-2, "decay_features": 1e-2}
    total = 100
    assert total**2 * how["decay_weight"] * how["decay_features"] == pytest.approx(1.5)
    for few, there in ((1, False), (2, True), (3, True)):
        counts = (60, total - 60 - few, few)
        want = expected_lengths(counts, **how)
        assert bool(want[2] > 1e-6) == there
        found = free_features(counts, dim=5, iterations=2000, **how)
        lengths = geometry.Classes(found.features, found.labels).means.norm(dim=1)
        torch.testing.assert_close(lengths, want, rtol=1e-3, atol=2e-3)
    assert (expected_lengths((50, 50), layers=2, decay_weight=1.0, decay_features=1.0) == 0).all()


def test_expected_lengths_are_the_lowest_of_a_search():
    """Of every class alone: the objective over the lengths that serve it, looked through on a grid."""
    counts, layers, a, b = (40, 9), 2, 6e-3, 2e-3
    want = expected_lengths(counts, layers=layers, decay_weight=a, decay_features=b)
    h, w = torch.meshgrid(*[torch.linspace(0, 3, 3001, dtype=torch.float64)] * 2, indexing="ij")
    for n, length in zip(counts, want, strict=True):  # all weights are equally long at the minimum
        value = n / (2 * sum(counts)) * (h * w**layers - 1) ** 2 + layers * a / 2 * w**2 + b * n / 2 * h**2
        best = h.flatten()[value.argmin()]
        assert abs(best - length) < 2e-3


@pytest.mark.parametrize(
    ("counts", "options"),
    [((5,), {}), ((5, 0), {}), ((5, 5), {"layers": 0}), ((5, 5), {"decay_weight": 0.0}), ((5, 5, 5), {"dim": 2})],
)
def test_no_problem_is_refused(counts, options):
    with pytest.raises(ValueError, match="got"):
        free_features(counts, **options)
    if "dim" not in options:
        with pytest.raises(ValueError, match="got"):
            expected_lengths(counts, **options)
