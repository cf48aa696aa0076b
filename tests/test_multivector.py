"""Merged tokens against definitions written out, MaxSim likewise, and what factor 1 must not change."""

import numpy as np
import pytest
import torch

import lab
from lab.pooling import CLUSTERINGS, merge_tokens
from lab.pooling.functional import to_ragged
from lab.probes import late_retrieval, maxsim

every = pytest.mark.parametrize("how", CLUSTERINGS)


def ward(distance, clusters):
    """Lance and Williams' recurrence for Ward on the given distances, merging the closest pair again and again."""
    groups = {i: [i] for i in range(len(distance))}
    square = {(i, j): distance[i, j] ** 2 for i in groups for j in groups if i < j}
    while len(groups) > clusters:
        i, j = min(square, key=square.get)
        apart, a, b = square[i, j], len(groups[i]), len(groups[j])
        for k, group in groups.items():
            if k not in {i, j}:
                ki, kj, c = square[min(i, k), max(i, k)], square[min(j, k), max(j, k)], len(group)
                square[min(i, k), max(i, k)] = ((a + c) * ki + (b + c) * kj - c * apart) / (a + b + c)
        groups[i] += groups.pop(j)
        square = {pair: d for pair, d in square.items() if j not in pair}
    return {frozenset(group) for group in groups.values()}


def partition(labels):
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def test_hierarchical_clusters_are_wards_on_cosine_distances():
    x = torch.randn(17, 5, dtype=torch.float64)
    unit = torch.nn.functional.normalize(x, dim=1)
    distance = (1 - unit @ unit.T).numpy()
    for clusters in (1, 2, 5, 9, 16):
        assert partition(CLUSTERINGS["hierarchical"](x, clusters)) == ward(distance, clusters)


def test_hierarchical_pooling_is_sentence_transformers():
    from sentence_transformers.multi_vector_encoder.modules.token_pooling import HierarchicalTokenPooling

    x = torch.nn.functional.normalize(torch.randn(40, 8), dim=1)
    for factor in (1.5, 2, 3):
        peer = HierarchicalTokenPooling(factor, normalize_embeddings=False).pool_one(x)
        merged, _ = merge_tokens(x, torch.tensor([0, 40]), factor)
        assert merged.shape == peer.shape  # theirs in the order of scipy's labels, ours in that of the text
        torch.testing.assert_close(merged.sort(0).values, peer.sort(0).values, rtol=1e-5, atol=1e-6)


def test_sequential_clusters_are_runs():
    x = torch.randn(11, 3)
    assert CLUSTERINGS["sequential"](x, 3).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]


def test_k_means_does_not_fall_short_of_its_own_steps():
    """A fixed point: every token is with the nearest of the centres, and these are the means."""
    for _ in range(20):  # in one draw alone the lengths of the centres may not matter
        x = torch.nn.functional.normalize(torch.randn(60, 3, dtype=torch.float64), dim=1)
        labels = CLUSTERINGS["k_means"](x, 5, steps=200)
        centres = torch.stack([x[labels == k].mean(0) for k in range(5)])
        assert torch.equal(torch.cdist(x, centres).argmin(1), torch.from_numpy(labels))


