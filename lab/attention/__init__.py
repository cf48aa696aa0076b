"""Scores and sinks: how tokens weigh each other, in any model, and what happens when the weighing is exchanged.

NORMALIZERS["softpick"](scores, mask)      scores [..., Tq, Tk], mask bool, True = this key may be seen
with use(model, "softpick"): ...           the same in each attention layer of a model
with watch(model) as sinks: ...            sinks.result(): what each key received, per layer and head
pattern(model, text, layer)                the rows themselves, for one short text
with without_keys(model, [1]): ...         nobody may look there; with_sink_logit, activations_set: other ways out
temperatures(model, **inputs)              what selective attention, "ssa", multiplies the scores of each query by
activations(model, texts)                  how far the largest coordinates of the states stand out
rounding_loss(model, batches)              what rounding to few bits does to its output; rounding: while a block runs
"""

from lab.attention.activations import activations
from lab.attention.interventions import activations_set, with_sink_logit, without_keys
from lab.attention.normalizers import NORMALIZERS
from lab.attention.pattern import pattern
from lab.attention.quantize import rounding, rounding_loss
from lab.attention.sparse import sparsemax_loss
from lab.attention.temperature import temperatures
from lab.attention.use import use
from lab.attention.watch import watch

__all__ = [
    "NORMALIZERS",
    "activations",
    "activations_set",
    "pattern",
    "rounding",
    "rounding_loss",
    "sparsemax_loss",
    "temperatures",
    "use",
    "watch",
    "with_sink_logit",
    "without_keys",
]
