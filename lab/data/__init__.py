"""Corpora and tasks: docstrings of the installed scientific stack, scikit-learn's digits, any file or hub data set."""

from lab.data.files import read
from lab.data.images import digits
from lab.data.noise import noisy
from lab.data.texts import corpus, docstrings, manifest

__all__ = ["corpus", "digits", "docstrings", "manifest", "noisy", "read"]
