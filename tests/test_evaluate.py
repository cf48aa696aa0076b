"""Evaluation: data sets of four kinds from held-out packages or a user's table, every example's score from its formula.

What a measure sums up is held to scikit-learn and scipy; what one example adds, to leaving it out.
"""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score, v_measure_score

import lab
from lab.data import evaluation, held_out
from lab.probes import measures


def seeded(text, width=8):
    """A vector that follows from the text alone."""
    draw = np.random.default_rng([ord(letter) for letter in text])
    return draw.normal(size=width)


def encode(texts):
    return np.stack([seeded(text) for text in texts])


def some(kind, n=12, seed=0):
    draw = np.random.default_rng(seed)
    texts = [f"text {i}" for i in range(2 * n)]
    match kind:
        case "retrieval":
            return evaluation.retrieval("r", texts[:n], texts[n:])
        case "similarity":
            return evaluation.similarity("s", texts[:n], texts[n:], draw.integers(4, size=n))
        case "classification":
            return evaluation.classification("c", texts[:n], [("x", "y")[i % 2] for i in range(n)])
    return evaluation.clustering("k", texts[:n], [("x", "y", "z")[i % 3] for i in range(n)])


# ---- what is measured


def test_retrieval_is_scikit_learns_ndcg_and_sees_every_answer():
    queries = ["q0", "q0", "q1", "q2", "q2", "q2"]
    documents = ["d0", "d1", "d2", "d0", "d3", "d4"]
    task = evaluation.retrieval("r", queries, documents, [1, 2, 1, 3, 1, 1])
    assert (len(task), task.target.shape, len(task.texts)) == (3, (3, 5), 8)
    np.testing.assert_array_equal(task.target.toarray(), [[1, 2, 0, 0, 0], [0, 0, 1, 0, 0], [3, 0, 0, 1, 1]])
    score = lab.probes.evaluate(encode, [task])
    q, d = encode(["q0", "q1", "q2"]), encode(["d0", "d1", "d2", "d3", "d4"])
    cosine = (q / np.linalg.norm(q, axis=1)[:, None]) @ (d / np.linalg.norm(d, axis=1)[:, None]).T
    want = [ndcg_score([2**g - 1], [s], k=10) for g, s in zip(task.target.toarray(), cosine, strict=True)]
    np.testing.assert_allclose(score.sel(dataset="r"), want)
    first = lab.probes.evaluate(encode, [task], measures={"retrieval": "reciprocal_rank"})
    grades = zip(cosine, task.target.toarray(), strict=True)
    ranks = [1 + min((row > row[j]).sum() for j in np.flatnonzero(relevant)) for row, relevant in grades]
    np.testing.assert_allclose(first.sel(dataset="r"), 1 / np.array(ranks))
    assert first.measure.item() == "reciprocal_rank"


def test_what_a_pair_adds_is_what_leaving_it_out_takes():
    task = some("similarity", 15)
    score = lab.probes.evaluate(encode, [task]).sel(dataset="s").values
    a, b = (encode([task.texts[i] for i in side]) for side in (task.first, task.second))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    whole, n = spearmanr(cosine, task.target).statistic, 15
    without = np.array([spearmanr(*(np.delete(v, i) for v in (cosine, task.target))).statistic for i in range(n)])
    np.testing.assert_allclose(score, whole + (n - 1) * (without.mean() - without), atol=1e-12)
    assert score.mean() == pytest.approx(whole, abs=1e-12)


def test_a_space_without_order_agrees_with_nothing():
    score = lab.probes.evaluate(lambda texts: np.ones((len(texts), 3)), [some("similarity")])
    np.testing.assert_array_equal(score, np.zeros((1, 12)))


