"""Halves of blocks: how far each turns the stream, and a model without some of them."""

import numpy as np
import pytest
import torch

import lab
from lab.capture import part_influence
from lab.models import without_parts

IDS = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(1))


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.model.modules())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_a_part_the_stream_passes_it_by(kind):
    model = lab.models.tiny(kind, layers=3, dim=32)
    names = ["layer.0", "layer.1", "layer.2", "attention.2", "mlp.2", "mlp.1"]
    before = hooks(model)
    with torch.no_grad(), lab.capture.tap(model, names) as seen:
        whole = model.last_state(input_ids=IDS)
        with without_parts(model, {"attention": [2]}):
            model.model(input_ids=IDS)
        torch.testing.assert_close(seen["layer.2"], seen["layer.1"] + seen["mlp.2"])
        with without_parts(model, {"attention": [2], "mlp": [2]}) as shorter:
            shorter.model(input_ids=IDS)
        torch.testing.assert_close(seen["layer.2"], seen["layer.1"])
        assert seen["mlp.1"].abs().max() > 0
        assert torch.equal(model.last_state(input_ids=IDS), whole)
    assert hooks(model) == before


def test_all_is_put_back_after_an_error():
    model = lab.models.tiny("llama", layers=2, dim=32)
    before = hooks(model)
    with pytest.raises(KeyError), without_parts(model, {"mlp": [1]}):
        raise KeyError
    assert hooks(model) == before


def test_parts_that_are_not_there_are_refused():
    model = lab.models.tiny("llama", layers=2, dim=32)
    for parts, says in (({"head": [1]}, r"no part \['head'\]"), ({"mlp": [3]}, "in layer"), ({"mlp": [0]}, "in layer")):
        with pytest.raises(ValueError, match=says), without_parts(model, parts):
            pass
    with pytest.raises(TypeError, match="got LlamaModel"), without_parts(model.model, {}):
        pass


def test_a_shared_block_is_refused():
    import transformers as tf

    config = tf.AlbertConfig(
        vocab_size=99, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    model = lab.models.describe("albert", "random", tf.AlbertModel(config).eval(), None, None)
    with pytest.raises(ValueError, match="in several layers"), without_parts(model, {"attention": [2]}):
        pass


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_influence_is_one_less_the_cosine(kind):
    model = lab.models.tiny(kind, layers=3, dim=32)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    found = part_influence(model, input_ids=IDS, attention_mask=mask)
    names = [f"{site}.{i}" for site in ("layer", "attention", "mlp") for i in range(4) if i or site == "layer"]
    with torch.no_grad(), lab.capture.tap(model, names) as seen:
        model.model(input_ids=IDS, attention_mask=mask)
    h = {name: value.double().numpy()[mask.bool().numpy()] for name, value in seen.items()}
    for i in (1, 2, 3):
        x = h[f"layer.{i - 1}"]
        middle = x + h[f"attention.{i}"]
        out = middle + h[f"mlp.{i}"]
        for part, a, b in (("attention", x, middle), ("mlp", middle, out), ("block", x, out)):
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert found.sel(part=part, layer=i).item() == pytest.approx(1 - cosine.mean(), abs=1e-7)


def test_a_part_that_adds_nothing_has_none():
    model = lab.models.tiny("llama", layers=2, dim=32)
    with without_parts(model, {"attention": [1]}):
        found = part_influence(model, input_ids=IDS)
    assert found.sel(part="attention").values[0] == pytest.approx(0, abs=1e-12)
    assert found.sel(part="attention").values[1] > 1e-4
    assert found.sel(part="mlp", layer=1) == found.sel(part="block", layer=1)


def test_blocks_that_do_not_add_up_are_refused():
    bert = lab.models.tiny("bert", layers=2, dim=32)  # its norms stand behind the parts
    with pytest.raises(ValueError, match=r"layer 1 of .* is not the state before it"):
        part_influence(bert, input_ids=IDS)
