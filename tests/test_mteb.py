"""lab.probes.mteb: MTEB's scores are those of the definitions, cell by cell; what cannot be asked is refused."""

import random
import sys
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import spearmanr

import lab
from lab.data.evaluation import retrieval, similarity

TEXTS = [f"{a} {b}" for a in ("red", "green", "blue", "grey") for b in ("stone", "river", "wolf", "gate", "lamp")]
GRADES = [float(i * 7 % 11) for i in range(10)]


def vectors(texts, seed=0, width=6):
    """Of each text its own, whatever stands beside it."""
    return np.stack([np.random.default_rng([seed, *text.encode()]).normal(size=width) for text in texts])


def states(texts):
    """Two layers, the second of them narrower, and two pools."""
    h = np.stack([[vectors(texts, 2 * layer + pool) for pool in range(2)] for layer in range(2)])
    h[1, :, :, 4:] = np.nan
    coords = {"layer": [0, 3], "pool": ["mean", "max"], "width": ("layer", [6, 4])}
    return xr.Dataset({"h": (("layer", "pool", "example", "dim"), h)}, coords=coords)


@pytest.fixture(scope="module")
def tasks():
    """Tasks in MTEB's form whose data is here."""
    pytest.importorskip("mteb", reason='mteb is not installed: pip install ".[mteb]"')
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    about = {
        "description": "local", "reference": "https://example.org", "dataset": {"path": "none", "revision": "none"},
        "category": "t2t", "eval_splits": ["test"], "eval_langs": ["eng-Latn"], "date": ("2020-01-01", "2020-01-02"),
        "dialect": [], "domains": [], "task_subtypes": [], "license": "cc-by-4.0", "annotations_creators": "derived",
        "modalities": ["text"], "sample_creation": "found", "bibtex_citation": "",
    }  # fmt: skip

    class Pairs(AbsTaskSTS):
        metadata = TaskMetadata(name="Pairs", type="STS", main_score="cosine_spearman", **about)

        def load_data(self, **_):
            columns = {"sentence1": TEXTS[:10], "sentence2": TEXTS[10:], "score": GRADES}
            self.dataset, self.data_loaded = DatasetDict(test=Dataset.from_dict(columns)), True

    class Found(AbsTaskRetrieval):
        metadata = TaskMetadata(name="Found", type="Retrieval", main_score="ndcg_at_10", **about)

        def load_data(self, **_):
            queries = Dataset.from_dict({"id": [f"q{i}" for i in range(6)], "text": TEXTS[:6]})
            corpus = Dataset.from_dict({"id": [f"d{i}" for i in range(12)], "text": TEXTS[8:], "title": [""] * 12})
            relevant = {f"q{i}": {f"d{i}": 1, f"d{i + 6}": 1} for i in range(6)}
            part = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
            self.dataset, self.data_loaded = {"default": {"test": part}}, True

    return [Pairs(), Found()]


def ours():
    """The same data in this lab's form."""
    found = retrieval("Found", TEXTS[:6] * 2, TEXTS[8:14] + TEXTS[14:])
    return [similarity("Pairs", TEXTS[:10], TEXTS[10:], GRADES), found]


def test_a_score_is_the_definition(tasks):
    found = lab.probes.mteb(vectors, tasks, progress=False)
    a, b = vectors(TEXTS[:10]), vectors(TEXTS[10:])
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.sel(dataset="Pairs").item() == pytest.approx(spearmanr(cosines, GRADES).statistic, abs=1e-6)
    own = lab.probes.evaluate(vectors, ours(), progress=False).mean("example")
    assert found.sel(dataset="Found").item() == pytest.approx(own.sel(dataset="Found").item(), abs=1e-5)
    assert (found.dims, found.kind.values.tolist()) == (("dataset",), ["STS", "Retrieval"])
    assert found.measure.values.tolist() == ["cosine_spearman", "ndcg_at_10"]


def test_every_layer_and_pool_has_the_score_of_its_vectors_and_each_text_is_asked_for_once(tasks):
    asked = []
    found = lab.probes.mteb(lambda texts: asked.extend(texts) or states(texts), tasks, progress=False)
    assert found.dims == ("dataset", "layer", "pool")
    for i, layer in enumerate((0, 3)):
        for j, pool in enumerate(("mean", "max")):
            # of a narrower width the same first numbers
            alone = lab.probes.mteb(partial(vectors, seed=2 * i + j, width=(6, 4)[i]), tasks, progress=False)
            np.testing.assert_allclose(found.sel(layer=layer, pool=pool), alone, atol=1e-6)
    assert len(np.unique(found)) > 4
    assert sorted(asked) == sorted([*TEXTS, *TEXTS[:6], *TEXTS[8:]])  # once for each of the two tasks


# mteb calls a function of its own and one of sentence-transformers by their old names
@pytest.mark.filterwarnings("ignore:The fill_missing parameter is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning")
def test_a_captured_model_and_the_same_model_in_sentence_transformers_agree(tasks, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it asks the hub for a model card
    loaded = lab.models.load("minilm")
    both = lab.probes.mteb(partial(lab.capture.states, loaded, pools=("mean",), progress=False), tasks, progress=False)
    from sentence_transformers import SentenceTransformer

    theirs = lab.probes.mteb(SentenceTransformer(loaded.source), tasks, progress=False)
    np.testing.assert_allclose(both.sel(layer=6, pool="mean"), theirs, atol=1e-4)


def test_the_callers_random_states_stay(tasks):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    lab.probes.mteb(vectors, tasks, progress=False)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_what_cannot_be_asked_is_refused(tasks, monkeypatch):
    with pytest.raises(ValueError, match="knows no task 'STS99'"):
        lab.probes.mteb(vectors, "STS99", progress=False)
    with pytest.raises(ValueError, match="needed are names"):
        lab.probes.mteb(vectors, [], progress=False)
    with pytest.raises(TypeError, match="or tasks; got int"):
        lab.probes.mteb(vectors, [3], progress=False)
    with pytest.raises(ValueError, match=r"is about \['text', 'image'\]"):
        lab.probes.mteb(vectors, "CIFAR10ZeroShot", progress=False)
    with pytest.raises(ValueError, match=r"one finite vector for each of 10 texts; got the shape \(3, 6\)"):
        lab.probes.mteb(lambda texts: vectors(texts[:3]), tasks[:1], progress=False)

    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"the data of STS12 is not on this disk.*load_data\(\)"):
        lab.probes.mteb(vectors, ["STS12"], progress=False)


def test_what_does_not_encode_is_refused_and_so_is_a_machine_without_mteb(monkeypatch):
    monkeypatch.setattr(sys.modules["lab.probes.mteb"], "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install .*\[mteb\]"):
        lab.probes.mteb(vectors, ["STS12"])
    monkeypatch.setattr(sys.modules["lab.probes.mteb"], "find_spec", lambda name: name)
    with pytest.raises(TypeError, match="got list"):
        lab.probes.mteb(TEXTS, ["STS12"])
