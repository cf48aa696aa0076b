"""Class centroids, and those without the anchor."""

import pytest
import torch

from lab.pooling.centroids import class_centroids, leave_one_out_centroids

LABELS = torch.tensor([0, 2, 0, 2, 2])


def test_centroids_are_means_of_the_members():
    x = torch.randn(5, 3)
    want = torch.stack([x[LABELS == 0].mean(0), torch.zeros(3), x[LABELS == 2].mean(0), torch.zeros(3)])
    torch.testing.assert_close(class_centroids(x, LABELS, num_classes=4), want)
    torch.testing.assert_close(class_centroids(x, LABELS), want[:3])


def test_leaving_one_out_is_the_mean_of_the_others():
    x = torch.randn(5, 3)
    others = [(LABELS[b] == LABELS) & (torch.arange(5) != b) for b in range(5)]
    want = torch.stack([x[other].mean(0) for other in others])
    torch.testing.assert_close(leave_one_out_centroids(x, LABELS), want)
    order = torch.randperm(5)
    torch.testing.assert_close(leave_one_out_centroids(x[order], LABELS[order]), want[order])


def test_a_large_anchor_leaves_the_others_their_digits():
    """In float32 the sum with an anchor of 1e8 has forgotten them."""
    x = torch.tensor([[1e8], [0.25], [0.75]])
    assert (x.sum(0) - x[0]).item() == 0
    assert leave_one_out_centroids(x, torch.zeros(3, dtype=torch.long))[0].item() == 0.5


def test_gradients_and_an_anchor_that_does_not_pull_on_itself():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: leave_one_out_centroids(x, LABELS), x)
    assert torch.autograd.gradcheck(lambda x: class_centroids(x, LABELS), x)
    (slope,) = torch.autograd.grad(leave_one_out_centroids(x, LABELS)[1].sum(), x)
    assert slope.any(1).tolist() == [False, False, False, True, True]


def test_an_empty_batch_has_no_centroids():
    none = torch.zeros(0, dtype=torch.long)
    assert class_centroids(torch.zeros(0, 3), none).shape == (0, 3)
    assert leave_one_out_centroids(torch.zeros(0, 3), none).shape == (0, 3)


def test_a_class_of_one_and_labels_out_of_range_are_refused():
    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"two members to leave one out; got one of \[1\]"):
        leave_one_out_centroids(x, torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="got 0 to 2"):
        class_centroids(x, torch.tensor([0, 2, 0]), num_classes=2)
    with pytest.raises(ValueError, match="got -1 to 0"):
        class_centroids(x, torch.tensor([0, -1, 0]))
