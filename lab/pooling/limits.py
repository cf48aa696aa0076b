"""Where operators meet: settings at which one pool is another, checked on drawn numbers against a bound.

A bound is a theorem's where the limit is approached (GeM at a large p lies within max ln(n) / p of the maximum), and
64 roundings of the largest number where the two are equal.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.pooling import (  # fmt: skip
    adapool,
    attention,
    concat,
    functional,
    gem,
    generalized,
    gsp,
    historical,
    hopfield,
    keyvalue,
    landmark,
    latent,
    layers,
    layers_routed,
    lip,
    midam,
    mixers,
    multilayer,
    poset,
    spans,
    spatial,
    spatial_learned,
    splade,
    stochastic,
    token,
    weighted,
)

D = 8


@dataclass(frozen=True)
class Limit:
    """max |pool at this setting - what it should be| and how large that may be."""

    family: str
    setting: str
    equals: str
    difference: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.bound  # NaN does not hold


def limits(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Limit]:
    """All of them, on one draw: x [3, 9, 8] with a holed mask, h [5, 4, 8], maps [2, 3, 8, 8]."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x, h, m = (torch.randn(s, generator=draw, dtype=dtype) for s in ((3, 9, D), (5, 4, D), (2, 3, 8, 8)))
        mask = torch.rand(3, 9, generator=draw) < 0.7
        mask[:, 0] = True
        return [*_tokens(x, mask), *_layers(h), *_maps(m)]


def _limit(family: str, setting: str, equals: str, got: Tensor, want: Tensor, bound: float | None = None) -> Limit:
    rounding = 64 * torch.finfo(got.dtype).eps * max(1.0, want.abs().max().item())
    return Limit(family, setting, equals, (got - want).abs().max().item(), (bound or 0.0) + rounding)


