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
