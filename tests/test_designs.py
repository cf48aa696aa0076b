"""lab.training.designs, embedder and base: each design is what it says, its mask holds, and a base is found again."""

import json
import subprocess
import sys

import pytest
import torch
from sentence_transformers import SentenceTransformer

import lab
from lab.pooling.founding import MLPPool, PaddingToo, ResidualPool
from lab.pooling.interchange import LayerPooling, TokenPooling
from lab.pooling.latent import LatentAttentionPool, PerceiverPool
from lab.pooling.layers import LayerPick, SoftmaxMix
from lab.pooling.multilayer import MultiLayerPool, MultiLayerResidualPool
from lab.training import DESIGNS, Design, base, embedder
from lab.training import designs as room
from lab.training import embedder as embedder_function

pytestmark = pytest.mark.usefixtures("plain_torch")

TEXTS = ["the mean of all tokens", "last", "a singular value decomposition of a matrix", "the last of them is here"]
CORPUS = [f"def area{i}(radius):\n    return {i} * radius ** 2" for i in range(60)]
TINY = {"layers": 2, "dim": 16, "heads": 2, "pieces": 60, "window": 32, "steps": 3, "batch": 4, "progress": False}


@pytest.fixture(scope="module")
def llama():
    return lab.models.tiny("llama", layers=3, dim=16, heads=2, window=64)


def built(llama, name, **options):
    design = DESIGNS[name]
    return embedder(llama, design.at(2) if design.layers == "best" else design, device="cpu", **options)


def states(model, texts, side="right"):
    """All hidden states of the model's own transformer, and the mask."""
    transformer = model[0]
    transformer.tokenizer.padding_side = side
    encoded = transformer.tokenizer(texts, padding=True, return_tensors="pt")
    transformer.tokenizer.padding_side = "right"
    given = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
    with torch.no_grad():
        plain = type(transformer.model)(transformer.model.config)  # without the hooks that pool layers
        plain.load_state_dict(transformer.model.state_dict())
        hidden = plain.eval()(**given, output_hidden_states=True).hidden_states
    return hidden, encoded["attention_mask"].bool()


def embed(model, texts, side="right"):
    model[0].tokenizer.padding_side = side
    found = model.encode(texts, convert_to_tensor=True, batch_size=8)
    model[0].tokenizer.padding_side = "right"
    return found


# the table


def test_the_table_has_the_papers_five_and_the_controls():
    kinds = {name: (one.mask, one.tokens, one.layers, one.head) for name, one in DESIGNS.items()}
    assert len(set(kinds.values())) == len(kinds) == 16
    assert [name.split()[0] for name in DESIGNS][:9] == ["1", "2", "2r", "3", "3r", "4", "4r", "5", "5r"]
    assert all(one.says for one in DESIGNS.values())
    assert [row["design"] for row in room.table()] == list(DESIGNS)
    assert set(room.table()[0]) == {"design", "mask", "tokens", "layers", "head", "says"}
    for mask in room.MASKS:
        for tokens in ("last", "mean"):
            assert (mask, tokens, "last", None) in kinds.values()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask": "prefix"}, "mask must be one of"),
        ({"tokens": "average"}, "a name of lab.pooling.POOLS"),
        ({"layers": "first"}, 'layers must be "last"'),
        ({"layers": True}, 'layers must be "last"'),
        ({"head": "big"}, "head must be one of"),
        ({"layers": "all"}, "goes with a head that reads several"),
        ({"head": "multilayer"}, "goes with a head that reads several"),
    ],
)
def test_a_design_that_is_none_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Design(**{"mask": "causal", "tokens": "last", **wrong})


def test_sizes_follow_the_width():
    """At the paper's width, the paper's sizes: 1.278 billion parameters; the MLP has as many to within one row."""
    with torch.device("meta"):
        heads = {name: make(4096, lab.pooling.POOLS["last"](4096)) for name, make in room.OF_TOKENS.items()}
        heads |= {name: make(4096, 32) for name, make in room.OF_LAYERS.items()}
        small = {name: make(64, lab.pooling.POOLS["last"](64)) for name, make in room.OF_TOKENS.items()}
    count = {name: sum(p.numel() for p in head.parameters()) for name, head in heads.items()}
    assert count["multilayer"] == pytest.approx(1.278e9, rel=1e-3)
    assert count["latent_attention"] == pytest.approx(0.740e9, rel=1e-2)
    assert abs(count["mlp"] - count["perceiver"]) <= 4096 + 1
    few = {name: sum(p.numel() for p in head.parameters()) for name, head in small.items()}
    assert abs(few["mlp"] - few["perceiver"]) <= 64 + 1
    reader = heads["perceiver"].pool.reader
    assert (len(reader.latents), reader.heads, reader.dim_head) == (768, 32, 2048)
    assert few["perceiver"] / 64**2 == pytest.approx(count["perceiver"] / 4096**2, rel=0.02)