def _tokens(x: Tensor, mask: Tensor) -> Iterator[Limit]:
    def row(setting: str, equals: str, pool, want: Tensor, bound: float | None = None) -> Limit:
        return _limit("token", setting, equals, pool.to(x.dtype)(x, mask), want, bound)

    def stat(values: Tensor, mode: str) -> Tensor:
        return functional.segment_pool(values, mask, mode)

    mean, top, low = (stat(x, mode) for mode in ("mean", "max", "min"))
    n, positive = mask.sum(1), x.clamp(min=1e-6)
    largest, log_n, wide = top.max().item(), math.log(n.max().item()), (top - low).max().item()
    root_n = n.to(x.dtype).sqrt()[:, None]
    # p is kept in float32, so that 1 is 1 to its rounding
    kept = 16 * torch.finfo(torch.float32).eps * max(1.0, largest)
    yield row("GeM, p = 1", "mean of max(x, eps)", generalized.GeM(D, p=1.0), stat(positive, "mean"), kept)
    yield row("GeM, p = 2", "root mean square", generalized.GeM(D, p=2.0), stat(positive**2, "mean").sqrt(), kept)
    yield row("GeM, p = 100", "max, to max ln(n) / p", generalized.GeM(D, p=100.0), top, largest * log_n / 100)
    one = generalized.GroupGeM(D, num_groups=1)
    yield row("GroupGeM, one group", "GeM", one, generalized.GeM(D).to(x.dtype)(x, mask))
    # Hoeffding: ln E exp(r x) <= r mean + (r range)^2 / 8
    yield row("LSE, r = 1e-6", "mean, to r range^2 / 8", generalized.LSEPool(D, r=1e-6), mean, 1e-6 * wide**2 / 8)
    yield row("LSE, r = 1e4", "max, to ln(n) / r", generalized.LSEPool(D, r=1e4), top, log_n / 1e4)
    yield row("softmax, beta = 0", "mean", generalized.SoftmaxPool(D, beta=0.0), mean)
    # each of the others keeps at most exp(-beta d) d <= 1 / (e beta)
    off = (n.max().item() - 1) / (math.e * 1e4)
    yield row("softmax, beta = 1e4", "max, to (n - 1) / (e beta)", generalized.SoftmaxPool(D, beta=1e4), top, off)
    yield row("softmax, beta = -1e4", "min, to (n - 1) / (e beta)", generalized.SoftmaxPool(D, beta=-1e4), low, off)
    yield row("norm-weighted mean, alpha = 0", "mean", generalized.NormWeightedMeanPool(D, alpha=0.0), mean)
    size = x.abs().clamp(min=1e-6)
    yield row("GNP, p = 1, q = 1", "mean of |x|", generalized.GNP(D, p=1.0, q=1.0), stat(size, "mean"), kept)
    yield row("GNP, p = 1, q = 0", "sum of |x|", generalized.GNP(D, p=1.0, q=0.0), stat(size, "sum"), 9 * kept)
    most = stat(size, "max")
    above = most.max().item() * (n.max().item() ** 1e-3 - 1)
    yield row("GNP, p = 1000, q = 0", "max of |x|, to n^(1/p) - 1 of it", generalized.GNP(D, p=1e3, q=0.0), most, above)
    yield row("sqrt_mean", "sqrt(n) mean", token.SqrtMeanPool(D), root_n * mean)
    yield row("sinks excluded, none", "mean", weighted.SinkExcludingMeanPool(D, num_sinks=0), mean)
    yield row("landmarks, chunk_size = 1", "mean", landmark.LandmarkPool(D, chunk_size=1), mean)
    yield row("landmarks, chunk_size > n", "last", landmark.LandmarkPool(D, 99), token.LastPool(D)(x, mask))
    yield row("span max, the whole row", "max", spans.SpanMaxPool(D), top)
    yield row("concat of mean and max", "mean, max", concat.ConcatPool(D, ("mean", "max")), torch.cat([mean, top], 1))
    yield row("SPLADE max", "ln(1 + relu(max))", splade.SPLADEPool(D), top.relu().log1p())
    yield row("MIDAM softmax, tau = 1e-4", "max, to tau ln(n)", midam.MIDAMSoftmaxPool(D, tau=1e-4), top, 1e-4 * log_n)
    # every weight is below 1 / mu and their mean is 1, so none is further from 1 than n (1 - mu) / mu
    gap = n.max().item() * 1e-9 * max(abs(largest), -low.min().item())
    yield row("GSP, mu = 1 - 1e-9", "mean, to n (1 - mu) max |x|", gsp.GSP(D, mu=1 - 1e-9), mean, 2 * gap)
    yield row("GSP, gamma = 0", "mean", gsp.GSP(D, gamma=0.0), mean, 1e-7)  # the threshold is found to this
    yield row("Hopfield, static, beta = 0", "mean", hopfield.HopfieldPooling(D, static=True, beta=0.0), mean)
    yield row("gated attention, w = 0", "mean", _without(attention.GatedAttentionPool(D), "w.weight"), mean)
    yield row("AttSets, W = 0", "mean", _without(attention.AttSetsPool(D), "score.weight"), mean)
    # alike are the keys of all tokens, so is their weight, and a mean of values is the value of the mean
    blind = _without(attention.MultiHeadAttentionPool(D, 2), "key.weight").to(x.dtype)
    yield row("multi-head attention, W_k = 0", "W_o (W_v mean + b)", blind, blind.out(blind.value(mean)))
    still = _without(midam.MIDAMAttentionPool(D), "attention.w.weight")
    yield row("MIDAM attention, w = 0", "mean", still, mean)
    unmoved = _without(latent.LatentAttentionPool(D, num_latents=3), "out.weight", "ff.1.weight", "ff.1.bias")
    yield row("latent attention, W_o = 0, FF = 0", "mean", unmoved, mean)
    silent = _without(latent.PerceiverPool(D, num_latents=3), *SILENT).to(x.dtype)
    yield row(
        "perceiver, W_o = 0, FF = 0", "mean of the latents", silent, silent.reader.latents.mean(0).expand_as(mean)
    )
    last = torch.zeros_like(mask).scatter(1, (mask * torch.arange(1, 10)).argmax(1, keepdim=True), True)
    one = functional.segment_pool(x, last, "sum")
    yield _limit("token", "position mean, one token", "itself", token.PositionMeanPool(D)(x, last), one)
    yield _limit("token", "AttSets, one token", "itself", attention.AttSetsPool(D).to(x.dtype)(x, last), one)
    value = keyvalue.DiscreteKeyValueBottleneck(D, num_keys=1).to(x.dtype)
    yield row("key-value, one key", "mean value", value, value.values[:, 0].mean(0).expand_as(mean))
    received = weighted.ReceivedAttentionPool(D)(x, mask, torch.full(mask.shape, 0.3, dtype=x.dtype))
    yield _limit("token", "received attention, all equal", "mean", received, mean)
    order = torch.randperm(x.shape[1])
    asked = {"PMA": attention.PMA(D), "GSP": gsp.GSP(D), "Hopfield": hopfield.HopfieldPooling(D)}
    for name, pool in (asked | {"AttSets": attention.AttSetsPool(D)}).items():
        turned = pool.to(x.dtype)(x[:, order], mask[:, order])
        yield row(f"{name}, tokens permuted", "itself", pool, turned)


SILENT = ("reader.to_out.weight", "reader.ff.1.weight", "reader.ff.1.bias")


def _without(pool: torch.nn.Module, *names: str) -> torch.nn.Module:
    with torch.no_grad():
        for name in names:
            pool.get_parameter(name).zero_()
    return pool


