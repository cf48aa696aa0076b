"""Corpora and tasks: docstrings of the installed scientific stack, scikit-learn's digits, any file or hub data set.

What an embedding is asked: evaluations from held-out packages, training_pairs from the others, and a user's own, by
pair_task and label_tasks. lab.probes.evaluate answers.

lab.data.tasks, relations, graphs and sets have synthetic tasks whose answers are known, bags and views draw from real
images; each loads when it is first used, as it needs torch.
"""

from importlib import import_module
from types import ModuleType

from lab.data.evaluation import Task, label_tasks, pair_task, task_texts
from lab.data.files import read
from lab.data.held_out import HELD_OUT, evaluations, training_pairs
from lab.data.image_task import Gallery, ImageTask, image_task
from lab.data.images import cluttered, cued, digits, moved, of_each, resized
from lab.data.noise import attacked, noisy
from lab.data.own_pairs import pairs, split_pairs
from lab.data.texts import corpus, docstrings, manifest

__all__ = [
    "HELD_OUT",
    "Gallery",
    "ImageTask",
    "Task",
    "attacked",
    "bags",
    "cluttered",
    "corpus",
    "cued",
    "digits",
    "docstrings",
    "evaluations",
    "graphs",
    "image_task",
    "label_tasks",
    "manifest",
    "moved",
    "noisy",
    "of_each",
    "pair_task",
    "pairs",
    "read",
    "relations",
    "resized",
    "sets",
    "split_pairs",
    "task_texts",
    "tasks",
    "training_pairs",
    "views",
]

DRAWN = ("bags", "graphs", "relations", "sets", "tasks", "views")


def __getattr__(name: str) -> ModuleType:
    if name not in DRAWN:
        raise AttributeError(f"lab.data has no {name!r}; it has {', '.join(__all__)}")
    return import_module(f"lab.data.{name}")
