"""lab.probes: ranks by hand, probes that find what is there and nothing where nothing is."""

import numpy as np
import pytest
import torch
import xarray as xr

from lab import probes


def states(h):
    """h [layer, pool, example, dim] with the labels of captured states."""
    dims = ("layer", "pool", "example", "dim")
    coords = {"layer": range(h.shape[0]), "pool": [f"p{i}" for i in range(h.shape[1])], "example": range(h.shape[2])}
    return xr.Dataset({"h": (dims, h.astype(np.float32))}, coords=coords)


def by_hand(q, d):
    ranks = []
    for i, query in enumerate(q):
        cosines = [query @ x / (np.linalg.norm(query) * np.linalg.norm(x)) for x in d]
        ranks.append(1 + sum(c > cosines[i] for c in cosines))
    return ranks


def test_ranks_match_a_count_by_hand():
    generator = np.random.default_rng(0)
    q, d = generator.normal(size=(2, 2, 3, 15, 4))
    d += 0.7 * q
    got = probes.retrieval(states(q), states(d))
    for layer in range(2):
        for pool in range(3):
            assert got["rank"][layer, pool].values.tolist() == by_hand(q[layer, pool], d[layer, pool])
    np.testing.assert_allclose(got.reciprocal_rank, 1 / got["rank"])
    assert got.found_at_10.dtype == bool
    assert np.array_equal(got.found_at_10, got["rank"] <= 10)
    assert 1 < got["rank"].max() <= 15


def test_a_collapsed_space_gets_no_lucky_first_place():
    same = torch.ones(9, 3)
    assert probes.ranks(same, same).tolist() == [5.0] * 9
    assert probes.ranks(torch.zeros(9, 3), same).tolist() == [5.0] * 9
    eye = torch.eye(9)
    assert probes.ranks(eye, eye).tolist() == [1.0] * 9
    assert probes.ranks(eye, -eye).tolist() == [9.0] * 9


def test_retrieval_refuses_what_does_not_pair():
    a, b = states(np.zeros((1, 1, 4, 2))), states(np.zeros((1, 1, 5, 2)))
    with pytest.raises(ValueError, match="same layers, pools, examples"):
        probes.retrieval(a, b)
    with pytest.raises(ValueError, match="same layers, pools, examples"):
        probes.retrieval(a, a.assign_coords(pool=["other"]))


def labelled(n=120, classes=3, seed=0):
    """Layer 0 is noise, layer 1 holds the label in one direction among noise a hundred times larger."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % classes
    noise = generator.normal(size=(2, 1, n, 6))
    noise[1, 0, :, 0] = 0.01 * (y + 0.1 * noise[1, 0, :, 0])
    noise[..., 1:] *= 100
    return states(noise), y


def test_a_probe_finds_a_small_direction_and_nothing_in_noise():
    found, y = labelled()
    scores = probes.linear(found, y, penalty=0.01, progress=False)
    assert scores.score.dims == ("layer", "pool", "fold")
    assert scores.correct.sel(layer=1).mean() > 0.95
    assert abs(scores.correct.sel(layer=0).mean() - 1 / 3) < 0.15
    assert scores.attrs["chance"] == pytest.approx(1 / 3)
    np.testing.assert_allclose(scores.score.mean("fold"), scores.correct.mean("example"), atol=0.01)


def test_groups_are_never_split():
    """The label is a function of the group alone, and only the group can be seen: held out, that is no help."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 4)
    y = generator.permutation(30)[group] % 2
    told = states(np.eye(30)[group][None, None] + 0.01 * generator.normal(size=(1, 1, 120, 30)))
    split = probes.linear(told, y, penalty=0.1, progress=False).correct.mean()
    whole = probes.linear(told, y, groups=group, penalty=0.1, progress=False).correct.mean()
    assert split > 0.95
    assert whole < 0.7


@pytest.mark.parametrize(
    ("labels", "arguments", "says"),
    [
        ([0, 1], {}, r"states hold 120 examples; got labels \(2,\)"),
        (np.arange(120) % 3, {"groups": [1]}, r"and groups \(1,\)"),
        (["rare"] * 3 + ["common"] * 117, {}, "'rare' has 3"),
        (np.arange(120) % 3, {"folds": 1}, "1 folds need 2 or more"),
        (np.arange(120) % 2, {"groups": np.arange(120) % 4}, "as many groups of every label; '0' has 2"),
    ],
)
def test_linear_refuses(labels, arguments, says):
    with pytest.raises(ValueError, match=says):
        probes.linear(labelled()[0], labels, progress=False, **arguments)


def test_words_alone_find_what_shares_words():
    queries = ["read a csv file", "solve linear equations", "draw random numbers"]
    documents = ["def solve_linear(equations)", "def read_csv(file)", "def random_numbers()"]
    order = [1, 0, 2]
    found = probes.words_retrieval(queries, [documents[i] for i in order])
    assert found["rank"].values.tolist() == [1, 1, 1]
    assert probes.words_retrieval(queries, documents)["rank"].values.tolist()[:2] != [1, 1]
    with pytest.raises(ValueError, match="3 queries and 2 documents"):
        probes.words_retrieval(queries, documents[:2])


def test_words_alone_tell_a_topic_by_its_words_only():
    y = np.arange(60) % 2
    told = [f"matrix {i}" if label else f"token {i}" for i, label in enumerate(y)]
    assert probes.words_linear(told, y).mean() == 1
    assert probes.words_linear(["same"] * 60, y).mean() <= 0.5
