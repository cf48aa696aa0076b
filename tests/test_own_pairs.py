"""A user's own pairs: bad files are said to be, no text stands on two sides, what is exported is the same elsewhere."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import lab


def table(n=30):
    return pd.DataFrame({"query": [f"q {i}" for i in range(n)], "positive": [f"p {i}" for i in range(n)]})


def written(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_file_of_pairs_is_read_under_its_own_names_and_repeats_are_counted(tmp_path):
    rows = [{"question": f"q {i % 25}", "answer": f"p {i % 25}", "query": "other", "weight": i} for i in range(30)]
    found = lab.data.pairs(written(tmp_path / "a.jsonl", rows), ("question", "answer"))
    assert found.columns.tolist() == ["query", "positive", "weight"]
    assert found["query"].tolist() == [f"q {i}" for i in range(25)]
    assert found.attrs["repeated"] == 5


def test_what_was_trained_on_is_read_back(tmp_path):
    pairs = lab.data.training_pairs(40)
    pairs.to_json(tmp_path / "pairs.jsonl", orient="records", lines=True)
    pd.testing.assert_frame_equal(lab.data.pairs(tmp_path / "pairs.jsonl"), pairs, check_dtype=False)


BAD = [
    ("", "is empty"),
    ("{", "does not parse"),
    ([{"query": "a"}] * 30, r"no column \['positive'\]"),
    ([{"query": f"a{i}", "positive": None if i == 4 else "b"} for i in range(30)], "has no value in 1 of 30 rows.*4"),
    (
        [{"query": f"a{i}", "positive": " " if i in (3, 9) else "b"} for i in range(30)],
        "2 of 30 rows .* 'positive'.*3, 9",
    ),
    ([{"query": i, "positive": "b"} for i in range(30)], "no text in 'query'"),
    ([{"query": "a", "positive": "b"}] * 30, "has 1 different pairs; needed are 20"),
    ([{"query": f"a{i}", "positive": f"a{i}"} for i in range(30)], "both sides are the same text"),
    (
        [{"query": f"a{i}", "positive": "b", "negative_score": i / 30} for i in range(30)],
        "column 'negative_score' has no text in it.*call it something else",
    ),
    ([{"query": f"a{i}", "positive": "b" if i else "\ud83d"} for i in range(30)], r"stands .ud83d, half a character"),
    ([{"query": f"a{i}", "positive": "b" if i else "x\ude00y"} for i in range(30)], r"stands .ude00, half a character"),
]


@pytest.mark.parametrize(("content", "said"), BAD, ids=[said[:16] for _, said in BAD])
def test_a_bad_file_is_said_to_be(tmp_path, content, said):
    path = tmp_path / "a.jsonl"
    path.write_text(content) if isinstance(content, str) else written(path, content)
    with pytest.raises(ValueError, match=said):
        lab.data.pairs(path)


def test_half_a_character_is_not_dropped_and_a_whole_one_stays(tmp_path):
    rows = [{"query": f"q {i}", "positive": f"p {i}"} for i in range(30)]
    said = [r"a literal \ud800 of source", "😀", "two 😀😀"]
    for row, text in zip(rows, said, strict=False):
        row["query"] = text
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert lab.data.pairs(tmp_path / "a.json")["query"].tolist()[:3] == said
    rows[5]["query"] = "\ud800 alone"
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="half a character"):
        lab.data.pairs(tmp_path / "a.json")


def test_a_column_that_stands_twice_is_said_to(tmp_path):
    (tmp_path / "a.csv").write_text("query,positive,query\n" + "\n".join(f"q {i},p {i},z {i}" for i in range(30)))
    with pytest.raises(ValueError, match=r"column \['query'\] more than once"):
        lab.data.pairs(tmp_path / "a.csv")
    twice = pd.concat([table(), table()[["query"]]], axis=1)
    with pytest.raises(ValueError, match="one column query and one positive"):
        lab.data.split_pairs(twice)
    with pytest.raises(ValueError, match=r"\['query'\] more than once"):
        lab.data.pair_task(twice)
    model = lab.training.embedder(
        lab.models.tiny("bert", layers=1, dim=32), lab.training.Design("bidirectional", "mean"), device="cpu"
    )
    with pytest.raises(ValueError, match=r"\['query'\] more than once"):
        lab.training.contrastive(twice, model, steps=1, batch=4, rate=1e-3)
    with pytest.raises(ValueError, match=r"no text at all in 'negative_score'.*call it something else"):
        lab.training.contrastive(table().assign(negative_score=0.5), model, steps=1, batch=4, rate=1e-3)


def test_a_file_that_is_not_there_and_columns_that_are_not_two(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        lab.data.pairs(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="two sides"):
        lab.data.pairs(tmp_path / "none.csv", ("query", "query"))


@pytest.mark.parametrize("seed", range(3))
def test_no_text_stands_in_two_parts(seed):
    draw = np.random.default_rng(seed)
    pairs = pd.DataFrame({"query": draw.integers(90, size=80), "positive": draw.integers(60, 360, size=80)}).astype(str)
    parts = lab.data.split_pairs(pairs, seed=seed)
    assert sum(map(len, parts.values())) == 80
    said = [{*part["query"], *part["positive"]} for part in parts.values()]
    assert not said[0] & said[1]
    assert not said[0] & said[2]
    assert not said[1] & said[2]
    assert [len(part) for part in parts.values()] == pytest.approx([48, 16, 16], abs=3)


def test_a_pair_and_its_mirror_image_stay_together_and_so_does_a_chain():
    a, b = [f"a {i}" for i in range(50)], [f"b {i}" for i in range(50)]
    parts = lab.data.split_pairs(pd.DataFrame({"query": a + b, "positive": b + a}))
    trained = set(zip(parts["training"]["positive"], parts["training"]["query"], strict=True))
    assert not trained & set(zip(parts["test"]["query"], parts["test"]["positive"], strict=True))
    assert [len(part) for part in parts.values()] == [60, 20, 20]
    chain = pd.DataFrame({"query": [f"t {i}" for i in range(60)], "positive": [f"t {i + 1}" for i in range(60)]})
    with pytest.raises(ValueError, match="60 share texts with each other"):
        lab.data.split_pairs(chain)


def test_a_split_is_of_its_seed_and_reaches_its_shares():
    first, again, other = (lab.data.split_pairs(table(), seed=seed) for seed in (0, 0, 1))
    for name in first:
        pd.testing.assert_frame_equal(first[name], again[name])
    assert any(not first[name].equals(other[name]) for name in first)
    assert [len(part) for part in first.values()] == [18, 6, 6]
    assert [len(part) for part in lab.data.split_pairs(table(), {"a": 0.5, "b": 0.5}).values()] == [15, 15]


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="30 share texts with each other"):
        lab.data.split_pairs(table().assign(positive="the same"))
    with pytest.raises(ValueError, match="sum to 1"):
        lab.data.split_pairs(table(), {"a": 0.5})


def test_an_exported_model_gives_the_same_vectors_in_a_fresh_python(tmp_path):
    small = lab.models.tiny("bert", layers=2, dim=32)
    design = lab.training.Design("bidirectional", "norm_weighted_mean", 1)
    model = lab.training.embedder(small, design, window=16, device="cpu")
    texts = ["a text", "a longer text than the one before", "x"]
    assert lab.training.export(model, tmp_path / "model", texts) <= 1e-6
    assert (tmp_path / "model" / "modules.json").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="no sentence-transformers model"):
        lab.training.export(model, tmp_path / "other", texts)
    with pytest.raises(ValueError, match="no text"):
        lab.training.export(model, tmp_path / "model", [])


# a process in which the package cannot be imported, whatever else is there
FOREIGN = """
import json, sys
sys.modules["lab"] = None
from sentence_transformers import SentenceTransformer
def encoded(folder):
    try:
        model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
        return model.encode(json.loads(sys.argv[1])).tolist()
    except ImportError as error:
        return str(error)
