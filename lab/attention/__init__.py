"""Scores to weights, in any model: every published normalizer of attention under one contract.

    NORMALIZERS["softpick"](scores, mask)      scores [..., Tq, Tk], mask bool, True = this key may be seen
    with use(model, "softpick"): ...           the same in each attention layer of a transformers model
"""

from lab.attention.normalizers import NORMALIZERS

__all__ = ["NORMALIZERS"]
