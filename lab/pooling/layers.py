"""Layer pooling: the states of all layers, already one vector per text and layer, to one vector per text.

h is [L, ..., D], layers first, as capture gives it ([L, B, D] from one token pool). No pool here asks for a stack of
full [L, B, T, D] states: pool the tokens inside a hook, then the layers. Every pool is built as Pool(dim, num_layers).

A layer mask is bool [L], True = may be read. A hidden layer is never read: NaN in it does not leak. A row that is zero
in every layer (a text without tokens) gives zeros in each pool of this file. Half inputs accumulate in float32.
"""

from numbers import Integral

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.kernels.layout import all_finite, at_once
from lab.pooling.arguments import check_counts, check_positive

HALF = frozenset({torch.float16, torch.bfloat16})


def check_layers(h: Tensor, num_layers: int, mask: Tensor | None = None, dim: int | None = None) -> None:
    """Raise ValueError or TypeError unless h is [num_layers, ..., D] of a float type and mask a bool [num_layers].

    dim: the width that h must have, for pools whose weights have one.
    """
    if not isinstance(h, Tensor):
        raise TypeError(f"h must be a tensor [layers, ..., dim]; got {type(h).__name__}")
    if h.ndim < 2 or not h.is_floating_point():
        raise ValueError(f"h must be [layers, ..., dim] of a float type; got {tuple(h.shape)} of {h.dtype}")
    if h.shape[0] != num_layers:
        raise ValueError(
            f"h has {h.shape[0]} layers first, the pool was built for {num_layers}: the embedding output counts as a "
            "layer, so a model of n blocks has n + 1; select the layers, or build the pool for as many"
        )
    if dim is not None and h.shape[-1] != dim:
        raise ValueError(f"h must be {dim} wide, as the pool was built; got {tuple(h.shape)}: build it for that width")
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"the layer mask must be a bool tensor, True = may be read; got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"the layer mask must be bool, True = may be read; got {mask.dtype}")
    if mask.shape != (num_layers,):
        raise ValueError(f"the layer mask must be ({num_layers},), one per layer; got {tuple(mask.shape)}")
    if not mask.any():
        raise ValueError("the layer mask hides every layer; at least one must be left to read")


def built_for(dim: int, num_layers: int) -> None:
    """Raise ValueError for widths and depths that no stack of states has."""
    check_counts(dim=dim, num_layers=num_layers)


def hidden(h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None) -> Float[Tensor, "L *N D"]:
    """h with zeros where a layer may not be read."""
    return h if mask is None else h.masked_fill(~mask.view(-1, *[1] * (h.ndim - 1)), 0)


def mix(
    h: Float[Tensor, "L *N D"], weights: Float[Tensor, " L *W"], mask: Bool[Tensor, " L"] | None = None
) -> Float[Tensor, "*N D"]:
    """y = sum over layers of weights[l] h[l]; weights [L], or any shape that lies against [L, ..., D].

    Written as a product and a sum, not as a matrix product: a one-hot row then picks its layer bit for bit, on any
    device, whatever its matrix units round.
    """
    given = h.dtype
    if given in HALF:
        h = h.float()
    if weights.ndim == 1:
        weights = weights.view(-1, *[1] * (h.ndim - 1))
    return cast((cast(weights, h.dtype) * hidden(h, mask)).sum(0), given)


def accumulator(h: Tensor) -> torch.dtype:
    """The type to accumulate in: float32 for half layers, else their own."""
    return torch.float32 if h.dtype in HALF else h.dtype


def cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """values.to(dtype); to find nothing to do takes `to` 2 us, a tenth of all that one of these pools does."""
    return values if values.dtype == dtype else values.to(dtype)


def mean(h: Float[Tensor, "L *N D"]) -> Float[Tensor, "*N D"]:
    """The mean of all these layers, in float32 for half ones: their sum may overflow."""
    return h.mean(0, dtype=torch.float32).to(h.dtype) if h.dtype in HALF else h.mean(0)


