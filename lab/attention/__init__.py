"""Scores and sinks: how tokens weigh each other, in any model, and what happens when the weighing is exchanged.

NORMALIZERS["softpick"](scores, mask)      scores [..., Tq, Tk], mask bool, True = this key may be seen
with use(model, "softpick"): ...           the same in each attention layer of a model
with watch(model) as sinks: ...            sinks.result(): what each key received, per layer and head
"""

from lab.attention.normalizers import NORMALIZERS
from lab.attention.use import use
from lab.attention.watch import watch

__all__ = ["NORMALIZERS", "use", "watch"]
