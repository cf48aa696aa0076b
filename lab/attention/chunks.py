"""Column sums and row spread from the weights themselves, some rows of queries at a time: any mask, any normalizer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.attention.call import Call

Weigh = Callable[[Tensor, Tensor], Tensor]  # (scores, mask) -> weights: a NORMALIZERS entry, or a function of one's own
# columns, shares, even, totals and ahead of lab.attention.sinks.Seen
Found = tuple[Tensor, Tensor, Tensor, Tensor, bool]

SUMS = ("row_mass", "entropy", "effective_keys", "distance", "sink_logit", "zeros")  # of each row, in this order


@dataclass(frozen=True, eq=False)
class Rows:
    """Weights that are known for any rows of a call: what an inner `use` computes with."""

    weights: Callable[[int, int], Tensor]  # of queries start to stop - 1, [B, H, rows, Tk]
    to_one: bool  # what a row lacks to 1 is the weight of a sink logit


def computed(call: Call) -> tuple[Call, Rows | None]:
    """What gave the answer behind call.own(), once that was called: a call, and its weights; None: a softmax.

    A block whose answers are an object's says it by a method of this name, on what it was asked.
    Raises ValueError for another block that answered by itself.
    """
    if call.answered is None:
        return call.held, None
    attend, asked = call.answered
    says = getattr(attend, "computed", None)
    if says is None:
        raise ValueError(
            f"layer {call.layer} was answered by {getattr(attend, '__qualname__', attend)} in place of the model, and "
            "with which weights is not known: watched can be the model's own attention and lab.attention.use, "
            "without_keys and with_sink_logit"
        )
    return says(asked.held)


def by_rows(call: Call, weigh: Weigh | Rows | str | None, spread: bool, step: int) -> Found:
    (B, H, Tq, _), Tk = call.query.shape, call.key.shape[2]
    kind, device = torch.promote_types(call.query.dtype, torch.float32), call.query.device
    columns, shares, even = (torch.zeros(B, heads, Tk, dtype=kind, device=device) for heads in (H, H, 1))
    totals = torch.zeros(B, H, len(SUMS), dtype=kind, device=device)
    tokens = call.tokens
    asks, ahead = tokens[:, Tk - Tq :], False
    first = torch.where(tokens.any(1), tokens.int().argmax(1), Tk)
    place = torch.arange(Tk, device=device)
    for start in range(0, Tq, step):
        stop = min(start + step, Tq)
        real = asks[:, None, start:stop, None]
        here = place[Tk - Tq + start : Tk - Tq + stop, None]
        # what a padded query sees is nobody's, and no query that is a token sees padding
        visible = call.visible.rows(start, stop).to(device) & real & tokens[:, None, None]
        whole = visible
        if call.visible.whole is not None:  # keys were hidden, which packs no texts
            whole = call.visible.whole.rows(start, stop).to(device) & real & tokens[:, None, None]
        alone = real[:, 0, :, 0] & (here[:, 0] > first[:, None]) & ~(whole & (place < here)).any(-1).any(1)
        if bool(alone.any()):
            raise ValueError(
                f"in layer {call.layer} a token that is not the first sees none before it: texts were packed into one "
                "row. Watch them as a padded batch"
            )
        ahead |= bool((visible & (place > here)).any())
        weight, logit = weights_of(call, weigh, start, stop, visible.expand(-1, H, -1, -1))
        weight = torch.where(real, weight, 0)
        mass = weight.sum(-1)
        share = weight.abs()
        share = share / share.sum(-1, keepdim=True).clamp(min=torch.finfo(kind).tiny)
        columns += weight.sum(-2)
        shares += share.sum(-2)
        n = visible.sum(-1, keepdim=True).clamp(min=1)
        evenly = (visible / n).sum(-2)
        even = even + evenly
        entropy = squares = torch.full_like(mass, torch.nan)
        if spread:
            entropy, squares = torch.special.entr(share).sum(-1), share.square().sum(-1)
        totals += torch.stack(
            [
                mass,
                entropy,
                torch.where(squares == 0, 0, 1 / squares.clamp(min=torch.finfo(kind).tiny)),
                here[:, 0] * share.sum(-1) - (share * place).sum(-1),
                torch.where(real[..., 0], logit, 0).expand_as(mass),
                ((weight == 0) & visible).sum(-1) / n[..., 0] if weigh is not None else torch.zeros_like(mass),
            ],
            -1,
        ).sum(-2)
    return columns, shares, even, totals, ahead


def weights_of(
    call: Call, weigh: Weigh | Rows | str | None, start: int, stop: int, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """A [B, H, rows, Tk], zeros where not visible, and the weight of the sink logit [B, H, rows] (or 0)."""
    if isinstance(weigh, Rows):
        weights = torch.where(visible, weigh.weights(start, stop), 0)
        return weights, (1 - weights.sum(-1)).clamp(min=0) if weigh.to_one else weights.new_zeros(())
    scores = call.scores(start, stop)
    if weigh is not None:
        return weigh(scores.masked_fill(~visible, 0), visible), scores.new_zeros(())
    scores = scores.masked_fill(~visible, -torch.inf)
    sink = None if call.sink is None else call.sink.to(scores.dtype)[None, :, None, None]
    top = scores.amax(-1, keepdim=True)
    top = top if sink is None else torch.maximum(top, sink)
    powers = (scores - torch.where(top == -torch.inf, 0, top)).exp()
    rest = torch.zeros_like(top) if sink is None else (sink - torch.where(top == -torch.inf, 0, top)).exp()
    total = powers.sum(-1, keepdim=True) + rest
    some = torch.where(total > 0, total, 1)
    return powers / some, (rest / some)[..., 0]
