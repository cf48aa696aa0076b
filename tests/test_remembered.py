"""lab.training.remembered: the same features to the bit, each text cut once, and nobody else's tokens."""

import copy

import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

import lab
from lab.training import contrastive, embedder
from lab.training import remembered as room
from lab.training.remembered import remembered

pytestmark = pytest.mark.usefixtures("plain_torch")

TEXTS = ["a", "some words", "many more words than the window holds, so they are cut", "", "some words", "b c"]
PAIRS = pd.DataFrame({"query": [f"what is {i}" for i in range(8)], "positive": [f"{i} is a number" for i in range(8)]})


@pytest.fixture(autouse=True)
def forgotten():
    room._kept.cache_clear()


@pytest.fixture(scope="module")
def bases():
    return {kind: lab.models.tiny(kind, layers=1, dim=16, heads=2, window=16) for kind in ("bert", "llama")}


def made(bases, kind="bert", window=12):
    return embedder(bases[kind], "mean, both ways", window=window)


def assert_alike(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == two[name].dtype
            torch.testing.assert_close(value, two[name], rtol=0, atol=0)
        else:
            assert value == two[name]


def counted(model):
    """What the model's own reading was asked for."""
    asked, usual = [], model[0].preprocess

    def preprocess(inputs, **options):
        asked.extend(inputs)
        return usual(inputs, **options)

    model[0].preprocess = preprocess
    return asked


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_features_are_the_usual_ones(bases, kind, side):
    model = made(bases, kind)
    model.tokenizer.padding_side = side
    parts = TEXTS[:2], TEXTS[1:], TEXTS[::-1], TEXTS[3:4]
    wanted = [model.preprocess(part) for part in parts]
    assert wanted[2]["attention_mask"].float().mean() < 1
    with remembered(model):
        found = [model.preprocess(part, prompt=None, task=None) for part in parts]
        vectors = model.encode(TEXTS)
    for one, two in zip(found, wanted, strict=True):
        assert_alike(dict(one), dict(two))
    assert (vectors == model.encode(TEXTS)).all()


def test_a_text_is_cut_once_also_for_another_model_like_it(bases):
    first, second = made(bases), made(bases)
    asked, again = counted(first), counted(second)
    with remembered(first):
        first.preprocess(TEXTS)
        first.preprocess(TEXTS[:2])
    with remembered(second):
        second.preprocess([*TEXTS, "new"])
    assert asked == list(dict.fromkeys(TEXTS))
    assert again == ["new"]


def test_what_was_done_to_a_batch_does_not_come_back(bases):
    model = made(bases)
    with remembered(model):
        first = model.preprocess(TEXTS)
        first["input_ids"] += 1
        first["sentence_embedding"] = torch.zeros(1)
        second = model.preprocess(TEXTS)
    assert_alike(dict(second), dict(model.preprocess(TEXTS)))


@pytest.mark.parametrize("other", ["window", "side", "words"])
def test_models_that_read_otherwise_share_nothing(bases, other):
    model, apart = made(bases), made(bases, window=8 if other == "window" else 12)
    if other == "side":
        apart.tokenizer.padding_side = "left"
    if other == "words":
        apart.tokenizer.add_tokens(["some words"])
    wanted = apart.preprocess(TEXTS)
    with remembered(model):
        model.preprocess(TEXTS)
    with remembered(apart):
        assert_alike(dict(apart.preprocess(TEXTS)), dict(wanted))


def test_prompts_and_options_go_the_usual_way(bases):
    model = made(bases)
    wanted = model.preprocess(TEXTS, prompt="tell: ")
    with remembered(model):
        model.preprocess(TEXTS)
        assert_alike(dict(model.preprocess(TEXTS, prompt="tell: ")), dict(wanted))
        short = model.preprocess(TEXTS, max_length=5)
    assert short["input_ids"].shape[1] == 5


def test_the_model_is_as_it_was_afterwards(bases):
    model = made(bases)

    def failing():
        with remembered(model):
            with remembered(model):  # of a training inside a comparison
                model.preprocess(TEXTS)
            assert "preprocess" in vars(model)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        failing()
    assert "preprocess" not in vars(model)
    assert type(copy.deepcopy(model)) is SentenceTransformer


def test_more_texts_than_are_kept_are_cut_each_time(bases, monkeypatch):
    monkeypatch.setattr(room, "MOST", 3)
    model = made(bases)
    asked = counted(model)
    with remembered(model):
        for part in (TEXTS[:2], TEXTS, TEXTS):
            assert_alike(dict(model.preprocess(part)), dict(model[0].preprocess(part)))
    assert asked.count("a") > 2


def test_training_is_the_same_to_the_bit(bases):
    """The first reads every text anew, the second finds them cut."""
    weights = []
    for _ in range(2):
        model = made(bases, "llama")
        contrastive(PAIRS, model, steps=2, batch=4, rate=1e-2, progress=False)
        weights.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
    assert room._kept.cache_info().hits == 1
    assert torch.equal(*weights)
