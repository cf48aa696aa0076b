"""The pooling operators, in three families; a line in a registry enrols one in tests, benchmark, gallery and table.

    POOLS[name](dim)(x, mask)                  tokens to one vector per text: x [B, T, D], mask bool [B, T], True = real
                                               token, or ragged x [N, D] with int offsets [S + 1] in the mask's place
    LAYER_POOLS[name](dim, num_layers)(h)      states already pooled per layer, h [L, ..., D], to [..., D]
    MAP_POOLS[name](channels)(x)               feature maps x [B, C, H, W]
    table()                                    all of them with formula, source and size

The contract of the token pools: rows without a real token give zeros and zero gradient, padding is never read (NaN in
it does not leak), its side does not matter, padded and ragged give the same numbers, half inputs accumulate in float32
and return their own dtype. `lab.pooling.interchange` exports pools to sentence-transformers and takes its own in;
`lab.pooling.geometric` makes them aggregations of PyTorch Geometric's layers. Not promised: torch.func.vmap, since a
CPU looks at the values to choose the shorter way (batch the rows instead), and states beyond 2e19 where torch's
LayerNorm or a product of projections squares them (hopfield, latent_attention, perceiver, attentive_fusion, history,
multilayer): NaN in float32.

Operators of another shape stand in no registry and have tests of their own: AdaUnpool2d, which undoes; SoftPool and
eDSCW in 1d and 3d; ScaleGeM over an image's scales; GridMean over a map's cells; PfTokenLayer and InceptionMixer, which
mix and keep the size; HistoGraphPool, of all layers of the nodes; class_centroids, one vector a class; merge_tokens and
the clusterings, several vectors a text; BoundaryPredictor, which says where runs end.
"""

from lab.pooling import functional
from lab.pooling.adapool import AdaPool2d, AdaUnpool2d
from lab.pooling.aggregation import Aggregation
from lab.pooling.attention import PMA, AttSetsPool, GatedAttentionPool, MultiHeadAttentionPool
from lab.pooling.catalogue import table
from lab.pooling.centroids import class_centroids
from lab.pooling.concat import ConcatPool
from lab.pooling.dynamic import BoundaryPredictor
from lab.pooling.gem import GeM2d, RegionalGeM, ReLUP, ScaleGeM
from lab.pooling.generalized import GNP, GeM, GroupGeM, LSEPool, NormWeightedMeanPool, SoftmaxPool
from lab.pooling.grid import GridMean
from lab.pooling.gsp import GSP
from lab.pooling.historical import HistoGraphPool, HistoryAttention
from lab.pooling.hopfield import HopfieldPooling
from lab.pooling.keyvalue import DiscreteKeyValueBottleneck
from lab.pooling.landmark import LandmarkPool
from lab.pooling.latent import LatentAttentionPool, PerceiverPool
from lab.pooling.layers import (
    ConcatProject,
    DimensionMix,
    FirstLastMean,
    LayerMax,
    LayerMean,
    LayerPick,
    SoftmaxMix,
    WeightedLayerMix,
)
from lab.pooling.layers_routed import AttentiveLayerFusion, GatedLayerRouter, LayerPair
from lab.pooling.lip import LIP2d
from lab.pooling.midam import MIDAMAttentionPool, MIDAMSoftmaxPool
from lab.pooling.mixers import InceptionMixer, PfLayer, PfTokenLayer
from lab.pooling.multilayer import MultiLayerPool, MultiLayerResidualPool
from lab.pooling.multivector import CLUSTERINGS, merge_tokens
from lab.pooling.poset import PosetPool2d
from lab.pooling.spans import SpanMaxPool
from lab.pooling.spatial import (
    EDSCWPool1d,
    EDSCWPool2d,
    EDSCWPool3d,
    PoolMixer2d,
    SoftPool1d,
    SoftPool2d,
    SoftPool3d,
    SpatialPyramidPool2d,
)
from lab.pooling.spatial_learned import GatedPool2d, MixedPool2d, TreePool2d
from lab.pooling.splade import SPLADEPool
from lab.pooling.stochastic import S3Pool2d, StochasticPool2d
from lab.pooling.token import (
    FirstPool,
    LastPool,
    LinearPool,
    MaxPool,
    MeanPool,
    MinPool,
    PositionMeanPool,
    SqrtMeanPool,
)
from lab.pooling.weighted import ReceivedAttentionPool, SinkExcludingMeanPool

