"""Small readers trained here: what they compute by the definition, that they learn, that a seed is a run."""

import warnings

import numpy as np
import pytest
import torch

import lab
from lab.data.graphs import Neighbour
from lab.data.relations import Relations
from lab.training import graph_reader, hourglass, layer_head, patch_classifier, relation_reader, sparse_retriever
from lab.training.graphs import GCN, READOUTS
from lab.training.hourglass import ENDS, Hourglass, HourglassShape, agreement
from lab.training.layer_head import LISTENERS
from lab.training.patches import PATCH_POOLS
from lab.training.relations import SPANS
from lab.training.sparse import SparseEncoder, Words, flops, margin_mse

pytestmark = pytest.mark.usefixtures("plain_torch")

QUIET = {"progress": False}


# relations


@pytest.mark.parametrize("pool", SPANS)
def test_every_span_trains_and_a_seed_is_a_run(pool):
    small = {"sentences": 40, "dim": 8, "steps": 2, "batch": 8} | QUIET
    one, again = (relation_reader(pool, seed=3, **small).measure([0, 2], sentences=20) for _ in range(2))
    assert one.equals(again)
    assert one.dims == ("distractors", "example")
    assert set(np.unique(one)) <= {0.0, 1.0}


def test_the_path_finds_what_the_entities_alone_cannot():
    """Without an encoder the entities say nothing of the verb; with the path a linear map is enough."""
    how = {"sentences": 200, "distractors": (0, 1), "dim": 16, "layers": 0, "steps": 100, "batch": 32, "rate": 0.02}
    readers = [relation_reader(pool, **how, **QUIET) for pool in ("path", "entities")]
    path, entities = (reader.measure([0, 1], sentences=80).mean("example") for reader in readers)
    assert float(path.min()) > 0.9
    assert float(entities.max()) < 0.5  # chance is .25


def test_padding_and_neighbours_in_the_batch_change_nothing():
    reader = relation_reader("near path", sentences=40, dim=8, steps=1, batch=8, **QUIET)
    drawn = Relations().draw(3, 2, seed=5)
    spans = SPANS["near path"](drawn)
    at = torch.arange(drawn.ids.shape[1])
    asked = (at == drawn.source[:, None]) | (at == drawn.target[:, None])
    with torch.no_grad():
        all_of_them = reader.net(drawn.ids, drawn.mask, asked, spans)
        n = int(drawn.mask[0].sum())
        alone = reader.net(drawn.ids[:1, :n], drawn.mask[:1, :n], asked[:1, :n], spans[:1, :n])
    torch.testing.assert_close(all_of_them[:1], alone)


# patches


@pytest.mark.parametrize("pool", ["cls", *PATCH_POOLS])
def test_a_digit_reader_is_its_pool_and_a_seed_is_a_run(pool):
    images, labels = lab.data.digits()
    how = {"layers": 1, "dim": 16, "steps": 2, "batch": 16, "seed": 3} | QUIET
    made, again = (patch_classifier(images, labels, pool, **how) for _ in range(2))
    states = made.vit(pixel_values=images[:5]).last_hidden_state
    patches = states[:, 1:]
    p = {"gem": 3.0, "group_gem": torch.full((16,), 3.0)}.get(pool)
    want = {"cls": states[:, 0], "mean": patches.mean(1), "max": patches.amax(1)}.get(pool)
    if p is not None:
        want = (patches.clamp(min=1e-6) ** p).mean(1) ** (1 / p)
        assert made.pool.raw_p.numel() == (4 if pool == "group_gem" else 1)
        assert made.pool.raw_p.grad.abs().min() > 0
        with torch.no_grad():
            made.pool.raw_p.copy_(again.pool.raw_p)
            assert float(made.pool.p.max()) == pytest.approx(3, abs=0.02)  # it has begun to move from 3
    torch.testing.assert_close(made.pooled(images[:5]), want, rtol=0.02, atol=0.02)
    assert torch.equal(made.pooled(images[:5]), again.pooled(images[:5]))


def test_a_digit_reader_learns():
    images, labels = lab.data.digits()
    made = patch_classifier(images[:200], labels[:200], layers=1, dim=16, steps=60, batch=32, rate=5e-3, **QUIET)
    assert made.correct(images[:200], labels[:200]).mean() > 0.4


# characters


def texts():
    return [f"the cat number {i} sat on the old mat and looked at {i * i} mice" for i in range(60)]


@pytest.mark.parametrize("ends", ENDS)
def test_no_character_is_told_what_comes_after_it(ends):
    torch.manual_seed(1)
    net = Hourglass(20, HourglassShape(dim=16, heads=2), ends, 3, (4, 5)).eval()
    ids = torch.randint(20, (2, 12))
    with torch.no_grad():
        before = net(ids)[0]
        for t in (3, 10):
            later = ids.clone()
            later[:, t + 1 :] = torch.randint(20, later[:, t + 1 :].shape)
            torch.testing.assert_close(net(later)[0][:, : t + 1], before[:, : t + 1])


