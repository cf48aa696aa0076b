"""What a layer knows: every layer and pool of captured states, asked the same question.

linear, regression, multilabel   labels, numbers and label sets by closed-form linear maps, cross-validated
mlp, attentive                   a small network, or attention over the tokens, where a linear map is not enough
neighbours, centroid             nothing fitted: the nearest examples, the nearest class centre
selectivity                      above what could be learned by heart: control tasks
description_length               how few bits the labels cost once the states are known
depth                            the layer where a concept appears and the one where it has arrived
shifted                          which layer's classifier holds out of distribution
retrieval, graded_retrieval, similarity    the space as it is: ranks, nDCG, recall, correlation with scores
late_retrieval, maxsim              the same where a text is many vectors: each query token finds its best
search, refined_search, reordered    a database's order for each query, put right at its top; search_cost of it
average_precision                what an order is worth
recover                          how much of one space a linear map gets back from another
words_linear, words_retrieval    what the bare words give away
evaluate                         data sets of four kinds, every example scored, for any encoder or for states
mteb                             MTEB's own tasks by its own rules, for any encoder or for all layers and pools
"""

from lab.probes.control import control_labels, first_words, selectivity
from lab.probes.depth import depth
from lab.probes.description import description_length
from lab.probes.evaluate import evaluate
from lab.probes.fits import PENALTIES
from lab.probes.late import late_retrieval, maxsim
from lab.probes.linear import linear
from lab.probes.measures import MEASURES
from lab.probes.mteb import mteb
from lab.probes.neighbours import centroid, neighbours
from lab.probes.recover import recover
from lab.probes.regression import multilabel, regression
from lab.probes.rerank import average_precision, refined_search, reordered, search, search_cost
from lab.probes.retrieval import ranks, retrieval
from lab.probes.shift import shifted
from lab.probes.similarity import graded_retrieval, similarity
from lab.probes.trained import AttentiveProbe, attentive, mlp
from lab.probes.words import words_linear, words_retrieval

__all__ = [
    "MEASURES",
    "PENALTIES",
    "AttentiveProbe",
    "attentive",
    "average_precision",
    "centroid",
    "control_labels",
    "depth",
    "description_length",
    "evaluate",
    "first_words",
    "graded_retrieval",
    "late_retrieval",
    "linear",
    "maxsim",
    "mlp",
    "mteb",
    "multilabel",
    "neighbours",
    "ranks",
    "recover",
    "refined_search",
    "regression",
    "reordered",
    "retrieval",
    "search",
    "search_cost",
    "selectivity",
    "shifted",
    "similarity",
    "words_linear",
    "words_retrieval",
]