def with_inverse_rms(x: Float[Tensor, "*n D"], eps: float) -> tuple[Float[Tensor, "*n D"], Float[Tensor, "*n 1"]]:
    """x and 1 / sqrt(mean_d x_d^2 + eps), for their product: vectors that are too long may come shorter.

    Beyond 1e15 the squares, or what multiplies them on the way back, leave float32; such vectors are divided by
    their largest coordinate, which moves nothing but eps, far below a rounding there.
    """
    if at_once(x):
        square = x.square().mean(-1, keepdim=True)
        if all_finite(1e8 * square):
            return x, torch.rsqrt(square + eps)
    peak = x.detach().abs().amax(-1, keepdim=True)
    x = x / torch.where(peak > 1e15, peak, 1)
    return x, torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def layer_softmax(scores: Float[Tensor, " L *N"], mask: Bool[Tensor, " L"] | None) -> Float[Tensor, " L *N"]:
    """Softmax over the first axis in float32 or wider, with weight 0 for layers that may not be read."""
    if scores.dtype in HALF:
        scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(~mask.view(-1, *[1] * (scores.ndim - 1)), -torch.inf)
    return scores.softmax(0)


class LayerPick(nn.Module):
    """One layer, y = h[layer]; negative numbers count from the end. h (L, ..., D) -> (..., D).

    The last layer is the field's default; that middle layers may be better: Skean et al., "Layer by Layer", 2025
    (from the abstract). https://arxiv.org/abs/2502.02013
    """

    def __init__(self, dim: int, num_layers: int, layer: int = -1) -> None:
        super().__init__()
        built_for(dim, num_layers)
        if not isinstance(layer, Integral) or not -num_layers <= layer < num_layers:
            raise ValueError(f"layer must be one of 0 to {num_layers - 1}, or -1 for the last; got {layer}")
        self.dim, self.num_layers, self.layer = dim, num_layers, layer

    def forward(self, h: Float[Tensor, "L *N D"]) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers)
        return h[self.layer]


class LayerMean(nn.Module):
    """The mean of the layers start .. stop - 1, y = 1/n sum_l h_l. h (L, ..., D), mask (L,) -> (..., D).

    All of them unless told; start = -4 is the mean of the last four. Devlin et al., 2019, section 5.3, table 7 sums
    the last four (recalled). https://arxiv.org/abs/1810.04805
    """

    def __init__(self, dim: int, num_layers: int, start: int = 0, stop: int | None = None) -> None:
        super().__init__()
        built_for(dim, num_layers)
        read = range(num_layers)[start:stop]
        if not read:
            raise ValueError(f"layers {start} to {stop} (not included) of {num_layers} are none; widen the range")
        self.dim, self.num_layers, self.start, self.stop = dim, num_layers, start, stop
        self.all = len(read) == num_layers

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask)
        if mask is None:
            # a slice of all would still be put back into zeros by the backward pass
            return mean(h if self.all else h[self.start : self.stop])
        inside = torch.zeros(self.num_layers, dtype=torch.bool, device=h.device)
        inside[self.start : self.stop] = True
        read = inside & mask
        # a mask that hides the whole range leaves nothing to average: zeros, as for an empty row
        return mix(h, read.double() / read.sum().clamp(min=1), read)


class FirstLastMean(nn.Module):
    """The mean of an early layer and the last, y = (h_first + h_last) / 2. h (L, ..., D) -> (..., D).

    first = 0 is the embedding output, as SimCSE's code reads "first-last average"; BERT-flow and BERT-whitening take
    the first block, first = 1 (all three recalled). Gao et al., 2021: https://arxiv.org/abs/2104.08821
    """

    def __init__(self, dim: int, num_layers: int, first: int = 0) -> None:
        super().__init__()
        built_for(dim, num_layers)
        check_counts(0, first=first)
        if first >= num_layers:
            raise ValueError(f"first must be one of 0 to {num_layers - 1}; got {first}")
        self.dim, self.num_layers, self.first = dim, num_layers, first

    def forward(self, h: Float[Tensor, "L *N D"]) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers)
        return torch.lerp(h[self.first], h[-1], 0.5)  # in float32 for half layers, and nothing in between


class LayerMax(nn.Module):
    """The maximum over layers, each coordinate by itself, y_d = max_l h_ld. h (L, ..., D), mask (L,) -> (..., D).

    A standard form: named, without a definition, in work on pooling over layers (from the abstract).
    """

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        built_for(dim, num_layers)
        self.dim, self.num_layers = dim, num_layers

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask)
        if mask is not None:
            h = h.masked_fill(~mask.view(-1, *[1] * (h.ndim - 1)), -torch.inf)
        # the gradient goes to the first of equal layers; to find which costs, and is not asked for without one
        return h.max(0).values if h.requires_grad and torch.is_grad_enabled() else h.amax(0)


