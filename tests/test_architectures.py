"""lab.training.architectures: the same calls train three decoders, and say what they did to each."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

import lab
from lab.training.architectures import GOALS, architectures

pytestmark = pytest.mark.usefixtures("plain_torch")

WORDS = ["red", "green", "blue", "grey", "black", "white", "brown", "pink"]
PAIRS = pd.DataFrame({"query": [f"what is {w}" for w in WORDS], "positive": [f"{w} is a colour" for w in WORDS]})
SHORT = {"layers": 1, "dim": 16, "steps": 8, "batch": 4, "window": 12, "rate": 2e-2, "progress": False}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    made = {"layers": 1, "dim": 8, "heads": 2, "pieces": 60, "window": 8, "steps": 1, "batch": 2}
    texts = [*PAIRS["query"], *PAIRS["positive"]]
    place = lab.training.base(texts, **made, folder=tmp_path_factory.mktemp("base"), progress=False)
    return lab.models.load(str(place)).tokenizer


def test_the_mask_is_off_and_the_loss_falls_on_every_architecture(reader):
    found = architectures(
        PAIRS, reader, goals=["contrast"], seeds=[3], dropout=0.0, **SHORT | {"rate": 5e-3, "steps": 12}
    )
    assert found.loss.dims == ("architecture", "goal", "seed", "part")
    assert found.architecture.values.tolist() == ["llama", "gpt2", "qwen3"]
    assert found.seed.values.tolist() == [3]
    assert (found.loss.sel(part="last") < found.loss.sel(part="first")).all()
    assert found.both_ways.all()


def test_simcse_has_its_text_on_both_sides_and_grl_a_negative(reader, monkeypatch):
    seen = []

    def watched(pairs, model, **options):
        seen.append((pairs, model, options["loss"]))
        return whole(pairs, model, **options)

    whole = lab.training.contrastive
    monkeypatch.setattr(sys.modules["lab.training.architectures"], "contrastive", watched)
    found = architectures(PAIRS, reader, ("llama",), goals=["SimCSE", "GRL"], dropout=0.3, **SHORT | {"steps": 4})
    assert np.isfinite(found.loss).all()
    assert found.both_ways.values.ravel().tolist() == [True, False]
    (simcse, model, infonce), (grl, _, last) = seen
    assert (infonce, last) == ("infonce", "grl")
    assert simcse["positive"].tolist() == PAIRS["query"].tolist()
    assert grl["negative"].tolist() == [PAIRS["positive"].iloc[-1], *PAIRS["positive"].iloc[:-1]]
    texts = dict(model.preprocess(PAIRS["query"].tolist()))
    with torch.no_grad():
        one, other = (model.train()(dict(texts))["sentence_embedding"] for _ in range(2))
    assert not torch.allclose(one, other)  # dropout tells them apart


@pytest.mark.parametrize(
    ("given", "word"),
    [({"goals": ["GLR"]}, r"no goal \['GLR'\]"), ({"steps": 3}, "4 or more"), ({"kinds": ["mamba"]}, "no tiny model"),
     ({"kinds": ["bert"], "goals": ["GRL"]}, "the design is causal")],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(reader, given, word):
    with pytest.raises(ValueError, match=word):
        architectures(PAIRS, reader, **SHORT | given)


def test_the_room_has_it():
    assert lab.training.architectures is architectures
    assert set(GOALS) == {"contrast", "SimCSE", "GRL"}
