"""Wrong calls of every operator, made as a user makes them: in a Python where no types are checked.

Prints a line of JSON for each: its name, and the error that came of it, with the file that raised it; or the result.
"""

import json
import math
import traceback
import warnings
from functools import partial
from pathlib import Path

import torch
from torch import nn

from lab import pooling
from lab.kernels.window_pool import window_pool
from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, functional
from lab.pooling.calls import SIZES, layer_input
from lab.pooling.centroids import leave_one_out_centroids
from lab.pooling.spans import dependency_path, piecewise

D, L, C = 4, 3, 5
X, MASK = torch.ones(2, 5, D), torch.ones(2, 5, dtype=torch.bool)
FLAT, OFFSETS = torch.ones(7, D), torch.tensor([0, 3, 7])
H, MAP = torch.ones(L, 2, D), torch.ones(2, C, 8, 8)
NAN, INF = math.nan, math.inf
PACKAGE = str(Path(pooling.__file__).parents[1])


def of_tokens():
    wrong = {
        "float mask": (X, MASK.float()),
        "attention mask": (X, MASK.long()),
        "mask of another length": (X, MASK[:, :4]),
        "mask of another rank": (X, MASK[0]),
        "list mask": (X, MASK.tolist()),
        "whole numbers": (X.long(), MASK),
        "complex numbers": (X.cfloat(), MASK),
        "one axis": (X[0, 0], MASK),
        "four axes": (X[None], MASK),
        "array": (X.numpy(), MASK),
        "mask beside ragged": (FLAT, MASK),
        "falling offsets": (FLAT, torch.tensor([0, 5, 3, 7])),
        "offsets from 1": (FLAT, torch.tensor([1, 7])),
        "offsets too short": (FLAT, torch.tensor([0, 6])),
        "offsets too far": (FLAT, torch.tensor([0, 9])),
        "float offsets": (FLAT, OFFSETS.float()),
        "no offsets": (FLAT, OFFSETS[:0]),
    }
    for name, kind in POOLS.items():
        pool = kind(D)
        third = (torch.ones(2, 5),) if name == "received_attention" else ()
        for what, given in wrong.items():
            yield f"{name}: {what}", pool, (*given, *third)
        if any(p.ndim > 0 for p in pool.parameters()):
            yield f"{name}: another width", pool, (torch.ones(2, 5, D + 2), MASK)


def of_layers():
    for name, kind in LAYER_POOLS.items():
        pool = kind(D, L, **SIZES.get(name, {}))
        h = layer_input(pool, H)
        for what, wrong in {
            "another depth": h[:2],
            "whole numbers": h.long(),
            "one axis": H[0, 0],
            "list": [1.0],
        }.items():
            yield f"layers {name}: {what}", pool, (wrong,)
        if any(p.ndim > 1 for p in pool.parameters()):
            yield f"layers {name}: another width", pool, (torch.cat([h, h], -1),)
        for what, sizes in {"no width": (0, L), "no layers": (D, 0), "half a layer": (D, 2.5)}.items():
            yield f"layers {name}: {what}", kind, sizes


def of_maps():
    for name, kind in MAP_POOLS.items():
        pool = kind(C).eval()
        yield f"maps {name}: whole numbers", pool, (MAP.long(),)
        yield f"maps {name}: list", pool, ([[1.0]],)
        if name != "relup":  # elementwise
            yield f"maps {name}: three axes", pool, (MAP[0],)
            yield f"maps {name}: an empty axis", pool, (MAP[..., :0],)
        if any(p.ndim > 0 and C in p.shape for p in pool.parameters()):
            yield f"maps {name}: other channels", pool, (torch.cat([MAP, MAP], 1),)


