"""Watching the attention of a model while it runs on its own: who looks where, without the T x T weights."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.attention import flash
from lab.attention.call import Call
from lab.attention.calls import listening
from lab.attention.chunks import Weigh, computed
from lab.attention.sinks import BACKENDS, REFUSALS, Seen, answered, choose, measure
from lab.attention.tally import Tally


class Sinks:
    """What was seen so far; a watched pass that fails half-way leaves nothing."""

    def __init__(self, model: Any, tally: Tally, backend: str, weigh: Weigh | str | None, spread: bool) -> None:
        self.model, self.tally, self.backend, self.weigh, self.spread = model, tally, backend, weigh, spread
        self._running = False  # inside a pass of the model: a call outside of one is computed again for gradients
        self._batch: dict[int, Seen] = {}

    def result(self) -> xr.Dataset:
        """All sequences so far; see `watch` for the variables. ValueError before the first."""
        tally = copy.deepcopy(self.tally)  # a generation under way may go on
        tally.close()
        return tally.result().assign_attrs(
            model=self.model.name, source=self.model.source, device=str(self.model.device)
        )

    @torch.compiler.disable
    def _begin(self, *_: object) -> None:
        self._running, self._batch = True, {}

    @torch.compiler.disable
    def _end(self, *_: object) -> None:
        batch, self._running, self._batch = self._batch, False, {}
        if batch:
            self.tally.add(batch)

    @torch.compiler.disable
    def _attend(self, call: Call) -> Tensor:
        if not self._running or call.cross or call.layer == 0:
            return call.own()
        if call.layer in self._batch:
            raise ValueError(
                f"layer {call.layer} of {self.model.name} asks for attention twice in a pass, the second time in "
                f"{type(call.module).__name__}: which of the two to show is not known here"
            )
        backend = choose(call.held, self.weigh) if self.backend == "auto" else self.backend
        if backend == "fused" and self.weigh is None and not _needs_own(call):
            out, self._batch[call.layer] = answered(call.held, self.spread)
            return out
        overheard = flash.Overheard() if backend in {"flash", "tiles"} else None
        with overheard or nullcontext():
            out = call.own()
        heard = [] if overheard is None else overheard.found
        # one query beside a cache is computed as several of one shared head, and its lse has that shape
        fits = len(heard) == 1 and heard[0].shape == call.query.shape[:3] and call.answered is None
        seen, weigh = computed(call) if self.weigh is None else (call.held, self.weigh)
        self._batch[call.layer] = measure(seen, self.backend, weigh, heard[0] if fits else None, self.spread)
        return out


def _needs_own(call: Call) -> bool:
    """Whether the answer has to come from the model: there is more to it than softmax, or a graph to record."""
    recording = torch.is_grad_enabled() and any(x.requires_grad for x in (call.query, call.key, call.value))
    return recording or call.dropout > 0 or call.inside is not None


@contextmanager
def watch(
    model: Any,
    *,
    thresholds: Sequence[float] = (0.3,),
    first: int = 4,
    backend: str = "auto",
    normalizer: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    spread: bool = True,
) -> Iterator[Sinks]:
    """Inside the block every forward pass of the model, however it comes about, is watched: sinks.result().

    The model computes what it computes without, bit for bit but for "fused", and its attention is seen as that is: by
    `lab.attention.use`, `without_keys` or `with_sink_logit`, whichever block is opened first. What is kept is linear in
    T. A_ik is the weight that query i gives key k; positions count from the first real token of each sequence, which is
    1; padding is neither query nor key. Means are over the queries of a sequence first, then over the sequences that
    have the position.

    At [layer, head, position k]:
        mass          alpha_k = 1 / (T - k + 1) sum_{i >= k} A_ik where no query sees a later key, and 1 / T sum_i A_ik
                      where one does. Gu et al., ICLR 2025, section 3, https://arxiv.org/abs/2410.10781
        share         the same of |A_ik| / sum_k |A_ik|, their proxy for weights that do not sum to 1; mass if they do
        lift          alpha_k (of share) over what equal weights on the visible keys give: alpha_1 T / H_T for a causal
                      head, H_T = sum_{t <= T} 1 / t, and alpha_k T for one that sees all
        sink_rate     [.., threshold, position]: in how many of the sequences alpha_k (of share) > threshold, strictly;
                      Gu et al. take 0.3 and T = 64, and mean over layers and heads. Late positions are means of few
                      queries and always large: see `queries`
        mass_rate     the same of alpha_k itself, where rows do not sum to 1 (a sink logit, sigmoid, softpick)
        value_mass    alpha_k |v_k|, value_norm |v_k|
    At [layer, head, sequence], means over the sequence's queries, for lab.stats.bootstrap(..., along="sequence"):
        first_token   alpha_1 (of share); first_share: of share on the `first` keys
        row_mass      sum_k A_ik, 1 for a softmax
        entropy       -sum_k p_ik log p_ik in nats, with p = share; effective_keys: 1 / sum_k p_ik^2
        distance      sum_k p_ik (i - k), tokens looked back; ahead counts negative
        zeros         of the visible keys, the share whose weight is exactly 0; 0 for a softmax, whatever may underflow
        sink_logit    the weight of a learned sink logit (gpt-oss), 0 without one
    support [position]: sequences that have it; queries [position]: mean number of queries behind alpha_k; length
    [sequence]; backend [layer].

    backend:
        "auto"      for full and causal masks, padded at the ends or not, "tiles" on one or two threads of a CPU and
                    else "flash"; "chunked" for all else: windows, a user's mask, softcap, position bias, sink logit,
                    another normalizer, several queries on a cache
        "tiles"     one product of queries and keys, a tile at a time, in float32 (lab.attention.tiles)
        "flash"     stock flash kernels (lab.attention.flash); in half precision entropy and distance are exact to
                    some 1e-2 nats and 1e-3 of T
        "chunked"   complete rows of a few queries at a time, in float32
        "fused"     output and statistics in one go, the fastest: where no graph is recorded, the model gets its output
                    from there, equal but for rounding. On a CPU a few complete rows at a time, in float32
                    (lab.attention.together); on a GPU, and for another normalizer than softmax, by
                    lab.kernels.attention_columns: entropy, effective_keys and distance are NaN then, and so are share
                    for other normalizers than softmax and zeros for relu and softpick
        "eager"     the whole matrix
    spread: False leaves entropy and effective_keys NaN; with "tiles" and "flash" what is left costs a third less.
    normalizer: a name of lab.attention.NORMALIZERS or (scores, mask) -> weights: the weights to look at, where the
        model computes with them inside `lab.attention.use`. Its output is what it gives without being watched.

    A cached generation counts as one batch of sequences, whose steps add up (greedy or sampled; a beam search exchanges
    its sequences unseen). Passes computed again for gradients are not counted, cross-attention is not watched.

    Raises TypeError and ValueError as `lab.attention.calls.attending`, ValueError for an unknown backend or normalizer,
    thresholds or `first` out of range, and, from the model's own pass, for a call that the backend cannot take.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"no backend {backend!r}; there are {['auto', *REFUSALS]}")
    if isinstance(thresholds, str) or not isinstance(thresholds, Sequence | np.ndarray):
        raise TypeError(f"thresholds are several numbers, as (0.3,); got {thresholds!r}")
    if isinstance(first, bool) or not isinstance(first, int | np.integer):
        raise TypeError(f"first is a number of keys, an int; got {first!r}")
    if not len(thresholds) or not all(0 <= eps < 1 for eps in thresholds) or first < 1:
        raise ValueError(f"needed are thresholds in [0, 1) and first >= 1; got {tuple(thresholds)} and {first}")
    sinks = Sinks(model, Tally(thresholds, first), backend, _weigh(normalizer, backend), spread)
    with listening(model, sinks._attend):
        handles = [
            model.model.register_forward_pre_hook(sinks._begin),
            model.model.register_forward_hook(sinks._end),
        ]
        try:
            yield sinks
        finally:
            for handle in handles:
                handle.remove()


def _weigh(normalizer: Any, backend: str) -> Weigh | str | None:
    """A function of scores and mask, or for the fused kernel a name; None for softmax, which the calls complete."""
    if normalizer is None or callable(normalizer) or backend == "fused":
        return normalizer
    from lab.attention.normalizers import NORMALIZERS

    if not isinstance(normalizer, str):
        raise TypeError(f"normalizer is a name, one of {sorted(NORMALIZERS)}, or a function; got {normalizer!r}")
    if normalizer not in NORMALIZERS:
        raise ValueError(f"no normalizer {normalizer!r}; there are {sorted(NORMALIZERS)}")
    found = NORMALIZERS[normalizer]
    if more := [stage for stage in ("learned", "before", "rows", "halo") if getattr(found, stage, None) is not None]:
        raise ValueError(
            f"{normalizer!r} is more than a function of scores and mask ({', '.join(more)}): pass a function of your "
            "own that knows the rest"
        )
    return found
