"""Small models trained here: language models and classifiers, one recipe each."""

from lab.training.classifier import LOSSES, ClassifierRecipe, Mixed, mixed
from lab.training.classify import Classified, classify
from lab.training.corpus import Corpus, corpus
from lab.training.free_features import FreeFeatures, expected_lengths, free_features
from lab.training.language_model import Run, language_model
from lab.training.projection import HEADS, Headed, projected
from lab.training.recipe import STUDY, Recipe
from lab.training.retrieval import max_retrieval
from lab.training.several import several, together
from lab.training.vitals import vitals

__all__ = [
    "HEADS",
    "LOSSES",
    "STUDY",
    "Classified",
    "ClassifierRecipe",
    "Corpus",
    "FreeFeatures",
    "Headed",
    "Mixed",
    "Recipe",
    "Run",
    "classify",
    "corpus",
    "expected_lengths",
    "free_features",
    "language_model",
    "max_retrieval",
    "mixed",
    "projected",
    "several",
    "together",
    "vitals",
]
