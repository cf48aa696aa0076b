"""Small models trained here: language models whose norms, biases and normalizers are the question, and embedders.

base             a tiny decoder, trained as a language model and saved as transformers saves
DESIGNS          pooling x attention: which mask, which tokens, which layers, which head
embedder         a design on a base: a SentenceTransformer
contrastive      trains it on pairs, by a loss of LOSSES
trials           designs x seeds on all cores, each run kept
layer_weights    what a trained one reads of each layer
"""

from lab.training.base import base
from lab.training.contrastive import Tuned, contrastive
from lab.training.corpus import Corpus, corpus
from lab.training.designs import DESIGNS, Design
from lab.training.embedder import embedder
from lab.training.language_model import Run, language_model
from lab.training.layer_weights import layer_weights
from lab.training.losses import LOSSES
from lab.training.recipe import STUDY, Recipe
from lab.training.retrieval import max_retrieval
from lab.training.several import several, together
from lab.training.trials import trials
from lab.training.vitals import vitals

__all__ = [
    "DESIGNS",
    "LOSSES",
    "STUDY",
    "Corpus",
    "Design",
    "Recipe",
    "Run",
    "Tuned",
    "base",
    "contrastive",
    "corpus",
    "embedder",
    "language_model",
    "layer_weights",
    "max_retrieval",
    "several",
    "together",
    "trials",
    "vitals",
]
