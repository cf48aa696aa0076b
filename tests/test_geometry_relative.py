"""lab.geometry's relative representations, stitching, and what layers add, from stored states."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

import lab
from lab import geometry


def rotation(d):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q


def classed(n=300, d=12, k=4):
    labels = np.arange(n) % k
    centres = 2 * torch.randn(k, d, dtype=torch.float64)
    return centres[labels] + torch.randn(n, d, dtype=torch.float64), labels


def test_relative_is_the_cosine_to_each_anchor():
    x, a = torch.randn(2, 9, 5, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    want = torch.nn.functional.cosine_similarity(x[:, :, None], a[:, None], dim=-1)
    torch.testing.assert_close(geometry.relative_to(x, a), want)
    q = rotation(5)
    torch.testing.assert_close(geometry.relative_to(3 * x @ q, 3 * a @ q), want)  # the paper's theorem
    torch.testing.assert_close(geometry.relative_to(x * torch.rand(2, 9, 1).double(), 7 * a), want)
    for moved in (lambda z: z + 1, lambda z: z * torch.logspace(0, 1, 5)):
        assert (geometry.relative_to(moved(x), moved(a)) - want).abs().max() > 0.1
    assert geometry.relative_to(torch.zeros(1, 5), a[0]).abs().max() == 0
    with pytest.raises(ValueError, match="as wide as x, 5; got 4"):
        geometry.relative_to(x, a[..., :4])


def test_a_decoder_reads_a_turned_space_through_anchors_only():
    x, labels = classed()
    found = geometry.stitch(x, 5 * x @ rotation(12), labels, anchors=40)
    assert found.own > 0.95
    assert found.relative == found.own_relative > 0.9
    assert found.absolute < found.relative - 0.3
    assert found.chance == pytest.approx(0.25, abs=0.1)
    wider = torch.nn.functional.pad(x, (0, 20)) @ rotation(32)
    other = geometry.stitch(x, wider, labels, anchors=40)
    assert other.relative == found.relative
    assert math.isnan(other.absolute)


def test_stitching_two_spaces_that_share_nothing_is_chance():
    x, labels = classed()
    shuffled = x[torch.randperm(300)]
    found = geometry.stitch(x, shuffled, labels, anchors=40)
    assert found.own_relative > 0.9
    assert abs(found.relative - found.chance) < 0.15
    nothing = geometry.stitch(x, x @ rotation(12), np.random.default_rng(0).permutation(labels), anchors=40)
    assert abs(nothing.own - nothing.chance) < 0.15  # held out: labels that say nothing are not learnt


@pytest.mark.parametrize("d", [12, 400])
def test_the_decoder_is_ridge_regression(d):
    x, labels = classed(n=200, d=d)
    train, test = np.split(np.random.default_rng(5).permutation(200), [60])[::-1]
    onehot = torch.eye(4, dtype=torch.float64)[labels[train]]

    def accuracy(z):
        near = z[train] - z[train].mean(0)
        penalty = 0.1 * near.square().sum() / len(train)
        system = torch.cat([near, penalty.sqrt() * torch.eye(z.shape[1], dtype=torch.float64)])
        target = torch.cat([onehot - onehot.mean(0), torch.zeros(z.shape[1], 4, dtype=torch.float64)])
        weight = torch.linalg.lstsq(system, target).solution
        guess = ((z[test] - z[train].mean(0)) @ weight + onehot.mean(0)).argmax(1).numpy()
        return (guess == labels[test]).mean()

    found = geometry.stitch(x, x, labels, anchors=3, ridge=0.1, seed=5)
    assert found.own == found.absolute == pytest.approx(accuracy(x))
    assert found.own_relative == pytest.approx(accuracy(geometry.relative_to(x, x[train[:3]])))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": torch.randn(9, 3)}, r"of the same rows; got \(20, 3\) and \(9, 3\)"),
        ({"labels": [0] * 20}, "at least two classes"),
        ({"anchors": 15}, "leaves 14 to train, of which anchors=15"),
        ({"held_out": 0.0}, "held_out=0.0 leaves 20"),
        ({"ridge": 0.0}, r"ridge=0.0 must be above 0"),
        ({"y": torch.full((20, 3), torch.nan)}, "NaN or infinite"),
    ],
)
def test_stitching_refuses(change, says):
    given = {"y": torch.randn(20, 3), "labels": [0, 1] * 10, "anchors": 5, **change}
    with pytest.raises(ValueError, match=says):
        geometry.stitch(torch.randn(20, 3), given.pop("y"), given.pop("labels"), **given)


def states(h, dims=("layer", "pool", "example", "dim")):
    return xr.Dataset(
        {"h": (dims, h)}, coords={"layer": range(h.shape[0])} | ({"pool": ["a", "b"]} if h.ndim == 4 else {})
    )


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_influence_and_angles_are_their_definitions():
    h = np.random.default_rng(0).normal(size=(4, 2, 15, 6)).cumsum(0)
    influence, angle = geometry.block_influence(states(h)), geometry.angular_distance(states(h))
    assert influence.dims == ("layer", "pool")
    assert influence.layer.values.tolist() == [1, 2, 3]
    assert angle.dims == ("pool", "layer", "layer_")
    for p, pool in enumerate("ab"):
        for i in range(4):
            for j in range(4):
                want = np.arccos(np.clip(cosine(h[i, p], h[j, p]), -1, 1)).mean() / np.pi
                assert angle.sel(pool=pool, layer=i, layer_=j).item() == pytest.approx(want, abs=1e-7)
            if i:
                want = 1 - cosine(h[i - 1, p], h[i, p]).mean()
                assert influence.sel(pool=pool, layer=i).item() == pytest.approx(want)


def test_influence_sees_turns_and_not_lengths():
    h = np.random.default_rng(0).normal(size=(1, 1, 15, 4)).repeat(5, 0)
    h[1] *= 3
    h[2:] *= np.random.default_rng(1).uniform(0.5, 2, size=(15, 1))
    h[3:] *= -1
    h[4] = np.roll(h[3], 2, -1) * [1, 1, -1, -1]  # a right angle in every row
    small = xr.Dataset({"h": (("layer", "pool", "example", "dim"), h)}, coords={"layer": range(5), "pool": ["a"]})
    np.testing.assert_allclose(geometry.block_influence(small)[:, 0], [0, 0, 2, 1], atol=1e-9)
    angle = geometry.angular_distance(small)[0]
    np.testing.assert_allclose(angle[0], [0, 0, 0, 1, 0.5], atol=1e-7)
    assert not np.isnan(angle).any()
    turned = h @ rotation(4).numpy()
    np.testing.assert_allclose(
        geometry.angular_distance(small.assign(h=small.h.copy(data=turned)))[0], angle, atol=1e-6
    )
    moved = geometry.block_influence(small + 3)
    assert float(moved[2, 0]) < 1.9  # a shift is seen


def test_tokens_and_the_pass_without_them_agree():
    model = lab.models.tiny("llama", layers=3, dim=16)
    texts = ["one two three", "a longer text of several words", "x"]
    kept = geometry.block_influence(lab.capture.tokens(model, texts))
    assert kept.dims == ("layer",)
    passing = lab.capture.moments(model, texts, progress=False).influence
    np.testing.assert_allclose(kept, passing[1:], rtol=1e-4)
    assert geometry.angular_distance(lab.capture.tokens(model, texts)).dims == ("layer", "layer_")


def test_layers_that_have_no_angle_are_refused():
    h = np.ones((2, 2, 5, 4))
    for number in (geometry.block_influence, geometry.angular_distance):
        with pytest.raises(ValueError, match="two layers or more are compared; got 1"):
            number(states(h[:1]))
        with pytest.raises(ValueError, match=r"got widths \[3, 4\]"):
            number(states(h).assign(width=("layer", [4, 3])))
        with pytest.raises(ValueError, match="NaN or infinite"):
            number(states(h * np.nan))