def test_the_spread_of_what_pairs_add_is_that_of_the_correlation():
    """Resampling the shares must say what drawing new pairs says, else intervals would be wrong."""
    draw, found, said = np.random.default_rng(0), [], []
    for _ in range(200):
        gold = draw.normal(size=60)
        near = gold + draw.normal(size=60)
        turn = np.stack([np.cos(near / 4), np.sin(near / 4)], axis=1)
        texts = [f"{i}" for i in range(61)]
        task = evaluation.similarity("s", texts[:60], ["60"] * 60, gold)
        h = torch.tensor(np.concatenate([turn, [[1.0, 0.0]]]))
        order = torch.tensor([int(text) for text in task.texts])
        share = measures.agreement(task, h[order], 0)
        found.append(share.mean())
        said.append(share.std(ddof=1) / 60**0.5)
    assert np.mean(said) == pytest.approx(np.std(found, ddof=1), rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_v_measure_is_scikit_learns_and_a_text_adds_what_leaving_it_out_takes(seed):
    draw = np.random.default_rng(seed)
    label, cluster = draw.integers(4, size=30), draw.integers(3, size=30)
    share = measures.v_shares(label, cluster)
    whole = v_measure_score(label, cluster)
    without = np.array([v_measure_score(np.delete(label, i), np.delete(cluster, i)) for i in range(30)])
    np.testing.assert_allclose(share, whole + 29 * (without.mean() - without), atol=1e-12)
    assert share.mean() == pytest.approx(whole, abs=1e-12)


def test_clusters_that_are_there_are_found():
    texts = [f"{word} {i}" for i in range(8) for word in ("x", "y", "z")]
    task = evaluation.clustering("k", texts, [text[0] for text in texts])
    apart = lab.probes.evaluate(
        lambda ts: np.eye(3)[["xyz".index(t[0]) for t in ts]] + 0.01 * encode(ts)[:, :3], [task]
    )
    np.testing.assert_allclose(apart, 1)
    assert float(lab.probes.evaluate(encode, [task]).mean()) < 0.5


def test_classification_is_the_linear_probe_with_its_groups():
    texts, labels = [f"text {i}" for i in range(40)], [i % 2 for i in range(40)]
    groups = [i // 4 for i in range(40)]
    told = lab.probes.evaluate(encode, [evaluation.classification("c", texts, labels, groups)], seed=3)
    h = xr.DataArray(encode(texts)[None, None], dims=("layer", "pool", "example", "dim"))
    states = xr.Dataset({"h": h}, coords={"layer": [0], "pool": ["x"], "example": range(40)})
    probe = lab.probes.linear(states, labels, groups=groups, seed=3, progress=False)
    np.testing.assert_array_equal(told.sel(dataset="c"), probe.correct[0, 0])


# ---- over encoders, layers, pools and dims


def test_scores_have_kinds_and_chance_and_end_where_the_examples_do():
    tasks = [some(kind, n) for kind, n in zip(evaluation.KINDS, (6, 12, 10, 9), strict=True)]
    score = lab.probes.evaluate(encode, tasks)
    assert score.dims == ("dataset", "example")
    assert score.dataset.values.tolist() == ["r", "s", "c", "k"]
    assert score.kind.values.tolist() == list(evaluation.KINDS)
    assert score.measure.values.tolist() == ["ndcg", "spearman", "accuracy", "v_measure"]
    assert score.notnull().sum("example").values.tolist() == [6, 12, 10, 9]
    even = sum(1 / np.log2(1 + rank) for rank in range(1, 7)) / 6
    assert score.chance.values[:3].tolist() == pytest.approx([even, 0, 0.5])
    assert 0 < score.chance.values[3] < 0.6


def test_states_give_every_layer_pool_and_dim(minilm):
    tasks = [some(kind) for kind in evaluation.KINDS]
    texts = lab.data.task_texts(tasks)
    assert len(texts) == len(set(texts)) == 24  # shared between data sets
    states = lab.capture.states(minilm, texts, pools=("mean", "last"), layers=(0, 6), progress=False).isel(dim=slice(9))
    states["width"] = "layer", [9, 9]
    score = lab.probes.evaluate(states, tasks, dims=(4, 9), progress=False)
    assert dict(score.sizes) == {"dataset": 4, "example": 12, "layer": 2, "pool": 2, "dim": 2}
    assert score.pool.values.tolist() == ["mean", "last"]
    h = states.h.sel(layer=6, pool="last").values
    cut = lab.probes.evaluate(lambda given: h[[texts.index(t) for t in given]][:, :4], tasks)
    np.testing.assert_allclose(score.sel(layer=6, pool="last", dim=4), cut)
    whole = lab.probes.evaluate(states, tasks, progress=False)
    xr.testing.assert_allclose(score.sel(dim=9, drop=True), whole)


def test_a_sentence_transformer_gives_what_its_layer_gives(minilm):
    from sentence_transformers import SentenceTransformer

    tasks = [some("retrieval"), some("similarity")]
    peer = SentenceTransformer(str(lab.models.bundled()), device="cpu")
    score = lab.probes.evaluate(peer, tasks, progress=False)
    states = lab.capture.states(minilm, lab.data.task_texts(tasks), progress=False)
    ours = lab.probes.evaluate(states, tasks, progress=False).sel(layer=6, pool="mean", drop=True)
    np.testing.assert_allclose(score, ours, atol=1e-6)


def test_a_tensor_of_half_precision_is_read():
    score = lab.probes.evaluate(
        lambda texts: torch.tensor(encode(texts)).bfloat16().requires_grad_(), [some("retrieval")]
    )
    assert score.notnull().all()


# ---- the corpus


@pytest.fixture(scope="module")
def corpus():
    """A small one: two packages to ask about, of eight modules, and one to train on."""
    rows = [
        {"name": f"f{i}", "summary": f"says {p} {m} {i}", "code": f"def f{i}(): '{p}{m}'", "package": p,
         "module": f"{p}.{'ab'[m % 2]}.m{m}", "parent": "", "text": ""}
        for p in ("one", "two", "rest") for m in range(12) for i in range(8)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def small(corpus, monkeypatch):
    monkeypatch.setattr(held_out, "corpus", corpus.copy)
    return corpus


def test_evaluations_are_of_the_packages_asked_for_and_training_of_the_others(small):
    packages = {"asked": ("one", "two")}
    tasks = lab.data.evaluations(60, packages=packages)
    assert [(task.kind, len(task)) for task in tasks] == [(kind, 60) for kind in evaluation.KINDS]
    said = set(lab.data.task_texts(tasks))
    pairs = lab.data.training_pairs(packages=packages)
    assert set(pairs.package) == {"rest"}
    assert len(pairs) == 96
    assert not said & {*pairs["query"], *pairs["positive"]}
    assert said <= {*small.summary[small.package != "rest"], *small.code[small.package != "rest"]}
    rows = dict(zip(small.summary, small.code, strict=True))
    assert all(rows[a] == p for a, p in zip(pairs["query"], pairs["positive"], strict=True))
    assert lab.data.training_pairs(10, seed=1, packages=packages).shape == (10, 3)


def test_a_summary_is_answered_by_its_own_code(small):
    task = lab.data.evaluations(60, packages=["one"])[0]
    rows = dict(zip(small.summary, small.code, strict=True))
    for query, answer in zip(*task.target.nonzero(), strict=True):
        assert task.texts[task.second[answer]] == rows[task.texts[task.first[query]]]
    assert task.target.sum() == 60


def test_relatedness_is_wu_and_palmers(small):
    task = lab.data.evaluations(60, packages={"asked": ("one", "two")})[1]
    module = dict(zip(small.summary, small.module, strict=True))
    pairs = [[module[task.texts[i]].split(".") for i in pair] for pair in zip(task.first, task.second, strict=True)]
    want = [2 * next((d for d in range(3) if a[d] != b[d]), 3) / 6 for a, b in pairs]
    np.testing.assert_allclose(task.target, want)
    assert set(task.target) == {0, 1 / 3, 2 / 3, 1}
    assert (task.first != task.second).all()


def test_topics_are_parts_of_the_tree_with_modules_whole(small):
    found = lab.data.evaluations(48, packages={"asked": ("one", "two")})
    topic, clusters = found[2:]
    module = dict(zip(small.summary, small.module, strict=True))
    assert set(topic.target) == {"one.a", "one.b", "two.a", "two.b"}
    for text, label, group in zip(topic.texts, topic.target, topic.groups, strict=True):
        assert module[text] == group
        assert group.startswith(f"{label}.")
    assert set(np.unique(topic.target, return_counts=True)[1]) == {12}
    assert clusters.texts == topic.texts


def test_several_groups_share_one_more_topic(small):
    names = [task.name for task in lab.data.evaluations(40, packages=["one", "two"])]
    assert names[-2:] == ["topic: all", "clusters: all"]
    assert len(names) == len(set(names)) == 10


def test_the_same_seed_gives_the_same_data_sets(small):
    first, again, other = (lab.data.evaluations(40, seed=seed, packages=["one"]) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        assert a.texts == b.texts
        assert a.texts != c.texts
        np.testing.assert_array_equal(a.first, b.first)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lab.data.evaluations(30), "need 40 examples"),
        (lambda: lab.data.evaluations(97, packages=["one"]), "'one' has 96"),
        (lambda: lab.data.evaluations(40, packages=["none"]), r"no package \['none'\]"),
        (lambda: lab.data.evaluations(40, packages={"a": ["one"], "b": ["one"]}), "each package one group"),
        (lambda: lab.data.evaluations(40, packages={"a": []}), "each group needs a package"),
        (lambda: lab.data.training_pairs(97, packages=["one", "two"]), "there are 96"),
        (lambda: lab.data.training_pairs(packages=["one", "two", "rest"]), "there are 0"),
    ],
)
def test_what_the_corpus_cannot_give_is_said(small, call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_real_corpus_has_five_of_each_kind():
    tasks = lab.data.evaluations(40)
    kinds = [task.kind for task in tasks]
    assert [kinds.count(kind) for kind in evaluation.KINDS] == [5, 5, 6, 6]
    assert {len(task) for task in tasks} == {40}
    held = {package for members in lab.data.HELD_OUT.values() for package in members}
    assert not held & set(lab.data.training_pairs(500).package)


# ---- a user's own, and what is refused


def test_a_users_tables():
    table = pd.DataFrame({"q": ["a", "b", "c", "d"], "a": ["e", "f", "g", "h"], "s": [0, 1, 2, 3], "l": list("xxyy")})
    assert lab.data.pair_task(table, ("q", "a")).kind == "retrieval"
    assert lab.data.pair_task(table, ("q", "a"), score="s", name="own").target.tolist() == [0, 1, 2, 3]
    assert [(t.name, t.kind) for t in lab.data.label_tasks(table, "q", "l", name="own")] == [
        ("own: classes", "classification"), ("own: clusters", "clustering"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no column \['positive'\]; it has"):
        lab.data.pair_task(table.rename(columns={"q": "query"}))
    with pytest.raises(ValueError, match="column 'a' has no value in 1 rows, the first at 1"):
        lab.data.pair_task(table.assign(a=["e", None, "g", "h"]), ("q", "a"))
    with pytest.raises(ValueError, match="two columns"):
        lab.data.pair_task(table, ("q",))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: evaluation.retrieval("r", ["a", " "], ["b", "c"]), "text 1 is ' '"),
        (lambda: evaluation.retrieval("r", ["a"], ["b"]), "two documents or more"),
        (lambda: evaluation.retrieval("r", ["a", "d"], ["b"]), "2 queries, 1 documents"),
        (lambda: evaluation.retrieval("r", ["a", "d"], ["b", "c"], [1, 0]), "1 queries have no relevant"),
        (lambda: evaluation.retrieval("r", ["a", "d"], ["b", "c"], [1, -1]), "0 or more"),
        (lambda: evaluation.retrieval("r", [], []), "at least one"),
        (lambda: evaluation.retrieval("r", "ab", "cd"), "a column of texts, not one text"),
        (lambda: evaluation.similarity("s", list("abcd"), list("efgh"), [1, 2, 3]), "as many scores"),
        (lambda: evaluation.similarity("s", list("abcd"), list("efgh"), [1, 2, np.nan, 3]), "all finite"),
        (lambda: evaluation.similarity("s", list("abcd"), list("efgh"), [1, 1, 1, 3]), "other scores"),
        (lambda: evaluation.similarity("s", list("abc"), list("efg"), [1, 2, 3]), "4 pairs"),
        (lambda: evaluation.classification("c", list("abcd"), [1, 1, 1, 1]), "two labels"),
        (lambda: evaluation.classification("c", list("abcd"), [1, 1, 1, 2]), "two texts or more"),
        (lambda: evaluation.classification("c", list("abcd"), [1, 1, 2, 2], [1, 2]), "groups if any"),
        (lambda: evaluation.clustering("k", list("abcd"), ["x", "x", None, None]), "none missing"),
        (lambda: evaluation.classification("k", list("abcd"), ["x", np.nan, "x", np.nan]), "none missing"),
        (lambda: lab.data.Task("x", "ranking", ("a",), np.array([0]), None, np.array([0])), "the kind is one of"),
        (lambda: lab.data.Task("x", "clustering", ("a",), np.array([1]), None, np.array([0])), "from 0 to 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"tasks": []}, ValueError, "names of their own"),
        ({"tasks": [some("retrieval"), some("retrieval")]}, ValueError, "names of their own"),
        ({"measures": {"retrieval": "map"}}, ValueError, "no measure 'map'"),
        ({"dims": (4, 9)}, ValueError, "from 1 to 8"),
        ({"dims": ()}, ValueError, "from 1 to 8"),
        ({"encode": 3}, TypeError, "got int"),
        ({"encode": lambda texts: np.zeros(len(texts))}, ValueError, r"one vector for each of 24 texts; got .*\(24,\)"),
        ({"encode": lambda _: np.zeros((3, 2))}, ValueError, "one vector for each"),
        ({"encode": lambda texts: np.full((len(texts), 2), np.nan)}, ValueError, "must be finite"),
        ({"encode": xr.Dataset({"h": (("layer", "pool", "example", "dim"), np.ones((1, 1, 3, 2)))},
          coords={"layer": [0], "pool": ["a"], "example": range(3)})}, ValueError, "24 texts, the vectors are 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused(given, error, said):
    given = {"encode": encode, "tasks": [some("retrieval")], **given}
    with pytest.raises(error, match=said):
        lab.probes.evaluate(given.pop("encode"), given.pop("tasks"), **given)
