"""Every family: layers equal to transformers' own hidden states, and what stands inside a block is what it claims."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILIES, SEQ2SEQ, random_model, reads_letters
from torch import nn

import lab
from lab.models.places import layer_places
from lab.models.wrap import half

TEXTS = ["a text", "", "of several lengths", "some of them of one", "some of them of two"]
# pixels in; the rest read tokens
IMAGES = {"vit", "dinov2", "clip", "swin", "resnet", "convnext"}
# whose own last hidden state is that before the final norm
UNNORMED_LAST = {"vit", "dinov2", "swin"}
# whose own list leaves out the embeddings and repeats the last layer, normed
SHIFTED = {"mamba", "rwkv"}
# blocks that add attention and feed-forward to the stream as they are; others norm, scale or drop on the way
ADDITIVE = {
    "gpt2",
    "gptneox",
    "falcon",
    "opt",
    "bloom",
    "llama",
    "qwen3",
    "phi3",
    "mixtral",
    "qwen3_moe",
    "gpt_oss",
    "vit",
    "clip",
}
WITH_CACHE = {"gpt2", "opt", "llama", "phi3", "mixtral", "gpt_oss"}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def described(name):
    tokenizer = None if name in IMAGES else reads_letters
    return lab.models.describe(name, "test", random_model(name), tokenizer, 60)


def layers_of(model, example):
    seen = {}
    with torch.inference_mode(), model.watching(seen.__setitem__, range(model.depth + 1)):
        model.model(**example)
    return [seen[i] for i in range(model.depth + 1)]


def test_layers_are_transformers_own(family):
    model = described(family)
    got = layers_of(model, model.example)
    with torch.inference_mode():
        out = model.model(**model.example, output_hidden_states=True)
    want = list(out.hidden_states)
    if family in SHIFTED:
        want = [got[0], *want[:2], want[-1]]
        torch.testing.assert_close(got[0], model.model.get_input_embeddings()(model.example["input_ids"]))
    if family in UNNORMED_LAST:
        assert not torch.allclose(got[-1], want[-1])
        want[-1] = out.last_hidden_state
    assert len(got) == len(want) == 4
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(model.chained)


@pytest.mark.parametrize("name", SEQ2SEQ)
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_both_halves_of_an_encoder_decoder(name, part):
    whole = random_model(name)
    module, blocks, example = half(whole, part)
    model = lab.models.describe(name, "test", module, reads_letters, 60, blocks=blocks, example=example)
    ids = example["input_ids"]
    shifted = torch.cat([torch.full((1, 1), whole.config.decoder_start_token_id), ids[:, :-1]], dim=1)
    with torch.inference_mode():
        out = whole(input_ids=ids, decoder_input_ids=shifted, output_hidden_states=True)
    want = out.encoder_hidden_states if part == "encoder" else out.decoder_hidden_states
    got = layers_of(model, example)
    assert len(got) == len(want) == 4
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not model.causal  # a decoder sees the whole text through its encoder
    alone = [lab.capture.states(model, [text]).h for text in TEXTS if text]
    batched = lab.capture.states(model, [text for text in TEXTS if text]).h
    np.testing.assert_allclose(np.concatenate(alone, axis=2), batched, rtol=1e-3, atol=1e-4)


def test_a_batch_gives_each_example_what_it_has_alone(family):
    model = described(family)
    if family in IMAGES:
        pixels = model.example["pixel_values"]
        examples = pixels * torch.linspace(0, 3, 5).view(5, 1, 1, 1) - pixels.flip(-1)
    else:
        examples = [text for text in TEXTS if text or family != "rwkv"]  # it cannot run on nothing but padding
    whole = lab.capture.states(model, examples, pools=("mean", "max", "last"))
    alone = [
        lab.capture.states(model, examples[i : i + 1], pools=("mean", "max", "last")).h for i in range(len(examples))
    ]
    np.testing.assert_allclose(np.concatenate(alone, axis=2), whole.h, rtol=2e-3, atol=2e-4)
    assert whole.width.values.tolist() == list(model.widths)
    for i, width in enumerate(model.widths):
        assert np.isfinite(whole.h[i, ..., :width]).all()
        assert np.isnan(whole.h[i, ..., width:]).all()


@pytest.mark.parametrize("family", sorted(ADDITIVE), indirect=True)
def test_attention_and_mlp_are_what_a_block_adds(family):
    """layer i = layer i - 1 + attention i + mlp i; the last block's own output is seen by its name."""
    model = described(family)
    last = replace(model, places={"layer": layer_places(model.blocks, returns_state=False)})  # before the final norm
    seen = {}

    def copy_of(site):
        return lambda layer, state: seen.update({(site, layer): state.clone()})  # falcon adds in place

    with torch.inference_mode(), ExitStack() as watched:
        watched.enter_context(last.watching(copy_of("layer"), range(4)))
        for site in ("attention", "mlp"):
            watched.enter_context(model.watching(copy_of(site), range(1, 4), site))
        model.model(**model.example)
    for i in range(1, 4):
        before = seen["layer", i - 1]
        added = seen["attention", i] + seen["mlp", i].view_as(before)
        torch.testing.assert_close(seen["layer", i], before + added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(WITH_CACHE), indirect=True)