def _layers(h: Tensor) -> Iterator[Limit]:
    sizes = (h.shape[-1], h.shape[0])

    def row(setting: str, equals: str, pool, given: Tensor, want: Tensor) -> Limit:
        return _limit("layer", setting, equals, pool.to(h.dtype)(given), want)

    equal = h[:1].expand_as(h)
    for name, kind in {
        "pick": layers.LayerPick, "mean": layers.LayerMean, "first-last": layers.FirstLastMean,
        "max": layers.LayerMax, "softmax mix": layers.SoftmaxMix, "dimension mix": layers.DimensionMix,
        "weighted mix": layers.WeightedLayerMix, "router": layers_routed.GatedLayerRouter,
    }.items():  # fmt: skip
        yield row(f"{name}, equal layers", "that layer", kind(*sizes), equal, h[0])
    mean = h.mean(0)
    yield row("softmax mix, at the start", "mean", layers.SoftmaxMix(*sizes), h, mean)
    yield row("router, at the start", "mean", layers_routed.GatedLayerRouter(*sizes), h, mean)
    yield row("pair, at the start", "mean of the two", layers_routed.LayerPair(*sizes), h, (h[2] + h[4]) / 2)
    yield row("history, equal layers", "that layer", historical.HistoryAttention(*sizes), equal, h[0])
    blocks = layers.ConcatProject(*sizes)
    with torch.no_grad():
        blocks.project.weight.zero_()[:, -sizes[0] :].fill_diagonal_(1)
    yield row("concat and project, A = [0 ... 0 I]", "last layer", blocks, h, h[-1])
    fused = _without(layers_routed.AttentiveLayerFusion(*sizes), "query").to(h.dtype)
    normed = torch.nn.functional.layer_norm(h, h.shape[-1:], eps=1e-6).mean(0)
    want = fused.to_out(fused.to_kv(normed).chunk(2, -1)[1])
    yield row("attentive fusion, q = 0", "W_o W_v mean of LN(h)", fused, h[:, None].expand(-1, 2, -1, -1), want)
    small = {"latents": 3, "heads": 2, "dim_head": 4}
    last, start = (multilayer.MultiLayerResidualPool(*sizes, baseline=b, **small) for b in ("last", "mean"))
    yield row("multilayer repaired, at the start", "last layer", last, h, h[-1])
    yield row("multilayer repaired on the mean", "mean", start, h, mean)
    blind = _without(multilayer.MultiLayerPool(*sizes, **small), "layer_embedding").to(h.dtype)
    yield row("multilayer without layer embedding", "itself, layers permuted", blind, h, blind(h.flip(0)))


def _maps(m: Tensor) -> Iterator[Limit]:
    def row(setting: str, equals: str, pool, given: Tensor, want: Tensor) -> Limit:
        return _limit("map", setting, equals, pool.to(m.dtype).eval()(given), want)

    F = torch.nn.functional
    mean, top, flat = F.avg_pool2d(m, 2), F.max_pool2d(m, 2), torch.full_like(m, 0.7)
    level, half = torch.full_like(mean, 0.7), (top + mean) / 2
    soft, dsc = spatial.SoftPool2d(2), spatial.EDSCWPool2d(2)
    yield row("SoftPool, constant map", "the constant", soft, flat, level)
    yield row("eDSCW, constant map", "the constant", dsc, flat, level)
    yield row("AdaPool, beta = 0", "SoftPool", adapool.AdaPool2d(2, beta=0.0), m, soft(m))
    yield row("AdaPool, beta = 1", "eDSCW", adapool.AdaPool2d(2, beta=1.0), m, dsc(m))
    ada = adapool.AdaPool2d(2).to(m.dtype)
    back = 4 * F.avg_pool2d(adapool.AdaUnpool2d(2)(mean, ada.masks(m)), 2)
    yield _limit("map", "AdaUnpool, summed over windows", "what was spread", back, mean)
    yield row("mixed, alpha = 0", "mean", spatial_learned.MixedPool2d(2, alpha=0.0), m, mean)
    yield row("mixed, alpha = 1", "max", spatial_learned.MixedPool2d(2, alpha=1.0), m, top)
    yield row("gated, w = 0", "(max + mean) / 2", _without(spatial_learned.GatedPool2d(2), "weight"), m, half)
    inside = F.avg_pool2d(m, 3, 2, 1, count_include_pad=False)
    yield row("LIP, at the start", "mean of 3 x 3", lip.LIP2d(3), m, inside)
    yield row("GeM, p = 1", "mean of max(x, eps)", gem.GeM2d(1.0, kernel_size=2), m, F.avg_pool2d(m.clamp(min=1e-6), 2))
    yield row("regional GeM, constant map", "the constant", gem.RegionalGeM(), flat, flat)
    yield row("ReLUP, alpha = 0", "ReLU", gem.ReLUP(0.0), m, m.relu())
    yield row("poset, antichain", "sum of relu(x)", poset.PosetPool2d("antichain"), m, 4 * F.avg_pool2d(m.relu(), 2))
    yield row("mixer, constant map", "0", spatial.PoolMixer2d(3), flat, 0 * flat)
    yield row("pyramid, one bin", "global max", spatial.SpatialPyramidPool2d((1,)), m, m.amax((2, 3)))
    yield row("S3, constant map", "the constant", stochastic.S3Pool2d(2, 4), flat, level)
    tree = spatial_learned.TreePool2d(2)
    with torch.no_grad():
        tree.leaves.fill_(0.25)
    yield row("tree, equal leaves", "that leaf: the mean", tree, m, mean)
    pointwise = mixers.PfLayer(3, 2, kernel_size=1).to(m.dtype).eval()
    yield row("PF layer, kernel_size = 1", "its two convolutions", pointwise, m, pointwise.expand(pointwise.reduce(m)))
    yield row("stochastic, constant map", "the constant", stochastic.StochasticPool2d(2), flat, level)
