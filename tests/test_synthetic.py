"""Synthetic sentences, graphs and noise: the answer is known, as the rule is followed and nothing else gives it."""

import string

import numpy as np
import pytest
import torch

import lab
from lab.data.graphs import Neighbour
from lab.data.relations import Relations
from lab.pooling.spans import dependency_path


def verbs(task, ids):
    """The kind of each word that is a verb, -1 of others."""
    first = 1 + task.entities
    return torch.where((ids >= first) & (ids < first + task.kinds * task.words), (ids - first) // task.words, -1)


def test_a_seed_is_a_draw():
    for task, more in ((Relations(), (2,)), (Neighbour(), ())):
        one, same, other = task.draw(5, *more, seed=1), task.draw(5, *more, seed=1), task.draw(5, *more, seed=2)
        assert torch.equal(one.labels, same.labels)
        assert torch.equal(one.mask, same.mask)
        assert not torch.equal(one.mask, other.mask)


def test_the_one_verb_on_the_path_is_the_answer():
    task = Relations()
    for distractors in (0, 1, 3):
        drawn = task.draw(40, distractors, seed=0)
        kinds = verbs(task, drawn.ids)
        assert ((kinds >= 0).sum(1) == 1 + distractors).all()
        for row in range(40):
            path = dependency_path(drawn.heads[row].tolist(), [int(drawn.source[row])], [int(drawn.target[row])])
            assert kinds[row][path & (kinds[row] >= 0)].tolist() == [int(drawn.labels[row])]
            assert int(path.sum()) == 3
            assert drawn.source[row] < drawn.target[row] < drawn.mask[row].sum()


def test_every_sentence_is_one_tree_without_crossing_arcs():
    drawn = Relations().draw(30, 2, seed=3)
    for heads, mask in zip(drawn.heads.tolist(), drawn.mask, strict=True):
        n = int(mask.sum())
        assert sum(head == -1 for head in heads[:n]) == 1
        assert set(heads[n:]) <= {-1}
        arcs = [sorted((t, head)) for t, head in enumerate(heads[:n]) if head >= 0]
        assert not any(a < c < b < d for a, b in arcs for c, d in arcs)
        assert len(dependency_path(heads[:n], [0], [n - 1])) == n  # raises where no path joins them


def test_a_distractor_may_part_the_entities():
    drawn = Relations(modified=0).draw(200, 2, seed=0)
    gaps = (drawn.target - drawn.source).unique()
    assert 2 in gaps
    assert gaps.max() > 4


def test_the_marks_only_neighbour_of_a_kind_asked_for_is_the_label():
    task = Neighbour()
    drawn = task.draw(60, seed=0)
    kinds = drawn.nodes.argmax(-1).masked_fill(~drawn.mask, -1)
    asked = (kinds >= 1) & (kinds <= task.classes)
    assert ((kinds == 0).sum(1) == 1).all()
    for b in range(60):
        mark = int((kinds[b] == 0).nonzero())
        beside = drawn.adjacency[b, mark] > 0
        assert kinds[b][beside & asked[b]].tolist() == [1 + int(drawn.labels[b])]
        elsewhere = set(kinds[b][asked[b] & ~beside].tolist())
        assert elsewhere == set(range(1, task.classes + 1))
    assert torch.equal(drawn.adjacency, drawn.adjacency.mT)
    assert not drawn.adjacency.diagonal(dim1=1, dim2=2).any()
    assert not (drawn.adjacency.sum(-1) > 0)[~drawn.mask].any()
    assert not drawn.nodes[~drawn.mask].any()


def test_graphs_are_connected():
    drawn = Neighbour().draw(20, seed=1)
    for adjacency, mask in zip(drawn.adjacency, drawn.mask, strict=True):
        reached = torch.matrix_power(adjacency.double() + torch.eye(len(mask)), len(mask))[0] > 0
        assert torch.equal(reached, mask)


def test_a_share_of_the_letters_is_spoilt():
    text = string.ascii_lowercase * 200 + ". 12 "
    (same,) = lab.data.attacked([text], 0)
    assert same == text
    one, again, other = (lab.data.attacked([text], 0.2, seed)[0] for seed in (0, 0, 1))
    assert one == again != other
    assert one.endswith(". 12 ")
    (swapped,) = lab.data.attacked(["ab" * 2000], 1.0)
    assert all(c in swapped for c in "ab48@")
    kept = sum(a == b for a, b in zip(lab.data.attacked(["q" * 4000], 0.2)[0], "q" * 4000, strict=False))
    assert 0.9 < kept / 4000 < 1  # only a sign put in shows in a row of equal letters


def test_lengths_follow_the_ways():
    """A quarter is left out and a quarter said twice, where there is no neighbour to swap with."""
    alone = "q " * 4000
    (spoilt,) = lab.data.attacked([alone], 1.0)
    words = spoilt.split(" ")
    sizes = np.bincount([len(word) for word in words[:4000]], minlength=3) / 4000
    assert sizes[0] == pytest.approx(0.25, abs=0.03)
    assert sizes[1] == pytest.approx(0.5, abs=0.03)
    assert sizes[2] == pytest.approx(0.25, abs=0.03)


def test_bad_draws_are_refused():
    with pytest.raises(ValueError, match="needed are two kinds"):
        Relations(kinds=1)
    with pytest.raises(ValueError, match="0 sentences with 1 distractors"):
        Relations().draw(0, 1, seed=0)
    with pytest.raises(ValueError, match="8 nodes or more"):
        Neighbour(size=(5, 9))
    with pytest.raises(ValueError, match="got 0 graphs"):
        Neighbour().draw(0, seed=0)
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\]"):
        lab.data.attacked(["a"], 1.5)
    with pytest.raises(TypeError, match="got one string"):
        lab.data.attacked("a", 0.5)