def test_values_are_those_the_cache_holds(family):
    """So are keys where no rotation comes between; and shared ones are as narrow as they should be."""
    model = described(family)
    names = [f"{site}.{i}" for i in range(1, 4) for site in ("query", "key", "value")]
    with torch.inference_mode(), lab.capture.tap(model, names) as seen:
        cache = model.model(**model.example, use_cache=True).past_key_values
    for i in range(1, 4):
        layer = cache.layers[i - 1]
        torch.testing.assert_close(seen[f"value.{i}"], layer.values.transpose(1, 2).flatten(2))
        if family in ("gpt2", "opt"):
            torch.testing.assert_close(seen[f"key.{i}"], layer.keys.transpose(1, 2).flatten(2))
        assert seen[f"key.{i}"].shape == seen[f"value.{i}"].shape
        assert seen[f"query.{i}"].shape[-1] == 32


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"], indirect=True)
def test_router_logits_are_the_models_own(family):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    head = AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    model = lab.models.describe(family, "test", head.model, reads_letters, 60)
    with torch.inference_mode(), lab.capture.tap(model, ["router.1", "router.3"]) as seen:
        out = head(**model.example, output_router_logits=True)
    torch.testing.assert_close(seen["router.1"], out.router_logits[0])
    torch.testing.assert_close(seen["router.3"], out.router_logits[2])
    routed = lab.capture.states(model, [text for text in TEXTS if text], site="router")
    assert routed.sizes["dim"] == 4
    assert routed.layer.values.tolist() == [1, 2, 3]


def test_what_cannot_be_told_apart_is_not_guessed():
    """NeoX weaves queries, keys and values by head; a state-space model has no attention."""
    neox, mamba = described("gptneox"), described("mamba")
    assert set(neox.places) == {"layer", "attention", "mlp"}
    assert set(mamba.places) == {"layer"}
    with pytest.raises(ValueError, match=r"gptneox has no site 'query' that is known by structure in layer \[1\]"):
        lab.capture.tap(neox, ["query.1"]).__enter__()
    with pytest.raises(ValueError, match=r"mamba has no site 'attention'"):
        lab.capture.states(mamba, TEXTS, site="attention")
    with pytest.raises(ValueError, match=r"no site 'atention'; there are \['layer', 'attention'"):
        lab.capture.states(mamba, TEXTS, site="atention")


def test_blocks_shows_every_site():
    table = lab.capture.blocks(described("phi3"))
    assert table.loc[2, "key"] == ".self_attn.qkv_proj[32:48]"
    assert table.loc[2, "mlp"] == ".mlp.down_proj"
    assert table.loc[0, "key"] == ""
    assert table.attrs["found"] == "stated by transformers: every Phi3DecoderLayer"
    albert = lab.capture.blocks(described("albert"))
    assert albert["run"].tolist() == [0, 0, 1, 0]
    assert albert["module"].nunique() == 3  # the input and the output of the one block, and the model's


