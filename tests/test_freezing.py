"""lab.training.frozen: what is held, what learns, and that all is as it was afterwards."""

import pandas as pd
import pytest
import torch
from families import random_model

import lab
from lab.training import contrastive, embedder, frozen

SHORT = {"steps": 2, "batch": 4, "rate": 1e-2, "progress": False}
PAIRS = pd.DataFrame({"query": list("abcdefgh"), "positive": ["x y", "z w", "v u", "t s", "r q", "p o", "n m", "l k"]})


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("layers", [0, 2, 3])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "vit"])
def test_the_embeddings_and_the_first_blocks_are_held(kind, layers):
    model = lab.models.tiny(kind, layers=3, dim=16)
    blocks = [name for name, _ in model.model.named_parameters() if any(name.startswith(f"{b}.") for b in model.blocks)]
    before = {name: p.requires_grad for name, p in model.model.named_parameters()}
    with frozen(model, layers) as left:
        free = {name for name, p in model.model.named_parameters() if p.requires_grad}
        upper = tuple(f"{b}." for b in model.blocks[layers:])
        assert {name for name in blocks if name in free} == {
            name for name in blocks if upper and name.startswith(upper)
        }
        parts = ("embed", "wte", "wpe")
        below = {name for name, _ in model.model.named_parameters() if any(part in name for part in parts)}
        assert below
        assert not below & free
        sizes = {name: p.numel() for name, p in model.model.named_parameters()}
        assert left.trained == sum(sizes[name] for name in free)
        assert left.held == sum(sizes.values()) - left.trained
    assert {name: p.requires_grad for name, p in model.model.named_parameters()} == before


def test_the_norm_above_the_last_block_still_learns():
    model = lab.models.tiny("llama", layers=2, dim=16)
    with frozen(model, 2):
        assert [name for name, p in model.model.named_parameters() if p.requires_grad] == ["norm.weight"]


def test_what_was_held_before_stays_so_and_an_error_restores():
    model = lab.models.tiny("bert", layers=2, dim=16)
    own = next(model.model.parameters())
    own.requires_grad_(False)
    with frozen(model, 1) as left:
        assert left.held + left.trained == sum(p.numel() for p in model.model.parameters()) - own.numel()
    with pytest.raises(RuntimeError, match="on the way"), frozen(model, 1):
        raise RuntimeError("on the way")
    assert [p.requires_grad for p in model.model.parameters()].count(False) == 1
    assert not own.requires_grad


def test_a_block_that_runs_several_times_is_not_taken_for_the_embeddings():
    model = lab.models.wrap(random_model("albert"), {"input_ids": torch.tensor([[5, 6, 7]])})
    with frozen(model, 0):
        free = {name for name, p in model.model.named_parameters() if p.requires_grad}
    assert {name for name, _ in model.model.named_parameters() if name.startswith(model.blocks[0])} <= free
    assert not any("embedding" in name for name in free)


@pytest.fixture
def llama(plain_torch):
    return lambda: embedder(
        lab.models.tiny("llama", layers=3, dim=16, heads=2, window=16), "mean, causal", device="cpu"
    )


def test_training_moves_what_is_left_and_nothing_below(llama):
    model = llama().train()
    with frozen(model, 2) as left:
        assert all(part.training for part in model.modules())
        before = weights(model)
        tuned = contrastive(PAIRS, model, **SHORT)
    assert tuned.parameters == left.trained
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("layers.2." in name or "model.norm" in name for name in moved)
    assert all(p.requires_grad for p in model.parameters())


def test_a_folder_knows_what_was_held(llama, tmp_path):
    with frozen(one := llama(), 2):
        contrastive(PAIRS, one, folder=tmp_path, **SHORT)
    with pytest.raises(ValueError, match=r"holds another run: \{'not trained'"):
        contrastive(PAIRS, llama(), folder=tmp_path, **SHORT)


def test_bad_input():
    model = lab.models.tiny("bert", layers=2, dim=16)
    for layers in (-1, 3, 1.0, True):
        with pytest.raises(ValueError, match=r"layers must be 0 \(the embeddings\) to 2"), frozen(model, layers):
            pass
    says = "expected a SentenceTransformer of a transformers model"
    with pytest.raises(TypeError, match=says), frozen(torch.nn.Linear(2, 2), 0):
        pass
    for p in model.model.pooler.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing that can be trained is left"), frozen(model, 2):
        pass
    assert sum(p.requires_grad for p in model.model.parameters()) == sum(1 for _ in model.model.parameters()) - 2