# what each design computes


def want(name, pooling, hidden, mask):
    """The definition: from all hidden states of the model, in words."""
    at = mask.long().cumsum(1).argmax(1)
    last = torch.stack([h[torch.arange(len(mask)), at] for h in hidden])
    mean = torch.stack([torch.stack([row[real].mean(0) for row, real in zip(h, mask, strict=True)]) for h in hidden])
    head = pooling.layer_pool if isinstance(pooling, LayerPooling) else pooling.token_pools[0]
    kind = DESIGNS[name]
    pooled = {"last": last, "mean": mean}[kind.tokens]
    if kind.head is None:
        return pooled[2 if kind.layers == "best" else -1]
    if kind.layers == "all":
        return head(pooled[1:])
    if name.startswith("2 "):
        return head.pool(last[-1][:, None], torch.ones(len(mask), 1, dtype=torch.bool))
    if name.startswith("4 "):
        return head.pool(hidden[-1], torch.ones_like(mask))
    if kind.head == "perceiver_repaired":
        return pooled[-1] + head.out(head.more(hidden[-1], mask))
    return head(hidden[-1], mask)


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_is_what_it_says(llama, name):
    model = built(llama, name)
    with torch.no_grad():
        for parameter in model[1].parameters():
            parameter.add_(torch.rand_like(parameter) / 8)  # what starts at zero too
        hidden, mask = states(model, TEXTS)
        torch.testing.assert_close(
            embed(model, TEXTS), want(name, model[1], hidden, mask).detach(), rtol=1e-5, atol=2e-6
        )
        alone = torch.stack([embed(model, [text])[0] for text in TEXTS])
    apart = max(
        (alone - embed(model, TEXTS)).norm(dim=1).max(), (embed(model, TEXTS, "left") - alone).norm(dim=1).max()
    )
    # the paper's model 4 reads padding, so a text's embedding is its batch's as well
    assert (apart > 1e-3) == name.startswith("4 "), f"moved by {apart}"