class SoftmaxMix(nn.Module):
    """ELMo's mix, y = gamma sum_l softmax(s)_l h_l, with one scalar s_l a layer. h (L, ..., D), mask (L,) -> (..., D).

    norm = True first brings each vector of each layer to mean 0 and variance 1 over D (no gain, no bias): layers of
    large scale then do not drown the others. s starts at 0 (the mean), gamma at 1.
    Peters et al., 2018, eq. 1; the norm is the remark below it (both recalled; AllenNLP's code takes its statistics
    over all tokens of the batch, ours over one vector, so that a row does not depend on its batch).
    https://arxiv.org/abs/1802.05365
    """

    def __init__(self, dim: int, num_layers: int, norm: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        built_for(dim, num_layers)
        check_positive(eps=eps)
        self.dim, self.num_layers, self.norm, self.eps = dim, num_layers, norm, eps
        self.scores = nn.Parameter(torch.zeros(num_layers))
        self.gamma = nn.Parameter(torch.ones(()))

    def weights(self, mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, " L"]:
        """What each layer counts for: softmax(s), without gamma."""
        return layer_softmax(self.scores, mask)

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask)
        weights = self.gamma * self.weights(mask)
        if not self.norm:
            return mix(h, weights, mask)
        x = nn.functional.layer_norm(cast(hidden(h, mask), accumulator(h)), h.shape[-1:], eps=self.eps)
        return cast(mix(x, weights), h.dtype)


class DimensionMix(nn.Module):
    """A mix of its own for each coordinate, y_d = sum_l softmax_l(s_ld) h_ld. h (L, ..., D), mask (L,) -> (..., D).

    The per-dimension form of SoftmaxMix, without gamma: a standard form, no paper is known to define it. s starts at 0
    (the mean).
    """

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        built_for(dim, num_layers)
        self.dim, self.num_layers = dim, num_layers
        self.scores = nn.Parameter(torch.zeros(num_layers, dim))

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask, self.dim)
        weights = layer_softmax(self.scores, mask)
        return mix(h, weights.view(self.num_layers, *[1] * (h.ndim - 2), -1), mask)


class WeightedLayerMix(nn.Module):
    """sentence-transformers' WeightedLayerPooling, y = sum_{l >= start} w_l h_l / sum_l w_l. h (L, ..., D) -> (..., D).

    w is free, starts at 1 (the mean), and is not kept positive: where it sums to almost 0 the result explodes, where it
    sums to 0 there is none (a ValueError on a CPU, and Inf or NaN where looking would cost a wait). That
    is the definition; SoftmaxMix has no such point. start is 4 by default over there, 0 here (a model of six blocks
    has few layers to leave out). It mixes tokens there and pooled vectors here: for a pool that is linear in the
    tokens (mean, last, first, position-weighted ...) the order does not matter, for the maximum it does.
    Read from the code of sentence-transformers 6.2. https://github.com/huggingface/sentence-transformers
    """

    def __init__(self, dim: int, num_layers: int, start: int = 0) -> None:
        super().__init__()
        built_for(dim, num_layers)
        check_counts(0, start=start)
        if start >= num_layers:
            raise ValueError(f"start must be one of 0 to {num_layers - 1}; got {start}")
        self.dim, self.num_layers, self.start = dim, num_layers, start
        self.layer_weights = nn.Parameter(torch.ones(num_layers - start))

    def forward(self, h: Float[Tensor, "L *N D"]) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers)
        some = h[self.start :] if self.start else h
        weights = cast(self.layer_weights, accumulator(h))
        total = weights.sum()
        if at_once(h) and not total.item():
            raise ValueError(f"the layer weights sum to 0, so their mix has no value; got {weights.tolist()}")
        return mix(some, weights / total)


class ConcatProject(nn.Module):
    """All layers side by side, then one linear map, y = A [h_1; ...; h_L]. h (L, ..., D), mask (L,) -> (..., out_dim).

    A (out_dim, L D) without bias, torch's default init; a masked layer is read as zeros. That the concatenation of the
    last four is a good feature: Devlin et al., 2019, section 5.3, table 7 (recalled). https://arxiv.org/abs/1810.04805
    """

    def __init__(self, dim: int, num_layers: int, out_dim: int | None = None) -> None:
        super().__init__()
        built_for(dim, num_layers)
        out_dim = dim if out_dim is None else out_dim
        check_counts(out_dim=out_dim)
        self.dim, self.num_layers, self.out_dim = dim, num_layers, out_dim
        self.project = nn.Linear(num_layers * dim, self.out_dim, bias=False)

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N E"]:
        check_layers(h, self.num_layers, mask, self.dim)
        side_by_side = hidden(h, mask).movedim(0, -2).flatten(-2)  # (..., L D)
        return self.project(side_by_side.to(self.project.weight.dtype)).to(h.dtype)
