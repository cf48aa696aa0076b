"""Small models trained here: language models whose norms, biases and normalizers are the question."""

from lab.training.corpus import Corpus, corpus
from lab.training.language_model import Run, language_model
from lab.training.recipe import STUDY, Recipe
from lab.training.retrieval import max_retrieval
from lab.training.several import several, together
from lab.training.vitals import vitals

__all__ = [
    "STUDY",
    "Corpus",
    "Recipe",
    "Run",
    "corpus",
    "language_model",
    "max_retrieval",
    "several",
    "together",
    "vitals",
]
