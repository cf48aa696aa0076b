"""Small models trained here: language models whose norms, biases and normalizers are the question, and small readers
whose pooling is: of relations, patches, characters, words, graphs and layers."""

from lab.training.corpus import Corpus, corpus
from lab.training.graphs import READOUTS, graph_reader
from lab.training.hourglass import Shape, agreement, hourglass
from lab.training.language_model import Run, language_model
from lab.training.layer_head import layer_head
from lab.training.patches import patch_classifier
from lab.training.recipe import STUDY, Recipe
from lab.training.relations import relation_reader
from lab.training.retrieval import max_retrieval
from lab.training.several import several, together
from lab.training.sparse import Words, sparse_retriever
from lab.training.vitals import vitals

__all__ = [
    "READOUTS",
    "STUDY",
    "Corpus",
    "Recipe",
    "Run",
    "Shape",
    "Words",
    "agreement",
    "corpus",
    "graph_reader",
    "hourglass",
    "language_model",
    "layer_head",
    "max_retrieval",
    "patch_classifier",
    "relation_reader",
    "several",
    "sparse_retriever",
    "together",
    "vitals",
]