class Timmish(nn.Module):
    """The form of timm's vision transformers: patches, blocks in a Sequential, a norm, a head on the first token."""

    class Block(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.norm, self.mlp = nn.LayerNorm(dim), nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

        def forward(self, x):
            return x + self.mlp(self.norm(x))

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(1, 16, 2, 2)
        self.blocks = nn.Sequential(*[self.Block(16) for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, image):
        return self.head(self.norm(self.blocks(self.patch_embed(image).flatten(2).mT))[:, 0])


def test_a_module_of_ones_own_that_sees_images():
    torch.manual_seed(0)
    module, (images, _) = Timmish(), lab.data.digits()
    images = torch.as_tensor(images[:7]).float()
    model = lab.models.wrap(module, images[:1])
    assert (model.blocks, model.reads, model.causal) == (("blocks.0", "blocks.1", "blocks.2"), "image", False)
    got = lab.capture.states(model, images, pools=("mean", "first"))
    with torch.inference_mode():
        x = module.patch_embed(images).flatten(2).mT
        for layer in range(4):
            np.testing.assert_allclose(got.h.sel(layer=layer, pool="mean"), x.mean(1), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(got.h.sel(layer=layer, pool="first"), x[:, 0], rtol=1e-4, atol=1e-5)
            x = module.blocks[layer](x) if layer < 3 else x
    assert not got.normed.any()
    with pytest.raises(ValueError, match=r"takes image of 4 axes, examples first; got \(8, 8\)"):
        lab.capture.states(model, images[0, 0])
    with pytest.raises(ValueError, match="has no tokenizer; it reads image"):
        lab.capture.states(model, TEXTS)


def test_a_plain_convnet_and_blocks_the_user_names():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    with pytest.raises(ValueError, match=r"cannot be found; name them with blocks=\[...\], among \['0', '1'"):
        lab.models.wrap(net, torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"no submodule \['conv1'\] in Sequential"):
        lab.models.wrap(net, torch.zeros(1, 1, 8, 8), blocks=["conv1"])
    model = lab.models.wrap(net, torch.zeros(1, 1, 8, 8), blocks=["1", "3", "5"])
    assert model.widths == (4, 4, 8, 5)
    assert model.chained == (True, False, True)  # a convolution stands between two of them, and the table says so
    x = torch.randn(3, 1, 8, 8)
    got = lab.capture.states(model, x)
    np.testing.assert_allclose(got.h[1, 0, :, :4], net[:2](x).detach().mean((2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.h[3, 0, :, :5], net(x).detach(), rtol=1e-4, atol=1e-6)
    assert got.width.values.tolist() == [4, 4, 8, 5]
    back = lab.capture.states(model, x, layers=[3, 2, 1])
    assert back.width.values.tolist() == [5, 8, 4]
    np.testing.assert_array_equal(back.h, got.h[[3, 2, 1]])


def test_text_models_that_take_no_mask_never_see_padding():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(99, 8), nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]))

    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layers = net[0], net[1]

        def forward(self, tokens):
            assert (tokens != 0).all(), "padding"
            x = self.embed(tokens)
            for layer in self.layers:
                x = layer(x) + x.sum(1, keepdim=True)  # every token sees all others
            return x

    model = lab.models.wrap(Sums(), torch.tensor([[1, 2, 3]]), tokenizer=reads_letters)
    texts = [text for text in TEXTS if text]
    whole = lab.capture.states(model, texts).h
    alone = [lab.capture.states(model, [text]).h for text in texts]
    np.testing.assert_allclose(np.concatenate(alone, axis=2), whole, rtol=1e-4, atol=1e-4)


def test_a_wrong_number_of_blocks_is_refused():
    """Two more equal modules than layers: a stack that only looks like the blocks."""
    model = random_model("deberta")
    model.decoys = nn.ModuleList(nn.Linear(1, 1) for _ in range(5))
    with pytest.raises(ValueError, match=r"\['decoys.0', .* never ran; name those that do"):
        lab.models.describe("decoys", "test", model, None, 60)
    model = random_model("deberta")
    model.config.num_hidden_layers = 4
    with pytest.raises(ValueError, match=r"3 blocks ran, .* states 4 layers; name them with blocks"):
        lab.models.describe("one less", "test", model, None, 60)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "opt", "bloom", "falcon", "qwen3", "gemma2", "phi3", "mixtral", "gpt_oss"]
)
def test_a_decoder_looks_both_ways_and_back_again(name, attention):
    from transformers import AutoModel

    torch.manual_seed(0)
    try:
        module = AutoModel.from_config(FAMILIES[name](), attn_implementation=attention)
    except ValueError:
        pytest.skip(f"{name} has no {attention} attention")
    model = lab.models.describe(name, "test", module, reads_letters, 60)
    assert model.causal
    causal = lab.capture.states(model, ["one text"], pools=("first",)).h
    with lab.models.bidirectional(model) as both:
        assert not lab.models.describe(name, "test", module, reads_letters, 60).causal
        alone = lab.capture.states(both, ["one text"], pools=("first",)).h
        padded = lab.capture.states(both, ["one text", "and a longer one"], pools=("first",), batch_tokens=999).h
        assert np.abs(alone - causal)[-1].max() > 1e-4
        np.testing.assert_allclose(alone[:, :, 0], padded[:, :, 0], rtol=1e-3, atol=1e-5)
    assert lab.models.describe(name, "test", module, reads_letters, 60).causal
    np.testing.assert_array_equal(lab.capture.states(model, ["one text"], pools=("first",)).h, causal)


def test_a_model_that_stays_causal_is_refused():
    mamba = described("mamba")
    with pytest.raises(ValueError, match=r"mamba stays causal .*one text alone, two of one length, one of them padded"):
        lab.models.bidirectional(mamba).__enter__()
    llama = described("llama")

    def relapse(module, _, given):
        module.config.is_causal = given.get("attention_mask") is None

    # as families have done: causal where no mask comes, so alone and among texts of one length
    handle = llama.model.register_forward_pre_hook(relapse, with_kwargs=True)
    with pytest.raises(ValueError, match=r"is_causal = False \(one text alone, two of one length\)"):
        lab.models.bidirectional(llama).__enter__()
    handle.remove()
    assert described("llama").causal
    bert = described("bert")
    with lab.models.bidirectional(bert) as same:
        assert same is bert