HEADS = {
    "2 last-layer, causal": PerceiverPool,
    "2r last-layer, causal": ResidualPool,
    "3 multi-layer, causal": MultiLayerPool,
    "3r multi-layer, causal": MultiLayerResidualPool,
    "4 last-layer, both ways": PaddingToo,
    "5 multi-layer, both ways": MultiLayerPool,
    "MLP on last, causal": MLPPool,
    "softmax mix, both ways": SoftmaxMix,
    "latent attention, both ways": LatentAttentionPool,
    "best layer, both ways": LayerPick,
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_the_pooling_rooms(llama, name):
    pooling = built(llama, name)[1]
    assert any(type(part) is HEADS[name] for part in pooling.modules())
    if isinstance(pooling, LayerPooling) and name != "best layer, both ways":
        assert pooling.layers == [1, 2, 3]  # the paper drops the embeddings


@pytest.mark.parametrize(("repaired", "plain"), [("2r", "1"), ("3r", "1"), ("4r", "mean,"), ("5r", "mean,")])
def test_a_repaired_design_starts_as_the_plain_one(llama, repaired, plain):
    ours, theirs = (
        next(key for key in DESIGNS if key.startswith(f"{name} ") and DESIGNS[key].mask == mask)
        for mask in [room.MASKS[int(repaired[0]) > 3]]
        for name in (repaired, plain)
    )
    assert torch.equal(embed(built(llama, ours), TEXTS), embed(built(llama, theirs), TEXTS))


# the mask


def sees_ahead(model):
    """How far the first token's state moves when the last word is another: in a text alone, and beside a longer one."""
    a, b = "the mean of", "the mean norm"
    found = []
    for texts in (([a], [b]), ([a, TEXTS[2]], [b, TEXTS[2]])):
        first = []
        for some in texts:
            encoded = model.tokenize(some)
            first.append(model[0](dict(encoded))["token_embeddings"][0, 0])
        found.append(float((first[0] - first[1]).norm().detach()))
    return found


@pytest.mark.parametrize("name", ["mean, causal", "mean, both ways", "5 multi-layer, both ways"])
def test_the_mask_holds_and_survives_saving(llama, name, tmp_path):
    model = built(llama, name)
    ahead = DESIGNS[name].mask == "bidirectional"
    model.save(str(tmp_path), create_model_card=False)
    again = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    for one in (model, again):
        assert [far > 1e-4 for far in sees_ahead(one)] == [ahead, ahead]
    torch.testing.assert_close(embed(again, TEXTS), embed(model, TEXTS), rtol=0, atol=1e-6)
    assert not [path.name for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


def test_a_decoder_that_stays_causal_is_refused(llama, monkeypatch):
    from transformers.models.llama import modeling_llama

    causal = modeling_llama.create_causal_mask

    def deaf(config, **options):
        asked, config.is_causal = getattr(config, "is_causal", True), True
        try:
            return causal(config=config, **options)
        finally:
            config.is_causal = asked

    monkeypatch.setattr(modeling_llama, "create_causal_mask", deaf)
    with pytest.raises(ValueError, match="stays causal with is_causal = False"):
        built(llama, "mean, both ways")


def test_an_encoder_takes_designs_that_look_both_ways_and_no_causal_ones():
    bert = lab.models.tiny("bert", layers=2, dim=16, heads=2)
    model = embedder(bert, "mean, both ways", device="cpu")
    hidden, mask = states(model, TEXTS)
    mean = torch.stack([row[real].mean(0) for row, real in zip(hidden[-1], mask, strict=True)])
    torch.testing.assert_close(embed(model, TEXTS), mean, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="BertModel looks both ways: it needs a decoder"):
        embedder(bert, "1 last, causal")


def test_the_switch_for_good_leaves_a_refused_model_as_it_was(llama, monkeypatch):
    monkeypatch.setattr(sys.modules["lab.models.bidirectional"], "_moved", lambda _: {"one text alone": False})
    with pytest.raises(ValueError, match="one text alone"):
        sys.modules["lab.models.bidirectional"].for_good(llama)
    assert getattr(llama.model.config, "is_causal", True) is True
    assert all(part.self_attn.is_causal for part in llama.model.layers)


# the embedder


def test_the_base_is_left_as_it_was_and_the_seed_draws_the_head(llama):
    before = {name: value.clone() for name, value in llama.model.state_dict().items()}
    state = torch.random.get_rng_state()
    one, same, other = (built(llama, "5 multi-layer, both ways", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        one[0].model.embed_tokens.weight.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in llama.model.state_dict().items())
    latents = [model[1].layer_pool.reader.latents for model in (one, same, other)]
    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])
    assert llama.causal
    assert getattr(llama.model.config, "is_causal", True) is True


def test_a_base_is_a_folder_too_and_a_window_can_be_shorter(llama, tmp_path):
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    for folder in (tmp_path, str(tmp_path)):
        model = embedder(folder, "mean, causal", device="cpu", window=4)
        assert model.max_seq_length == 4
    assert model.tokenize(["one two three four five six"])["input_ids"].shape == (1, 4)
    torch.testing.assert_close(embed(model, ["last"]), embed(built(llama, "mean, causal"), ["last"]))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("llama", "9 everything"), ValueError, "no design '9 everything'"),
        (("llama", DESIGNS["best layer, both ways"]), ValueError, "still to be chosen"),
        (("llama", DESIGNS["best layer, both ways"].at(4)), ValueError, r"no layer 4; there are 0 \(embeddings\) to 3"),
        ((3, "mean, causal"), TypeError, "base must be a folder"),
        (("vit", "mean, both ways"), ValueError, "no transformers model with a tokenizer"),
    ],
)
def test_what_cannot_be_built_is_refused(llama, arguments, error, said):
    base_, design = arguments
    known = {"llama": llama, "vit": lab.models.tiny("vit", layers=1, dim=16, heads=2)}
    with pytest.raises(error, match=said):
        embedder(known.get(base_, base_), design)


def test_windows_and_padding_tokens(llama, tmp_path):
    with pytest.raises(ValueError, match="window must be 2 to 64"):
        built(llama, "mean, causal", window=65)
    folder = base(CORPUS, **TINY, folder=tmp_path)
    want = embed(embedder(folder, "mean, causal", device="cpu"), TEXTS)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("pad_token")
    path.write_text(json.dumps(config))
    model = embedder(folder, "mean, causal", device="cpu")
    assert model.tokenizer.pad_token == model.tokenizer.eos_token == "[EOS]"  # noqa: S105
    # padding is told by the mask, not by the number of its token
    torch.testing.assert_close(embed(model, TEXTS), want, rtol=0, atol=1e-5)
    config.pop("eos_token")
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no token to pad with"):
        embedder(folder, "mean, causal")