@every
def test_three_bunches_are_found(how):
    """Runs find them too where they stand in a row."""
    bunches = torch.eye(4)[:3].repeat_interleave(5, 0) + 0.05 * torch.randn(15, 4)
    assert partition(CLUSTERINGS[how](bunches, 3)) == {frozenset(range(k, k + 5)) for k in (0, 5, 10)}
    if how != "sequential":
        mixed = torch.randperm(15)
        got = partition(CLUSTERINGS[how](bunches[mixed], 3))
        assert {frozenset(mixed[list(group)].tolist()) for group in got} == partition(np.arange(15) // 5)


@every
def test_factor_one_gives_every_token_back(how):
    x, offsets = torch.randn(13, 4), torch.tensor([0, 5, 5, 13])
    merged, at = merge_tokens(x, offsets, 1, how)
    assert torch.equal(merged, x)
    assert torch.equal(at, offsets)


@every
def test_means_of_clusters_with_their_gradient(how):
    x = torch.randn(30, 4, dtype=torch.float64, requires_grad=True)
    offsets, rows = torch.tensor([0, 12, 12, 13, 30]), []
    merged, at = merge_tokens(x, offsets, 3, how, protected=1)
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        tokens = x[start:stop]
        rows += [tokens[:1]] if stop > start else []
        if stop - start > 1:
            labels = torch.from_numpy(CLUSTERINGS[how](tokens[1:].detach(), max((stop - start - 1) // 3, 1)))
            order = sorted(set(labels.tolist()), key=lambda k: int((labels == k).nonzero()[0]))
            rows += [tokens[1:][labels == k].mean(0, keepdim=True) for k in order]
    want = torch.cat(rows)
    torch.testing.assert_close(merged, want)
    assert at.tolist()[:4] == [0, 4, 4, 5]
    weights = torch.randn_like(want)
    got, expected = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (merged, want))
    torch.testing.assert_close(got, expected)


@every
def test_padded_and_ragged_are_one(how):
    x, mask = torch.randn(3, 9, 4), torch.rand(3, 9) < 0.7
    poisoned = x.masked_fill(~mask[..., None], torch.nan)
    one, other = merge_tokens(poisoned, mask, 2, how), merge_tokens(*to_ragged(x, mask), 2, how)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_tokens_are_averaged_in_float32(dtype):
    x = torch.randn(20, 4).to(dtype)
    merged, _ = merge_tokens(x, torch.tensor([0, 20]), 20, protected=0)
    assert merged.dtype == dtype
    torch.testing.assert_close(
        merged.double(), x.double().mean(0, keepdim=True), rtol=torch.finfo(dtype).eps, atol=1e-6
    )


def test_bad_merging_is_refused():
    x, offsets = torch.randn(6, 4), torch.tensor([0, 6])
    with pytest.raises(ValueError, match="no clustering 'spectral'"):
        merge_tokens(x, offsets, 2, "spectral")
    with pytest.raises(ValueError, match="factor must be 1 or more"):
        merge_tokens(x, offsets, 0.5)
    with pytest.raises(ValueError, match="NaN or infinity"):
        merge_tokens(x.index_fill(0, torch.tensor([2]), torch.nan), offsets)


def bag(*lengths):
    return torch.randn(sum(lengths), 5, dtype=torch.float64), torch.tensor([0, *np.cumsum(lengths)])


def split(side):
    return side[0].split(side[1].diff().tolist())


def test_maxsim_is_its_formula():
    queries, documents = bag(3, 0, 2), bag(4, 1, 0, 6)
    want = [[float((q @ d.T).amax(1).sum()) if len(d) else 0.0 for d in split(documents)] for q in split(queries)]
    torch.testing.assert_close(maxsim(queries, documents), torch.tensor(want, dtype=torch.float64))


def test_one_vector_a_text_is_plain_retrieval():
    x, y = torch.randn(9, 5), torch.randn(9, 5)
    alone = torch.arange(10)
    found = late_retrieval((x, alone), (y, alone))
    assert found["rank"].values.tolist() == lab.probes.ranks(x, y).tolist()


def test_late_retrieval_of_the_texts_themselves():
    side = bag(3, 4, 2, 5)
    found = late_retrieval(side, side)
    assert found["rank"].values.tolist() == [1, 1, 1, 1]
    assert found.attrs["vectors"] == 14
    same, _ = merge_tokens(*side, 1), None
    assert late_retrieval(side, same).equals(found)


def test_bad_sides_are_refused():
    side = bag(3, 2)
    with pytest.raises(ValueError, match="2 queries and 3 documents"):
        late_retrieval(side, bag(1, 1, 1))
    with pytest.raises(ValueError, match="offsets of documents must go from 0 to 5"):
        maxsim(side, (side[0], torch.tensor([0, 3])))
    with pytest.raises(ValueError, match="of one width; got 5 and 4"):
        maxsim(side, (torch.randn(2, 4, dtype=torch.float64), torch.tensor([0, 2])))


def test_a_layer_of_tokens_is_ragged():
    model = lab.models.tiny("bert", layers=2, dim=16)
    texts = ["one two three", "four"]
    found = lab.capture.tokens(model, texts, layers=[0, 2])
    x, offsets = lab.capture.ragged(found)
    assert torch.equal(x, torch.from_numpy(found.h.sel(layer=2).values))
    assert offsets.tolist() == [0, 5, 8]  # with [CLS] and [SEP]
    assert torch.equal(lab.capture.ragged(found, 0)[0], torch.from_numpy(found.h.sel(layer=0).values))
    with pytest.raises(ValueError, match=r"no layer 1 was captured; there are \[0, 2\]"):
        lab.capture.ragged(found, 1)