@pytest.mark.parametrize("ends", ENDS)
def test_a_shortened_model_learns_and_says_what_it_costs(ends):
    source = lab.training.corpus(texts(), by="character", length=24)
    shape = HourglassShape(dim=16, heads=2)
    how = {"every": 4, "marks": (2,), "batch": 8, "rate": 1e-2, "seed": 1} | QUIET
    early, late = (hourglass(source, ends, shape, steps=steps, **how).measure(source, texts=8) for steps in (1, 12))
    assert float(late.bits.mean()) < float(early.bits.mean()) - 0.3
    assert hourglass(source, ends, shape, steps=1, **how).measure(source, texts=8).identical(early)
    share = 1.0 if ends == "vanilla" else float(late.ends.mean()) + 1 / 24
    assert float(late.cost) == pytest.approx(2 + 2 * share)
    if ends == "fixed":
        assert share == pytest.approx(1 / 4 + 1 / 24)
    if ends == "whitespace":
        assert np.array_equal(late.ends.values, late.ids.values == 2)


def test_agreement_is_the_correlation_of_two_answers():
    a, b = torch.rand(4, 50) < 0.3, torch.rand(4, 50) < 0.5
    want = np.corrcoef(a.flatten(), b.flatten())[0, 1]
    assert agreement(a, b) == pytest.approx(want)
    assert agreement(a, a) == pytest.approx(1)
    assert agreement(a, ~a) == pytest.approx(-1)


# words


def test_words_come_apart_at_case_and_underscore():
    words = Words.of(["readHTTPFile read_file", "read"], size=3)
    assert words.words == ("read", "file", "http")
    ids, mask = words.read(["file unknown READ", "", "read file http"], 2)
    assert ids.tolist() == [[0, 2, 1], [0, 0, 0], [0, 1, 2]]
    assert mask.tolist() == [[False, True, True], [False] * 3, [False, True, True]]


def test_flops_and_margins_are_their_formulas():
    w = torch.randn(5, 7, dtype=torch.float64).relu().requires_grad_()
    assert flops(w).item() == pytest.approx(sum((w.detach()[:, v].sum() / 5) ** 2 for v in range(7)).item())
    s, t = torch.randn(2, 4, 4, dtype=torch.float64)
    gaps = [((s[i, i] - s[i, j]) - (t[i, i] - t[i, j])) ** 2 for i in range(4) for j in range(4) if i != j]
    assert float(margin_mse(s, t)) == pytest.approx(float(sum(gaps) / 12))
    shifted = t + torch.randn(4, 1, dtype=torch.float64)
    assert float(margin_mse(t, shifted)) == pytest.approx(0, abs=1e-12)  # a query's own shift is no margin
    with pytest.raises(ValueError, match=r"must be \[B, B\]"):
        margin_mse(s[:3], t[:3])


@pytest.mark.parametrize("pool", ["max", "sum"])
def test_weights_are_the_pooled_logits_of_the_words(pool):
    net = SparseEncoder(9, dim=8, pool=pool).double()
    ids = torch.tensor([[0, 3, 4, 3], [0, 5, 0, 0], [0, 0, 0, 0]])
    mask = ids > 0
    got = net(ids, mask)
    unit = torch.nn.functional.normalize(net.embed.weight, dim=-1)
    for row in range(2):
        real = int(mask[row].sum())
        x = net.embed.weight[ids[row, : 1 + real]] + net.place.weight[: 1 + real]
        h = torch.nn.functional.normalize(net.block(x[None])[0], dim=-1)[1:]
        each = torch.log1p((net.scale * h @ unit.T + net.bias).relu())
        torch.testing.assert_close(got[row], each.amax(0) if pool == "max" else each.sum(0))
    assert not got[2].any()


def pairs(n=60):
    words = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("an", "ol", "eri", "um", "ep")]
    generator = np.random.default_rng(0)
    drawn = [generator.choice(words, 6, replace=False) for _ in range(n)]
    return [" ".join(row[:2]) for row in drawn], [" ".join(row) for row in drawn], words


def test_a_sparse_retriever_finds_words_and_a_penalty_makes_it_sparser():
    queries, documents, words = pairs()
    how = {"words": Words(tuple(words)), "dim": 16, "steps": 60, "batch": 16, "rate": 1e-2} | QUIET
    light, heavy = (sparse_retriever(queries, documents, penalty=p, **how) for p in (0.0, 0.3))
    found, thin = light.measure(queries, documents), heavy.measure(queries, documents)
    assert float(found.reciprocal_rank.mean()) > 0.5
    assert float(thin.document_words) < 0.7 * float(found.document_words)
    again = sparse_retriever(queries, documents, penalty=0.0, **how).measure(queries, documents)
    assert again.identical(found)
    cut = light.measure(queries, documents, top=3)
    assert float(cut.document_words) == 3


def test_without_expansion_a_query_is_its_own_words():
    queries, documents, words = pairs()
    how = {"words": Words(tuple(words)), "dim": 16, "steps": 2, "batch": 16} | QUIET
    made = sparse_retriever(queries, documents, expand_queries=False, **how)
    weights = made.encode(queries, query=True)
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert (weights.sum(1) == 2).all()
    taught = sparse_retriever(queries, documents, teacher=torch.eye(60) * 5, **how)
    plain = sparse_retriever(queries, documents, **how)
    assert not torch.equal(taught.net.embed.weight, plain.net.embed.weight)


