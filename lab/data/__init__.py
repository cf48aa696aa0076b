"""Corpora and tasks: docstrings of the installed scientific stack, scikit-learn's digits, any file or hub data set.

lab.data.tasks, relations and graphs have synthetic tasks whose answers are known; each loads when it is first used, as
it needs torch.
"""

from importlib import import_module
from types import ModuleType

from lab.data.files import read
from lab.data.images import digits
from lab.data.noise import attacked, noisy
from lab.data.texts import corpus, docstrings, manifest

SYNTHETIC = ("graphs", "relations", "tasks")

__all__ = [
    "attacked",
    "corpus",
    "digits",
    "docstrings",
    "graphs",
    "manifest",
    "noisy",
    "read",
    "relations",
    "tasks",
]


def __getattr__(name: str) -> ModuleType:
    if name not in SYNTHETIC:
        raise AttributeError(f"lab.data has no {name!r}; it has {', '.join(__all__)}")
    return import_module(f"lab.data.{name}")
