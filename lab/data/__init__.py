"""Corpora and tasks: docstrings of the installed scientific stack, scikit-learn's digits, any file or hub data set.

lab.data.tasks has synthetic tasks whose answers are known; it loads when it is first used, as it needs torch.
"""

from importlib import import_module
from types import ModuleType

from lab.data.files import read
from lab.data.images import cued, digits, of_each
from lab.data.noise import noisy
from lab.data.texts import corpus, docstrings, manifest

__all__ = ["corpus", "cued", "digits", "docstrings", "manifest", "noisy", "of_each", "read", "tasks"]


def __getattr__(name: str) -> ModuleType:
    if name != "tasks":
        raise AttributeError(f"lab.data has no {name!r}; it has {', '.join(__all__)}")
    return import_module("lab.data.tasks")