# graphs


def test_a_gcn_is_its_formula_and_padding_stays_out():
    task, net = Neighbour(), GCN(7, 5, 2).double()
    drawn = task.draw(3, seed=0)
    h = net(drawn.nodes.double(), drawn.mask, drawn.adjacency.double())
    for b in range(3):
        n = int(drawn.mask[b].sum())
        loops = drawn.adjacency[b, :n, :n].double() + torch.eye(n)
        root = torch.diag(loops.sum(1) ** -0.5)
        x = net.first(drawn.nodes[b, :n].double())
        for i, layer in enumerate(net.layers):
            torch.testing.assert_close(h[i, b, :n], x)
            x = (root @ loops @ root @ x @ layer.weight.T + layer.bias).relu()
        torch.testing.assert_close(h[2, b, :n], x)


def test_gcn_layers_are_torch_geometrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it scripts its own modules when it is imported
        from torch_geometric.nn import GCNConv
    drawn, net = Neighbour().draw(1, seed=0), GCN(7, 5, 1)
    n = int(drawn.mask[0].sum())
    peer = GCNConv(5, 5)
    peer.lin.weight.data, peer.bias.data = net.layers[0].weight.data, net.layers[0].bias.data
    h = net(drawn.nodes, drawn.mask, drawn.adjacency)
    edges = drawn.adjacency[0].nonzero().T
    torch.testing.assert_close(h[1, 0, :n], peer(h[0, 0, :n], edges).relu())


@pytest.mark.parametrize("readout", READOUTS)
def test_every_readout_trains(readout):
    made, again = (graph_reader(readout, 2, graphs=60, dim=8, steps=3, batch=16, seed=2, **QUIET) for _ in range(2))
    drawn = Neighbour().draw(20, seed=9)
    assert torch.equal(made.logits(drawn), again.logits(drawn))
    assert made.correct(drawn).shape == (20,)
    apart = made.apart(drawn)
    assert apart.shape == (3,)
    assert bool(((apart >= 0) & (apart <= 1)).all())


def test_apart_is_zero_for_equal_nodes():
    made = graph_reader(layers=1, graphs=20, dim=8, steps=1, batch=8, **QUIET)
    drawn = Neighbour().draw(4, seed=0)
    made.gcn.first.weight.data.zero_()
    assert float(made.apart(drawn)[0]) == pytest.approx(0, abs=1e-6)


# layers


@pytest.mark.parametrize("listen", LISTENERS)
def test_a_head_learns_what_its_layers_hold(listen):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (120,), generator=generator)
    h = torch.randn(4, 120, 8, generator=generator) * torch.tensor([1.0, 10, 100, 1]).view(4, 1, 1)
    h[:, :, :3] += 400 * torch.nn.functional.one_hot(labels, 3)
    made = layer_head(h, labels.numpy(), listen, steps=80, batch=32, rate=0.03, **QUIET)
    assert made.correct(h, labels.numpy()).mean() > 0.9


def test_the_last_layer_alone_does_not_see_the_others():
    h, labels = torch.randn(3, 40, 4), np.arange(40) % 2
    made = layer_head(h, labels, "last", steps=2, **QUIET)
    other = torch.cat([torch.randn(2, 40, 4), h[2:]])
    assert torch.equal(made.logits(other), made.logits(h))
    before = layer_head(h, labels, "preceding", steps=2, **QUIET)
    assert torch.equal(before.logits(torch.cat([h[:2], torch.randn(1, 40, 4)])), before.logits(h))


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="pool must be one of"):
        relation_reader("root")
    with pytest.raises(ValueError, match="no pool 'min'"):
        patch_classifier(*lab.data.digits(), "min")
    source = lab.training.corpus(texts(), by="character", length=8)
    with pytest.raises(ValueError, match="ends must be one of"):
        hourglass(source, "random", **QUIET)
    with pytest.raises(ValueError, match="whitespace needs marks"):
        hourglass(source, "whitespace", **QUIET)
    with pytest.raises(ValueError, match="readout must be one of"):
        graph_reader("sum")
    with pytest.raises(ValueError, match="listen must be one of"):
        layer_head(torch.randn(2, 4, 3), np.arange(4), "first")
    with pytest.raises(ValueError, match=r"labels must be \(4,\) numbers from 0"):
        layer_head(torch.randn(2, 4, 3), np.zeros(3, dtype=int), "last")
    with pytest.raises(ValueError, match="a batch of 2 to all of them"):
        sparse_retriever(["a"], ["b"], Words(("a",)))
    with pytest.raises(ValueError, match="at least one of each is needed"):
        Words.of(["12 34"])
    with pytest.raises(ValueError, match=r"teacher's scores must be \(2, 2\)"):
        sparse_retriever(["a", "b"], ["b", "a"], Words(("a", "b")), batch=2, teacher=torch.eye(3))
