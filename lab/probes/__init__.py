"""What a layer knows: every layer and pool of captured states, asked the same question."""

from lab.probes.linear import linear
from lab.probes.recover import recover
from lab.probes.regression import multilabel, regression
from lab.probes.retrieval import ranks, retrieval
from lab.probes.words import words_linear, words_retrieval

__all__ = ["linear", "multilabel", "ranks", "recover", "regression", "retrieval", "words_linear", "words_retrieval"]