POOLS = {
    # one place or fixed weights
    "first": FirstPool,
    "last": LastPool,
    "mean": MeanPool,
    "sqrt_mean": SqrtMeanPool,
    "position_mean": PositionMeanPool,
    "sink_excluding_mean": SinkExcludingMeanPool,
    "landmark": LandmarkPool,
    # by the values themselves
    "max": MaxPool,
    "min": MinPool,
    "gem": GeM,
    "group_gem": GroupGeM,
    "lse": LSEPool,
    "softmax": SoftmaxPool,
    "gnp": GNP,
    "norm_weighted_mean": NormWeightedMeanPool,
    "splade": SPLADEPool,
    "span_max": SpanMaxPool,
    "received_attention": ReceivedAttentionPool,
    "concat": ConcatPool,
    # by learned scores
    "multihead_attention": MultiHeadAttentionPool,
    "gated_attention": GatedAttentionPool,
    "attsets": AttSetsPool,
    "pma": PMA,
    "hopfield": HopfieldPooling,
    "gsp": GSP,
    "latent_attention": LatentAttentionPool,
    "perceiver": PerceiverPool,
    "midam_softmax": MIDAMSoftmaxPool,
    "midam_attention": MIDAMAttentionPool,
    "key_value": DiscreteKeyValueBottleneck,
}
LAYER_POOLS = {
    "pick": LayerPick,
    "mean": LayerMean,
    "first_last": FirstLastMean,
    "max": LayerMax,
    "softmax_mix": SoftmaxMix,
    "dimension_mix": DimensionMix,
    "weighted_mix": WeightedLayerMix,
    "concat_project": ConcatProject,
    "router": GatedLayerRouter,
    "attentive_fusion": AttentiveLayerFusion,
    "history": HistoryAttention,
    "pair": LayerPair,
    "multilayer": MultiLayerPool,
    "multilayer_residual": MultiLayerResidualPool,
}
MAP_POOLS = {
    "soft": lambda _: SoftPool2d(2),
    "edscw": lambda _: EDSCWPool2d(2),
    "ada": lambda _: AdaPool2d(2),
    "mixed": lambda channels: MixedPool2d(2, channels=channels),
    "gated": lambda _: GatedPool2d(2),
    "tree": lambda _: TreePool2d(2),
    "gem": lambda _: GeM2d(kernel_size=2),
    "pyramid": lambda _: SpatialPyramidPool2d((1, 2, 4)),
    "poset": lambda _: PosetPool2d("n"),
    "lip": LIP2d,
    "stochastic": lambda _: StochasticPool2d(2),
    "s3": lambda _: S3Pool2d(2, 4),
    "mixer": lambda _: PoolMixer2d(3),
    "pf_layer": lambda channels: PfLayer(channels, max(1, channels // 2)),
    "regional_gem": lambda _: RegionalGeM(),
    "relup": lambda _: ReLUP(),
}

__all__ = [
    "CLUSTERINGS",
    "GNP",
    "GSP",
    "LAYER_POOLS",
    "MAP_POOLS",
    "PMA",
    "POOLS",
    "AdaPool2d",
    "AdaUnpool2d",
    "Aggregation",
    "AttSetsPool",
    "AttentiveLayerFusion",
    "BoundaryPredictor",
    "ConcatPool",
    "ConcatProject",
    "DimensionMix",
    "DiscreteKeyValueBottleneck",
    "EDSCWPool1d",
    "EDSCWPool2d",
    "EDSCWPool3d",
    "FirstLastMean",
    "FirstPool",
    "GatedAttentionPool",
    "GatedLayerRouter",
    "GatedPool2d",
    "GeM",
    "GeM2d",
    "GridMean",
    "GroupGeM",
    "HistoGraphPool",
    "HistoryAttention",
    "HopfieldPooling",
    "InceptionMixer",
    "LIP2d",
    "LSEPool",
    "LandmarkPool",
    "LastPool",
    "LatentAttentionPool",
    "LayerMax",
    "LayerMean",
    "LayerPair",
    "LayerPick",
    "LinearPool",
    "MIDAMAttentionPool",
    "MIDAMSoftmaxPool",
    "MaxPool",
    "MeanPool",
    "MinPool",
    "MixedPool2d",
    "MultiHeadAttentionPool",
    "MultiLayerPool",
    "MultiLayerResidualPool",
    "NormWeightedMeanPool",
    "PerceiverPool",
    "PfLayer",
    "PfTokenLayer",
    "PoolMixer2d",
    "PosetPool2d",
    "PositionMeanPool",
    "ReLUP",
    "ReceivedAttentionPool",
    "RegionalGeM",
    "S3Pool2d",
    "SPLADEPool",
    "ScaleGeM",
    "SinkExcludingMeanPool",
    "SoftPool1d",
    "SoftPool2d",
    "SoftPool3d",
    "SoftmaxMix",
    "SoftmaxPool",
    "SpanMaxPool",
    "SpatialPyramidPool2d",
    "SqrtMeanPool",
    "StochasticPool2d",
    "TreePool2d",
    "WeightedLayerMix",
    "class_centroids",
    "functional",
    "merge_tokens",
    "table",
]