print(json.dumps([encoded(folder) for folder in sys.argv[2:]]))
"""


def test_an_export_loads_without_this_package_where_it_says_so(tmp_path, monkeypatch):
    """The last layer by a pooling that sentence-transformers has too; an earlier layer it has not."""
    tries = []

    def tried(command, **_):
        tries.append(command[-1])
        np.save(command[-3], model.encode(texts))
        return subprocess.CompletedProcess(command, 0)

    small, texts = lab.models.tiny("llama", layers=2, dim=32, heads=2), ["a text", "a longer text than before", "x"]
    kinds = [("mean", "last"), ("last", "last"), ("first", 2), ("max", 2), ("position_mean", 2), ("mean", 1)]
    kinds.append(("norm_weighted_mean", "last"))
    here = []
    for at, (tokens, layer) in enumerate(kinds):
        design = lab.training.Design("bidirectional", tokens, layer)
        model = lab.training.embedder(small, design, window=16, device="cpu")
        ours = model[1]
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "run", tried)
            lab.training.export(model, tmp_path / str(at), texts)
        assert model[1] is ours
        here.append(model.encode(texts))
    folders = [str(tmp_path / str(at)) for at in range(len(kinds))]
    assert [lab.training.loads_alone(folder) for folder in folders] == [True] * 5 + [False] * 2
    assert tries == ["alone"] * 5 + ["with this package"] * 2
    command = [sys.executable, "-c", FOREIGN, json.dumps(texts), *folders]
    there = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for vectors, own in zip(there[:5], here, strict=False):
        np.testing.assert_allclose(vectors, own, atol=1e-6)
    assert all("lab.pooling" in said for said in there[5:])


def test_an_exported_plain_mean_is_tried_where_the_package_cannot_be_imported(tmp_path):
    model = lab.training.embedder(
        lab.models.tiny("bert", layers=1, dim=32), lab.training.Design("bidirectional", "mean"), device="cpu"
    )
    assert lab.training.export(model, tmp_path, ["a text", "x"]) <= 1e-6
    assert lab.training.loads_alone(tmp_path)


def test_what_is_no_saved_model_cannot_be_said_to_load(tmp_path):
    with pytest.raises(ValueError, match=r"no modules\.json"):
        lab.training.loads_alone(tmp_path)


def test_a_model_that_changes_on_the_way_is_seen(tmp_path):
    small = lab.models.tiny("bert", layers=1, dim=32)
    model = lab.training.embedder(small, lab.training.Design("bidirectional", "mean"), window=16, device="cpu")
    save = model.save

    def other(folder, **options):
        save(folder, **options)
        with open(f"{folder}/modules.json", "a") as file:
            file.write("!")

    model.save = other
    with pytest.raises(RuntimeError, match="cannot be loaded in a fresh Python"):
        lab.training.export(model, tmp_path / "model", ["a text"])