BUILT = {
    "gem p": (pooling.GeM, {"p": 0.0}, {"p": -1.0}, {"p": NAN}, {"p": INF}, {"p": "3"}, {"eps": NAN}),
    "gem eps": (pooling.GeM, {"eps": 0.0}, {"eps": INF}),
    "group_gem": (pooling.GroupGeM, {"num_groups": 0}, {"num_groups": 3}, {"eps": NAN}),
    "gnp": (pooling.GNP, {"p": 0.0}, {"p": NAN}, {"q": NAN}, {"q": INF}, {"eps": NAN}),
    "lse": (pooling.LSEPool, {"r": 0.0}, {"r": -1.0}, {"r": NAN}, {"r": INF}),
    "softmax": (pooling.SoftmaxPool, {"beta": NAN}, {"beta": INF}),
    "norm": (pooling.NormWeightedMeanPool, {"alpha": NAN}, {"eps": NAN}, {"eps": INF}, {"eps": 0.0}),
    "gsp": (pooling.GSP, {"mu": 0.0}, {"mu": 1.0}, {"mu": NAN}, {"gamma": -1.0}, {"gamma": NAN}, {"gamma": INF}),
    "gsp sizes": (pooling.GSP, {"num_prototypes": 0}, {"num_prototypes": 1.5}),
    "pma": (pooling.PMA, {"scale": NAN}, {"num_seeds": 0}, {"num_heads": 0}, {"num_heads": 3}, {"num_heads": 2.0}),
    "multihead": (pooling.MultiHeadAttentionPool, {"num_queries": 0}, {"num_heads": 3}),
    "gated": (pooling.GatedAttentionPool, {"branches": 0}, {"hidden": 0}, {"hidden": -1}),
    "attsets": (pooling.AttSetsPool, {"num_outputs": 0}, {"num_outputs": 1.5}),
    "hopfield": (pooling.HopfieldPooling, {"quantity": 0}, {"update_steps": 1.5}, {"update_steps": -1}),
    "hopfield beta": (pooling.HopfieldPooling, {"beta": NAN}, {"beta": -1.0}, {"beta": INF}),
    "latent": (pooling.LatentAttentionPool, {"num_latents": 0}, {"head_dim": 0}, {"ff_mult": 0}, {"num_heads": 3}),
    "perceiver": (pooling.PerceiverPool, {"num_latents": 0}, {"head_dim": 0}, {"ff_mult": 0}, {"num_heads": 3}),
    "landmark": (pooling.LandmarkPool, {"chunk_size": 0}, {"chunk_size": 2.5}, {"chunk_size": NAN}),
    "sinks": (pooling.SinkExcludingMeanPool, {"num_sinks": -1}, {"num_sinks": 1.5}, {"max_norm_ratio": NAN}),
    "splade": (pooling.SPLADEPool, {"pooling_strategy": "mean"}),
    "concat": (pooling.ConcatPool, {"pools": ()}, {"pools": "mean"}, {"pools": ("nope",)}, {"pools": (3,)}),
    "midam": (pooling.MIDAMSoftmaxPool, {"tau": 0.0}, {"tau": NAN}, {"gamma": 0.0}, {"gamma": NAN}, {"num_bags": 0}),
    "midam attention": (pooling.MIDAMAttentionPool, {"gamma": 2.0}, {"num_bags": 1.5}, {"hidden": 0}),
    "key_value": (pooling.DiscreteKeyValueBottleneck, {"num_keys": 0}, {"decay": 1.0}, {"decay": NAN}, {"dim_key": 0}),
}  # fmt: skip
LAYERED = {
    "pick": (pooling.LayerPick, {"layer": 3}, {"layer": 1.0}),
    "mean": (pooling.LayerMean, {"start": 3}),
    "first_last": (pooling.FirstLastMean, {"first": -1}, {"first": 3}, {"first": 1.0}),
    "softmax_mix": (pooling.SoftmaxMix, {"eps": NAN}, {"eps": 0.0}),
    "weighted_mix": (pooling.WeightedLayerMix, {"start": 3}, {"start": 1.0}),
    "concat_project": (pooling.ConcatProject, {"out_dim": 0}, {"out_dim": -1}, {"out_dim": 1.5}),
    "router": (pooling.GatedLayerRouter, {"hidden_dim": 0}, {"eps": -1.0}),
    "fusion": (pooling.AttentiveLayerFusion, {"heads": 3}, {"heads": 2.0}, {"summaries": 0}, {"eps": NAN}),
    "pair": (
        pooling.LayerPair,
        {"align": 3},
        {"align": 1.0},
        {"uniform": -4},
        {"heads": 0},
        {"heads": 2.0},
        {"eps": NAN},
    ),
    "multilayer": (pooling.MultiLayerPool, {"latents": 0}, {"heads": 0}, {"dim_head": 1.5}),
    "residual": (pooling.MultiLayerResidualPool, {"baseline": "max"}, {"heads": 0}, {"dim_head": 0}, {"eps": NAN}),
}
MAPPED = {
    "soft": (pooling.SoftPool2d, {"kernel_size": 0}, {"kernel_size": 9}, {"kernel_size": 2.5}, {"kernel_size": "2"}),
    "soft windows": (pooling.SoftPool2d, {"kernel_size": (2.0, 2.0)}, {"kernel_size": (2,)}, {"kernel_size": None}),
    "soft strides": (pooling.SoftPool2d, {"stride": 0}, {"stride": 1.5}, {"padding": 2}, {"padding": -1}),
    "ada": (pooling.AdaPool2d, {"beta": NAN}, {"beta": 2.0}, {"beta_size": (1, 2, 3)}, {"beta_size": (-1,)}),
    "ada sizes": (pooling.AdaPool2d, {"beta_size": (3,)}, {"beta_size": (3, 3)}, {"beta_size": 3}),
    "mixed": (pooling.MixedPool2d, {"alpha": NAN}, {"alpha": 2.0}, {"channels": 3}, {"channels": -1}),
    "gated": (pooling.GatedPool2d, {"kernel_size": 0}, {"kernel_size": -2}, {"kernel_size": 2.5}, {"kernel_size": 9}),
    "tree": (pooling.TreePool2d, {"depth": 4}, {"kernel_size": (2, 2, 2)}),
    "gem": (pooling.GeM2d, {"p": NAN}, {"p": 0.0}, {"eps": 0.0}, {"eps": INF}, {"channels": 3}, {"channels": 0}),
    "regional": (pooling.RegionalGeM, {"p": NAN}, {"p": INF}, {"eps": 0.0}, {"eps": NAN}, {"kernel_size": 4}),
    "relup": (pooling.ReLUP, {"alpha": NAN}, {"alpha": INF}),
    "pyramid": (pooling.SpatialPyramidPool2d, {"levels": ()}, {"levels": (0,)}, {"levels": 3}, {"levels": (1.5,)}),
    "pyramid words": (pooling.SpatialPyramidPool2d, {"reduce": "sum"}, {"bins": "all"}),
    "pyramid bins": (pooling.SpatialPyramidPool2d, {"levels": (9,), "bins": "paper"}),
    "poset": (pooling.PosetPool2d, {"poset": "ring"}, {"poset": "a<e"}, {"poset": "a<b b<a"}),
    "s3": (pooling.S3Pool2d, {"pool_size": 0}, {"grid_size": 3}, {"grid_size": 0}, {"pool_size": 1.0}),
    "s3 maps": (pooling.S3Pool2d, {"pool_size": 3}),
    "mixer": (pooling.PoolMixer2d, {"pool_size": 2}, {"pool_size": 3.0}, {"pool_size": 0}),
    "stochastic": (pooling.StochasticPool2d, {"kernel_size": 9}, {"stride": 0}),
}  # fmt: skip
CALLS = {
    "windows array": lambda: window_pool(MAP.numpy(), "max", 2),
    "windows list": lambda: window_pool([[[1.0]]], "max", 1),
    "windows bool": lambda: window_pool(MAP, "max", True),
    "windows logit": lambda: window_pool(MAP, "softmax", 2, logit=[1.0]),
    "windows weight": lambda: window_pool(MAP, "gated", 2, weight=[1.0]),
    "windows p": lambda: window_pool(MAP, "lp", 2, p="3"),
    "windows p none": lambda: window_pool(MAP, "lp", 2, p=None),
    "windows p sizes": lambda: window_pool(MAP, "lp", 2, p=torch.ones(3)),
    "windows eps": lambda: window_pool(MAP, "lp", 2, eps=torch.tensor(1e-6)),
    "windows alpha": lambda: window_pool(MAP, "mixed", 2, alpha=None),
    "windows alpha bool": lambda: window_pool(MAP, "mixed", 2, alpha=True),
    "ada masks map": lambda: pooling.AdaPool2d(2).masks(MAP[0]),
    "ada masks list": lambda: pooling.AdaPool2d(2).masks([[1.0]]),
    "ada masks windows": lambda: pooling.AdaPool2d(2, 1).masks(MAP),
    "ada masks stride": lambda: pooling.AdaPool2d(2, "2").masks(MAP),
    "inception pool": lambda: pooling.InceptionMixer(8, 4, pool_size=2.5),
    "inception attention": lambda: pooling.InceptionMixer(8, 4, attention_heads=1.5),
    "lip channels": lambda: pooling.LIP2d(0),
    "lip whole": lambda: pooling.LIP2d(2.0),
    "poset chain": lambda: pooling.PosetPool2d("a<b<c"),
    "poset half": lambda: pooling.PosetPool2d("a<b c"),
    "poset number": lambda: pooling.PosetPool2d(3),
    "pf_token grid": lambda: pooling.PfTokenLayer(4, grid=(2,)),
    "pf_token grid number": lambda: pooling.PfTokenLayer(4, grid=2),
    "pf_token grid sides": lambda: pooling.PfTokenLayer(4, grid=(2, 0)),
    "pf_token grid whole": lambda: pooling.PfTokenLayer(4, grid=(2.0, 2)),
    "scale_gem p": lambda: pooling.ScaleGeM(NAN),
    "scale_gem scales": lambda: pooling.ScaleGeM()(torch.ones(2, 0, 4)),
    "scale_gem dim": lambda: pooling.ScaleGeM()(torch.ones(2, 2, 0)),
    "lip logit": lambda: pooling.LIP2d(C, logit=nn.Conv2d(C, 3, 1))(MAP),
    "pf_layer channels": lambda: pooling.PfLayer(4, 0),
    "pf_layer stride": lambda: pooling.PfLayer(4, 2, stride=0),
    "pf_token width": lambda: pooling.PfTokenLayer(4)(torch.ones(1, 9, 6)),
    "pf_token expansion": lambda: pooling.PfTokenLayer(4, expansion=0),
    "pf_token tokens": lambda: pooling.PfTokenLayer(4)(torch.ones(1, 8, 4)),
    "inception width": lambda: pooling.InceptionMixer(8, 4)(torch.ones(1, 4, 4, 6)),
    "inception heads": lambda: pooling.InceptionMixer(8, 0),
    "inception high": lambda: pooling.InceptionMixer(8, 8, 7),
    "unpool masks": lambda: pooling.AdaUnpool2d(2)(MAP, (MAP, MAP)),
    "unpool none": lambda: pooling.AdaUnpool2d(2)(MAP, None),
    "unpool kernel": lambda: pooling.AdaUnpool2d(0),
    "unpool beta": lambda: pooling.AdaUnpool2d(2)(MAP[..., :4, :4], (MAP, MAP, torch.ones(3))),
    "received missing": lambda: POOLS["received_attention"](D)(X, MASK),
    "received nan": lambda: POOLS["received_attention"](D)(X, MASK, torch.full((2, 5), NAN)),
    "received list": lambda: POOLS["received_attention"](D)(X, MASK, [[1.0] * 5] * 2),
    "sinks list": lambda: POOLS["sink_excluding_mean"](D)(X, MASK, [[True] * 5] * 2),
    "spans none": lambda: POOLS["span_max"](D)(X, MASK, torch.zeros(2, 5, 0, dtype=torch.bool)),
    "spans float": lambda: POOLS["span_max"](D)(X, MASK, torch.zeros(2, 5, 1)),
    "piecewise float": lambda: piecewise(torch.zeros(5), torch.zeros(5)),
    "piecewise sizes": lambda: piecewise(MASK[0], MASK[0, :4]),
    "path range": lambda: dependency_path([1, -1], [0], [5]),
    "path empty": lambda: dependency_path([1, -1], [], [0]),
    "path distance": lambda: dependency_path([1, -1], [0], [1], distance=-1),
    "bags float": lambda: pooling.MIDAMSoftmaxPool(D, 3)(X, MASK, torch.tensor([0.0, 1.0])),
    "bags bool": lambda: pooling.MIDAMAttentionPool(D, 3)(X, MASK, torch.tensor([True, False])),
    "bags list": lambda: pooling.MIDAMSoftmaxPool(D, 3)(X, MASK, [0, 1]),
    "centroids labels": lambda: pooling.class_centroids(X[0], torch.tensor([0.0, 0.7, 1, 1, 0])),
    "centroids bool": lambda: pooling.class_centroids(X[0], MASK[0]),
    "centroids whole": lambda: pooling.class_centroids(X[0].long(), torch.zeros(5).long()),
    "centroids list": lambda: pooling.class_centroids(X[0], [0] * 5),
    "centroids classes": lambda: pooling.class_centroids(X[0], torch.zeros(5).long(), 2.5),
    "centroids alone": lambda: leave_one_out_centroids(X[0, :3], torch.tensor([0, 0, 1])),
    "mode": lambda: functional.segment_pool(X, MASK, "median"),
    "mode none": lambda: functional.segment_pool(X, MASK, None),
    "scores missing": lambda: functional.segment_pool(X, MASK, "softmax"),
    "scores too many": lambda: functional.segment_pool(X, MASK, "mean", X),
    "scores shape": lambda: functional.segment_pool(X, MASK, "softmax", X[:, :4, 0]),
    "scores list": lambda: functional.segment_pool(X, MASK, "softmax", [1.0]),
    "scores complex": lambda: functional.segment_pool(X, MASK, "softmax", X.cfloat()),
    "weights shape": lambda: functional.weighted_sum(X, torch.ones(2, 5, 3), MASK),
    "weights axes": lambda: functional.weighted_sum(X, torch.ones(2, 5), MASK),
    "weights ragged": lambda: functional.weighted_sum(FLAT, torch.ones(3, 7), OFFSETS),
    "weights mask": lambda: functional.weighted_sum(X, torch.ones(2, 3, 5), MASK.long()),
    "weights offsets": lambda: functional.weighted_sum(FLAT, torch.ones(7, 3), torch.tensor([0, 9])),
    "expand rows": lambda: functional.segment_expand(torch.ones(3, D), MASK),
    "expand mask": lambda: functional.segment_expand(torch.ones(2, D), MASK.float()),
    "expand tokens": lambda: functional.segment_expand(torch.ones(2, D), OFFSETS, 5),
    "expand falling": lambda: functional.segment_expand(torch.ones(3, D), torch.tensor([0, 5, 3, 7])),
    "expand scalar": lambda: functional.segment_expand(torch.ones(()), MASK),
    "softmax mask": lambda: functional.segment_softmax(torch.ones(2, 5), MASK.long()),
    "softmax shape": lambda: functional.segment_softmax(torch.ones(2, 4), MASK),
    "softmax whole": lambda: functional.segment_softmax(torch.ones(2, 5).long(), MASK),
    "stats mask": lambda: functional.segment_stats(X, MASK.long()),
    "to_padded falling": lambda: functional.to_padded(FLAT, torch.tensor([0, 5, 3, 7])),
    "to_padded short": lambda: functional.to_padded(FLAT, torch.tensor([0, 3])),
    "to_padded far": lambda: functional.to_padded(FLAT, torch.tensor([0, 9])),
    "to_padded mask": lambda: functional.to_padded(FLAT, MASK),
    "to_ragged shape": lambda: functional.to_ragged(X, MASK[:, :4]),
    "to_ragged whole": lambda: functional.to_ragged(X, MASK.long()),
    "expand list": lambda: functional.segment_expand([1.0], MASK),
    "softmax list": lambda: functional.segment_softmax([1.0], MASK),
    "softmax mask list": lambda: functional.segment_softmax(torch.ones(2, 5), MASK.tolist()),
    "grid float mask": lambda: pooling.GridMean(2)(X[:, :4], MASK[:, :4].float()),
    "grid mask length": lambda: pooling.GridMean(2)(X[:, :4], MASK),
    "grid one mask": lambda: pooling.GridMean(2)(X[:, :4], MASK[:1, :4]),
    "grid whole": lambda: pooling.GridMean(2)(X[:, :4].long(), MASK[:, :4]),
    "grid axes": lambda: pooling.GridMean(2)(X[0, :4], MASK[:, :4]),
    "grid ragged": lambda: pooling.GridMean(2)(FLAT, OFFSETS),
    "grid list": lambda: pooling.GridMean(2)([1.0], MASK),
    "boundary hidden": lambda: pooling.BoundaryPredictor(D, 0),
    "boundary dim": lambda: pooling.BoundaryPredictor(0),
    "boundary temperature": lambda: pooling.BoundaryPredictor(D, temperature=INF),
    "boundary list": lambda: pooling.BoundaryPredictor(D)([1.0]),
    "boundary whole": lambda: pooling.BoundaryPredictor(D)(X.long()),
    "boundary width": lambda: pooling.BoundaryPredictor(D + 1)(X),
    "mix of nothing": lambda: _weighing(pooling.WeightedLayerMix(D, L), [1.0, -1.0, 0.0])(H),
    "sets float": lambda: pooling.Aggregation(POOLS["mean"]())(FLAT, torch.zeros(7)),
    "sets bool": lambda: pooling.Aggregation(POOLS["mean"]())(FLAT, torch.zeros(7).bool()),
    "sets list": lambda: pooling.Aggregation(POOLS["mean"]())(FLAT, [0] * 7),
    "sets negative": lambda: pooling.Aggregation(POOLS["mean"]())(FLAT, torch.full((7,), -1)),
    "sets none": lambda: pooling.Aggregation(POOLS["mean"]())(FLAT, None, None, 0),
    "sets ptr": lambda: pooling.Aggregation(POOLS["mean"]())(FLAT, None, torch.tensor([0, 5])),
    "sets array": lambda: pooling.Aggregation(POOLS["mean"]())([[1.0]]),
}


def _weighing(pool, weights):
    pool.layer_weights.data = torch.tensor(weights)
    return pool


def of_arguments():
    for table, sizes, given in ((BUILT, (D,), (X, MASK)), (LAYERED, (D, L), (H,)), (MAPPED, (), (MAP,))):
        for name, (kind, *wrong) in table.items():
            for options in wrong:
                yield f"{name} {options}", partial(_built_and_called, kind, sizes, options, given), ()


def _built_and_called(kind, sizes, options, given):
    return kind(*sizes, **options)(*given)


def of_others():
    for name, call in CALLS.items():
        yield name, call, ()


FAMILIES = {
    "tokens": of_tokens, "layers": of_layers, "maps": of_maps, "arguments": of_arguments, "others": of_others
}  # fmt: skip


def main():
    warnings.simplefilter("ignore")  # torch's own, about layers of no size
    for family, calls in FAMILIES.items():
        for name, call, given in calls():
            try:
                came = f"{type(call(*given)).__name__}, and no error"
            except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
                at = traceback.extract_tb(error.__traceback__)[-1]
                came = [type(error).__name__, str(error), PACKAGE in at.filename and at.line.startswith("raise ")]
            print(json.dumps([family, name, came]))


if __name__ == "__main__":
    main()
