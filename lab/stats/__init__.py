"""What a difference means: intervals, exact tests, effect sizes, and how many seeds it would take.

bootstrap     the mean and its interval, over examples or seeds, few of them too
bca           the same, corrected for bias and skewness
levels        the same over seeds x data sets x examples, each level drawn inside the one above or beside it
sign_flip     exact permutation test of paired differences, with the smallest p it could have given
wilcoxon      the signed-rank test, exact with ties too
holm          what is left of many p-values in one declared family
cohen_dz, rank_biserial, cliffs_delta    how large, in units of the spread or of chances
power         how many seeds would show this?
settling      how many seeds would settle it, with or without a difference?
judge         claims: on which side of zero each says it is, and whether it is there; verdict, in words
best_elsewhere  the best of several, each seed judging what the others chose
ranks_agree   do two sets of scores put the same first
compare       all of it for designs side by side, in one table; lab.plots.forest draws it
contrasts     is one design better than another: it holds, it does not, or too little power, and how many seeds it takes
"""

from lab.stats.bca import bca
from lab.stats.bootstrap import bootstrap
from lab.stats.claims import judge, verdict
from lab.stats.compare import compare
from lab.stats.contrasts import Contrast, contrasts
from lab.stats.effects import cliffs_delta, cohen_dz, rank_biserial
from lab.stats.elsewhere import best_elsewhere
from lab.stats.exact import TESTS, sign_flip, wilcoxon
from lab.stats.holm import holm
from lab.stats.levels import levels
from lab.stats.power import power
from lab.stats.ranks import ranks_agree
from lab.stats.settling import settling
from lab.stats.words import best, in_words

__all__ = [
    "TESTS",
    "Contrast",
    "bca",
    "best",
    "best_elsewhere",
    "bootstrap",
    "cliffs_delta",
    "cohen_dz",
    "compare",
    "contrasts",
    "holm",
    "in_words",
    "judge",
    "levels",
    "power",
    "rank_biserial",
    "ranks_agree",
    "settling",
    "sign_flip",
    "verdict",
    "wilcoxon",
]
