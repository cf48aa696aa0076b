"""Sets of images made for a question: so many of each class, a cue in place of the picture."""

import numpy as np
import pytest
import torch

import lab.data

LABELS = np.array([2, 0, 1, 1, 2, 0, 0, 2, 1, 0])


def test_so_many_of_each_are_drawn():
    rows = lab.data.of_each(LABELS, [3, 1, 2])
    assert np.bincount(LABELS[rows]).tolist() == [3, 1, 2]
    assert (np.diff(rows) > 0).all()
    assert lab.data.of_each(list("abcabc"), 2).tolist() == [0, 1, 2, 3, 4, 5]
    drawn = {tuple(lab.data.of_each(LABELS, 1, seed=seed)) for seed in range(20)}
    assert len(drawn) > 5
    assert tuple(lab.data.of_each(LABELS, 1, seed=3)) == tuple(lab.data.of_each(LABELS, 1, seed=3))


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"from 0 to what is there, \{0: 4, 1: 3, 2: 3\}; got \[4, 4, 1\]"):
        lab.data.of_each(LABELS, [4, 4, 1])
    with pytest.raises(ValueError, match=r"3 labels, \[0, 1, 2\]; got counts of shape \(2,\)"):
        lab.data.of_each(LABELS, [1, 1])


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_a_cue_names_the_class_so_often(share):
    images = torch.rand(200, 1, 4, 5)
    labels = np.arange(200) % 6
    shown, right = lab.data.cued(images, labels, share, seed=1)
    assert shown.shape == (200, 1, 6, 5)
    assert torch.equal(shown[:, :, :4], images)
    cues = shown[:, 0, 4:].flatten(1)
    assert (cues.sum(1) == 1).all()
    named = cues.argmax(1).numpy()
    np.testing.assert_array_equal(named == labels, right)
    assert right.sum() == round(200 * share)
    assert set(named[~right]) == (set() if share == 1 else set(range(6)))
    assert named.max() < 6


def test_cues_that_cannot_be_are_refused():
    images = torch.rand(6, 1, 4, 2)
    for labels in (np.arange(6), np.arange(5), np.zeros(6, int), np.linspace(0, 1, 6), np.arange(6) - 1):
        with pytest.raises(ValueError, match="labels must be 6 whole numbers from 0 to at most 3"):
            lab.data.cued(images, labels, 0.5)
    with pytest.raises(ValueError, match=r"from 0 to 1; got 1\.2"):
        lab.data.cued(images, np.arange(6) % 3, 1.2)


def test_moved_by_whole_pixels_and_quarter_turns_is_exact():
    images = torch.rand(3, 2, 6, 6)
    torch.testing.assert_close(lab.data.moved(images), images, atol=1e-5, rtol=0)
    shifted = lab.data.moved(images, right=2, down=-1)
    torch.testing.assert_close(shifted[..., :5, 2:], images[..., 1:, :4], atol=1e-5, rtol=0)
    assert float(shifted[..., :2].abs().max()) < 1e-5
    assert float(shifted[..., 5, :].abs().max()) < 1e-5
    turned = lab.data.moved(images, degrees=90)  # counter-clockwise, as numpy's rot90
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), atol=1e-5, rtol=0)
    both = lab.data.moved(images, degrees=180, right=1)  # turned first, then shifted
    torch.testing.assert_close(both[..., 1:], torch.rot90(images, 2, (2, 3))[..., :-1], atol=1e-5, rtol=0)


def test_moved_scales_about_the_middle_and_keeps_angles_where_sides_differ():
    wide = torch.zeros(1, 1, 8, 16)
    wide[..., 3:5, 6:10] = 1
    larger = lab.data.moved(wide, scale=2)
    assert float(larger[..., 2:6, 4:12].min()) > 0.5
    assert float(larger.sum()) == pytest.approx(4 * float(wide.sum()), rel=0.05)
    upright = lab.data.moved(wide, degrees=90)
    torch.testing.assert_close(upright[..., 2:6, 7:9], torch.ones(1, 1, 4, 2), atol=1e-5, rtol=0)
    assert float(upright.sum()) == pytest.approx(8, rel=1e-4)


def test_resized_is_linear_between_places():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    found = lab.data.resized(ramp, (2, 8))
    assert found.shape == (1, 1, 2, 8)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))
    assert torch.equal(lab.data.resized(ramp, (4, 4)), ramp)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: lab.data.moved(x[0]), r"\[N, C, H, W\]; got \[1, 4, 4\]"),
        (lambda x: lab.data.moved(x.numpy()), "got ndarray"),
        (lambda x: lab.data.moved(x.long()), "float tensor"),
        (lambda x: lab.data.moved(x, scale=0.0), "above 0; got 0.0"),
        (lambda x: lab.data.resized(x, (4,)), r"height and width, each 1 or more; got \(4,\)"),
        (lambda x: lab.data.resized(x, (0, 4)), "each 1 or more"),
    ],
)
def test_what_cannot_be_moved_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(torch.rand(2, 1, 4, 4))