# adapters


@pytest.mark.parametrize("name", ["mean, both ways", "3 multi-layer, causal"])
def test_adapters_and_the_head_are_what_is_trained(llama, name, tmp_path):
    llama.model.save_pretrained(tmp_path / "base")
    llama.tokenizer.save_pretrained(tmp_path / "base")
    model = embedder(tmp_path / "base", name, lora=2, device="cpu")
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    inside = {key for key in trained if key.startswith("0.")}
    assert inside
    assert all("lora" in key for key in inside)
    assert len(inside) == 3 * 7 * 2
    assert {key for key, _ in model[1].named_parameters()} == {key.removeprefix("1.") for key in trained - inside}
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key in trained:
                value.add_(torch.rand_like(value) / 4)
    model.save(str(tmp_path / "tuned"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "tuned"), device="cpu", trust_remote_code=True)
    torch.testing.assert_close(embed(again, TEXTS), embed(model, TEXTS), rtol=0, atol=1e-5)
    assert [far > 1e-4 for far in sees_ahead(again)] == [DESIGNS[name].mask == "bidirectional"] * 2


def test_adapters_that_cannot_be_are_refused(llama, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="got a model in memory"):
        embedder(llama, "mean, causal", lora=2)
    with pytest.raises(ValueError, match="rank of 1 or more"):
        embedder(tmp_path, "mean, causal", lora=0)
    monkeypatch.setattr(sys.modules["lab.training.embedder"], "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install peft"):
        embedder(tmp_path, "mean, causal", lora=2)


# the base


def test_a_base_learns_is_kept_and_is_the_same_for_a_seed(tmp_path):
    folder = base(CORPUS, **TINY | {"steps": 30}, folder=tmp_path / "a")
    curve = json.loads((folder / "curve.json").read_text())
    assert curve[-1] < curve[0] - 0.4
    assert "seed0" in folder.name
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert base(iter(CORPUS), **TINY | {"steps": 30}, folder=tmp_path / "a") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert [path.name for path in (tmp_path / "a").iterdir()] == [folder.name]


def test_a_seed_draws_the_weights_and_the_callers_random_state_stays(tmp_path):
    state = torch.random.get_rng_state()
    one, same, other = (
        base(CORPUS, **TINY, seed=seed, folder=tmp_path / where) for seed, where in ((1, "a"), (1, "b"), (2, "a"))
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    files = [(path / "model.safetensors").read_bytes() for path in (one, same, other)]
    assert files[0] == files[1] != files[2]
    assert (one / "tokenizer.json").read_bytes() == (same / "tokenizer.json").read_bytes()
    assert one.name == same.name != other.name


def test_a_base_is_an_ordinary_folder(tmp_path):
    folder = base(CORPUS, **TINY, folder=tmp_path)
    model = lab.models.load(str(folder))
    assert (model.causal, model.depth, model.dim, model.window) == (True, 2, 16, 32)
    ids = model.tokenizer("def AREA3(radius)")["input_ids"]
    assert model.tokenizer.convert_ids_to_tokens(ids)[-1] == "[EOS]"
    assert "[UNK]" not in model.tokenizer.convert_ids_to_tokens(ids)
    assert SentenceTransformer(str(folder), device="cpu").encode(TEXTS).shape == (4, 16)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_a_base_that_was_not_finished_leaves_nothing(tmp_path, monkeypatch):
    from transformers import LlamaForCausalLM

    def stopped(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", stopped)
    with pytest.raises(KeyboardInterrupt):
        base(CORPUS, **TINY, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        (CORPUS, {"dim": 18}, "multiple of 2"),
        (CORPUS, {"steps": 0}, "positive"),
        (CORPUS, {"rate": 0.0}, "positive"),
        (CORPUS[:2], {}, "give more"),
    ],
)
def test_a_base_that_cannot_be_is_refused(texts, options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        base(texts, **TINY | {"heads": 2} | options, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_room_waits_for_sentence_transformers():
    code = "import sys, lab.training; print('sentence_transformers' in sys.modules, 'datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert callable(embedder_function)
    assert TokenPooling.__name__ in {type(part).__name__ for part in embedder(
        lab.models.tiny("llama", layers=1, dim=8, heads=1), "mean, causal", device="cpu")}  # fmt: skip
