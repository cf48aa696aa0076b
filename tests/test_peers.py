"""Other people's code: the same numbers where it is right, and by name where it is not.

Every mode of sentence-transformers' Pooling stands in test_interchange.py, torch's own layers in test_window_pool.py
and test_pool_attention.py; faults of code that cannot be installed are written out beside the operator's own tests.
"""

import pytest
import torch

from lab.pooling import POOLS, GatedPool2d, MixedPool2d, PoolMixer2d, SpatialPyramidPool2d
from lab.pooling.functional import segment_pool, segment_softmax, to_ragged


def peer(name: str, how: str = "pip install -e .[dev] brings it"):
    return pytest.importorskip(
        name,
        reason=f"AGREEMENT NOT TESTED: {name} is not installed; {how}",
        exc_type=ImportError,
    )


def drawn(*, empty=False, dtype=torch.float32):
    """Rows of 5, 1, 7 and perhaps no tokens: padded, and ragged with the index that PyTorch Geometric takes."""
    lengths = torch.tensor([5, 1, 7, 0] if empty else [5, 1, 7])
    mask = torch.arange(7) < lengths[:, None]
    x = torch.randn(len(lengths), 7, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    flat, _ = to_ragged(x, mask)
    return x, mask, flat, mask.nonzero()[:, 0]


# --- sentence-transformers ---


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_splade_is_that_of_sentence_transformers(strategy):
    modules = peer("sentence_transformers.sparse_encoder.modules")
    x, mask, _, _ = drawn()
    theirs = modules.SpladePooling(pooling_strategy=strategy).eval()
    wanted = theirs({"token_embeddings": x.clone(), "attention_mask": mask.long()})["sentence_embedding"]
    torch.testing.assert_close(POOLS["splade"](6, pooling_strategy=strategy)(x, mask), wanted)


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_nan_in_padding_leaks_into_the_means_of_sentence_transformers_and_not_into_ours(mode):
    modules = peer("sentence_transformers.sentence_transformer.modules")
    x, mask, _, _ = drawn()
    poisoned = x.masked_fill(~mask[..., None], torch.nan)
    theirs = modules.Pooling(6, pooling_mode=mode)({"token_embeddings": poisoned, "attention_mask": mask.long()})
    assert theirs["sentence_embedding"][:2].isnan().all()  # the third row is full
    name = {"mean": "mean", "mean_sqrt_len_tokens": "sqrt_mean", "weightedmean": "position_mean"}[mode]
    ours = POOLS[name](6)
    torch.testing.assert_close(ours(poisoned, mask), ours(x, mask))


def test_an_empty_row_is_minus_infinity_in_the_maximum_of_sentence_transformers_and_zero_in_ours():
    modules = peer("sentence_transformers.sentence_transformer.modules")
    x, mask, _, _ = drawn(empty=True)
    theirs = modules.Pooling(6, pooling_mode="max")({"token_embeddings": x, "attention_mask": mask.long()})
    assert (theirs["sentence_embedding"][3] == -torch.inf).all()
    assert (POOLS["max"](6)(x, mask)[3] == 0).all()


def test_holes_count_as_places_in_the_weighted_mean_of_sentence_transformers_and_not_in_ours():
    """SGPT's weight is a token's place among the tokens; padding inside a row should not raise it."""
    modules = peer("sentence_transformers.sentence_transformer.modules")
    x, _, _, _ = drawn()
    holed = torch.tensor([True, False, True, True, False, False, False]).expand(3, -1)
    theirs = modules.Pooling(6, pooling_mode="weightedmean")({"token_embeddings": x, "attention_mask": holed.long()})
    weights = torch.tensor([1.0, 0, 3, 4, 0, 0, 0]) / 8
    torch.testing.assert_close(theirs["sentence_embedding"], (weights[:, None] * x).sum(1))
    closed = x[:, [0, 2, 3]]
    ours = POOLS["position_mean"](6)
    torch.testing.assert_close(ours(x, holed), ours(closed, torch.ones(3, 3, dtype=torch.bool)))


# --- code of papers, written out ---


def test_places_along_a_padded_batch_are_right_for_one_text_alone():
    """RDS+ weighs position i of the padded length by i and asks no mask: right only where nothing is padded."""
    x, mask, _, _ = drawn()
    theirs = torch.arange(1.0, 8) / 28 @ x
    ours = POOLS["position_mean"](6)(x, mask)
    torch.testing.assert_close(theirs[2], ours[2])
    assert ((theirs - ours)[:2].abs().amax(1) > 0.1).all()


def test_the_side_of_padding_asked_of_a_whole_batch_reads_other_tokens_for_the_last():
    """Model cards of Qwen3 and E5, PoolingAndAttn, tevatron and FlagEmbedding ask whether every row ends in a token."""
    x, _, _, _ = drawn(empty=True)
    mask = torch.arange(7) >= 7 - torch.tensor([[5], [1], [7], [0]])  # padded on the left, one text empty
    padded_left = bool(mask[:, -1].all())
    theirs = x[:, -1] if padded_left else x[torch.arange(4), mask.sum(1) - 1]
    ours = POOLS["last"](6)(x, mask)
    assert torch.equal(ours[:3], x[:3, -1])
    assert not ours[3].any()
    assert [torch.equal(a, b) for a, b in zip(theirs[:3], x[:3, -1], strict=True)] == [False, False, True]


def test_a_mask_multiplied_in_place_weighs_by_places_of_places_the_second_time():
    """GritLM's weighted mean: attention_mask *= attention_mask.cumsum(1), on the caller's own tensor."""
    x, mask, _, _ = drawn()

    def theirs(x, attention_mask):
        attention_mask *= attention_mask.cumsum(1)
        return (x * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)

    given, pool = mask.long(), POOLS["position_mean"](6)
    kept = mask.clone()
    first, again = theirs(x, given), theirs(x, given)
    torch.testing.assert_close(pool(x, mask), first)
    assert not torch.allclose(again, first)
    assert torch.equal(pool(x, mask), pool(x, mask))
    assert torch.equal(mask, kept)


def test_a_slice_from_minus_the_length_is_the_whole_row_where_the_length_is_0():
    """LLM2Vec's mean of what follows the instruction: features[i, -length:], and [-0:] is everything."""
    x, mask, _, _ = drawn(empty=True)
    mask = mask.flip(1)  # padded on the left, as over there
    theirs = torch.stack([row[-length:].mean(0) for row, length in zip(x, mask.sum(1).tolist(), strict=True)])
    ours = POOLS["mean"](6)(x, mask)
    torch.testing.assert_close(ours[:3], theirs[:3])
    torch.testing.assert_close(theirs[3], x[3].mean(0))  # of padding
    assert not ours[3].any()


def test_a_mean_whose_sum_is_kept_in_float16_is_infinite_and_ours_is_not():
    """sentence-transformers' mean up to 6.1: the sum of 7 states of 20,000 is beyond float16, their mean is not."""
    x, mask = torch.full((1, 7, 6), 2e4, dtype=torch.float16), torch.ones(1, 7, dtype=torch.bool)
    theirs = (x * mask[..., None].to(x.dtype)).sum(1) / mask.sum(1, keepdim=True).to(x.dtype)
    assert theirs.isinf().all()
    for name in ("mean", "position_mean", "gem", "norm_weighted_mean", "softmax"):
        assert torch.equal(POOLS[name](6)(x, mask), x[:, 0])


# --- PyTorch Geometric ---


@pytest.mark.parametrize(
    ("name", "mode"), [("Sum", "sum"), ("Mean", "mean"), ("Max", "max"), ("Min", "min")], ids=lambda name: name
)
def test_aggregations_of_pytorch_geometric_are_ours(name, mode):
    aggr = peer("torch_geometric.nn.aggr")
    x, mask, flat, index = drawn(empty=True)
    theirs = getattr(aggr, f"{name}Aggregation")()(flat, index, dim_size=4)
    torch.testing.assert_close(segment_pool(x, mask, mode), theirs)


def test_the_softmax_aggregation_of_pytorch_geometric_is_ours():
    aggr = peer("torch_geometric.nn.aggr")
    x, mask, flat, index = drawn(empty=True)
    theirs = aggr.SoftmaxAggregation(t=0.7)(flat, index, dim_size=4)
    torch.testing.assert_close(POOLS["softmax"](6, beta=0.7)(x, mask), theirs)


def test_the_attentional_aggregation_of_pytorch_geometric_is_our_attention():
    aggr = peer("torch_geometric.nn.aggr")
    x, mask, flat, index = drawn(empty=True)
    pool = POOLS["gated_attention"](6)
    theirs = aggr.AttentionalAggregation(pool.scores)(flat, index, dim_size=4)
    torch.testing.assert_close(pool(x, mask), theirs)


@pytest.mark.parametrize("p", [0.5, 2.0, 3.0])
def test_the_power_mean_of_pytorch_geometric_is_gem_where_it_clamps_nothing(p):
    aggr = peer("torch_geometric.nn.aggr")
    x, mask, flat, index = drawn()
    theirs = aggr.PowerMeanAggregation(p=p)(flat.abs() + 0.1, index)
    torch.testing.assert_close(POOLS["gem"](6, p=p)(x.abs() + 0.1, mask), theirs)


@pytest.mark.parametrize(("constant", "mean"), [(5.0, 100.0), (50.0, 100.0), (0.02, 1e-4)])
def test_the_power_mean_of_pytorch_geometric_clamps_the_mean_of_the_powers_and_loses_constants(constant, mean):
    aggr = peer("torch_geometric.nn.aggr")
    x, index = torch.full((3, 6), constant), torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(
        aggr.PowerMeanAggregation(p=3)(x, index), torch.full((1, 6), mean ** (1 / 3))
    )  # 4.64 of fives
    ours = POOLS["gem"](6, p=3.0)(x[None], torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(ours, x[:1])


def test_the_attention_block_of_pytorch_geometric_adds_the_seed_and_ours_its_projection():
    """Both are called PMA: with values and outputs of zero only the residual is left."""
    utils = peer("torch_geometric.nn.aggr.utils")
    x, mask, _, _ = drawn()
    theirs, ours = utils.PoolingByMultiheadAttention(6, layer_norm=False), POOLS["pma"](6)
    with torch.no_grad():
        for layer in (theirs.mab.attn.out_proj, theirs.mab.lin, ours.value, ours.out):
            layer.weight.zero_()
            layer.bias.zero_()
    torch.testing.assert_close(theirs(x, mask), theirs.seed.expand(3, -1, -1))
    torch.testing.assert_close(ours(x, mask), ours.query(ours.seeds).expand(3, -1))


def test_the_attention_block_of_pytorch_geometric_without_its_residuals_is_our_attention():
    utils = peer("torch_geometric.nn.aggr.utils")
    x, mask, _, _ = drawn()
    theirs, ours = utils.MultiheadAttentionBlock(6, heads=2, layer_norm=False), POOLS["multihead_attention"](6, 2)
    query, key, value = theirs.attn.in_proj_weight.chunk(3)
    seed = torch.randn(1, 1, 6)
    with torch.no_grad():
        theirs.lin.weight.zero_()
        theirs.lin.bias.zero_()
        ours.query.copy_((seed[0] @ query.mT).unflatten(-1, (2, 3)))  # their projections start without a bias
        ours.key.weight.copy_(key)
        ours.value.weight.copy_(value)
        ours.out.load_state_dict(theirs.attn.out_proj.state_dict())
    torch.testing.assert_close(ours(x, mask), (theirs(seed.expand(3, -1, -1), x, None, mask) - seed)[:, 0])


def test_the_standard_deviation_of_pytorch_geometric_is_ours_near_zero():
    aggr = peer("torch_geometric.nn.aggr")
    x, mask, flat, index = drawn(empty=True)
    torch.testing.assert_close(segment_pool(x, mask, "std"), aggr.StdAggregation()(flat, index, dim_size=4))


def test_the_standard_deviation_of_pytorch_geometric_cancels_far_from_zero_and_ours_does_not():
    """E[x^2] - E[x]^2 at 4096 +- 1/16 has no digit left in float32."""
    aggr = peer("torch_geometric.nn.aggr")
    spread = torch.tensor([-0.0625, 0.0625])[:, None] + 4096  # exact in float32, standard deviation 1/16
    theirs = aggr.StdAggregation()(spread, torch.zeros(2, dtype=torch.long))
    ours = segment_pool(spread[None], torch.ones(1, 2, dtype=torch.bool), "std")
    torch.testing.assert_close(ours, torch.full((1, 1), 0.0625))
    assert (theirs - 0.0625).abs().item() > 0.01


# --- timm ---

# in no extra: it imports torchvision, whose wheel on PyPI is built for CUDA and does not load beside torch's CPU build
TIMM = "pip install timm brings it, where torchvision's wheel fits the build of torch"


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_the_adaptive_pools_of_timm_are_levels_of_our_pyramid(bins):
    timm = peer("timm.layers.adaptive_avgmax_pool", TIMM)
    x = torch.randn(2, 4, 7, 10, generator=torch.Generator().manual_seed(0))

    def theirs(kind):
        return timm.SelectAdaptivePool2d(bins, kind, flatten=True)(x)

    mean, top = (SpatialPyramidPool2d((bins,), reduce)(x) for reduce in ("mean", "max"))
    torch.testing.assert_close(mean, theirs("avg"))
    torch.testing.assert_close(top, theirs("max"))
    torch.testing.assert_close((mean + top) / 2, theirs("avgmax"))
    torch.testing.assert_close(torch.cat([mean, top], 1), theirs("catavgmax"))


def test_half_of_the_maximum_and_of_the_mean_in_timm_is_our_mixed_pool_and_our_gate_at_its_middle():
    timm = peer("timm.layers.adaptive_avgmax_pool", TIMM)
    x = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    gated = GatedPool2d((2, 4))
    torch.nn.init.zeros_(gated.weight)
    theirs = timm.select_adaptive_pool2d(x, "avgmax", (3, 2))
    torch.testing.assert_close(MixedPool2d((2, 4))(x), theirs)
    torch.testing.assert_close(gated(x), theirs)


@pytest.mark.parametrize("pool_size", [1, 3, 5])
def test_the_token_mixer_of_poolformer_in_timm_is_ours(pool_size):
    timm = peer("timm.models.metaformer", TIMM)
    x = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours, theirs = PoolMixer2d(pool_size)(x), timm.Pooling(pool_size)(x)
    torch.testing.assert_close(ours, theirs)
    dy = torch.randn(2, 4, 6, 7)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, dy)[0] for y in (ours, theirs)))


# --- entmax ---


def test_softmax_by_entmax_at_alpha_one_is_ours():
    entmax = peer("entmax")
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = entmax.entmax_bisect(scores, alpha=1.000001, n_iter=80)
    torch.testing.assert_close(segment_softmax(scores, torch.ones(3, 7, dtype=torch.bool)), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_a_row_without_scores_breaks_entmax_and_is_zeros_in_ours(name):
    entmax = peer("entmax")
    nothing = torch.full((2, 4), -torch.inf)
    with pytest.raises((IndexError, RuntimeError), match="index"):
        getattr(entmax, name)(nothing, dim=-1)
    assert (segment_softmax(nothing, torch.ones(2, 4, dtype=torch.bool)) == 0).all()


def test_a_row_without_scores_is_nan_in_the_bisection_of_entmax():
    entmax = peer("entmax")
    assert entmax.entmax_bisect(torch.full((2, 4), -torch.inf), alpha=1.5).isnan().all()
