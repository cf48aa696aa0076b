"""What an embedding is asked: data sets of four kinds, from the corpus, a user's table, or MTEB, in one frozen form."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lab.data.labels import as_labels

KINDS = ("retrieval", "similarity", "classification", "clustering")


@dataclass(frozen=True, eq=False)
class Task:
    """One data set: texts, each encoded once, and what is asked of the N examples made of them.

    first [N] is the text of each example; second and target depend on the kind:
        retrieval        first the queries; second [M] the documents; target [N, M] relevance, sparse, 0 or more
        similarity       first and second [N] the halves of each pair; target [N] a number for each pair
        classification   target [N] labels; groups [N] what must not be split between training and test, or None
        clustering       target [N] labels

    Raises ValueError for an unknown kind, empty or missing texts, numbers of texts that are not there, and targets
    that nothing could be measured by: a query without a relevant document, fewer than three pairs or two scores, one
    label alone, a label of one example.
    """

    name: str
    kind: str
    texts: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray | None
    target: Any
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.name}: the kind is one of {KINDS}; got {self.kind!r}")
        for number, text in enumerate(self.texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{self.name}: text {number} is {text!r}; every text needs words: drop or fill it")
        there = self.first if self.second is None else np.concatenate([self.first, self.second])
        if not len(self.first) or there.min() < 0 or there.max() >= len(self.texts):
            raise ValueError(f"{self.name}: examples name texts from 0 to {len(self.texts) - 1}, at least one of them")
        {"retrieval": _check_relevance, "similarity": _check_scores}.get(self.kind, _check_labels)(self)

    def __len__(self) -> int:
        return len(self.first)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {self.kind!r}, {len(self)} examples, {len(self.texts)} texts)"


def retrieval(name: str, queries: Iterable[str], documents: Iterable[str], grades: Iterable | None = None) -> Task:
    """Which document answers a query? Pair i: documents[i] is relevant to queries[i], by grades[i] or 1.

    Every different document is searched, for every different query: a query that stands in several pairs has several
    answers, and a document that answers several queries is no wrong answer to any of them. The example is the query.
    """
    from scipy.sparse import csr_array

    asked, sought = _column(queries), _column(documents)
    weights = np.ones(len(asked)) if grades is None else np.asarray(list(grades), float)
    if not len(asked) == len(sought) == len(weights):
        raise ValueError(f"{name}: pairs need as many documents and grades as queries; got {len(asked)} queries, "
                         f"{len(sought)} documents, {len(weights)} grades")  # fmt: skip
    texts, number = _numbered(asked, sought)
    q, d = number[: len(asked)], number[len(asked) :]
    first, row = np.unique(q, return_inverse=True)
    second, column = np.unique(d, return_inverse=True)
    relevance = csr_array((len(first), len(second)))
    if len(q):
        cells = pd.DataFrame({"row": row, "column": column, "grade": weights}).groupby(["row", "column"]).grade.max()
        rows, columns = (cells.index.get_level_values(part).to_numpy() for part in ("row", "column"))
        relevance = csr_array((cells.to_numpy(), (rows, columns)), shape=(len(first), len(second)))
    return Task(name, "retrieval", texts, first, second, relevance)


def similarity(name: str, first: Iterable[str], second: Iterable[str], scores: Iterable) -> Task:
    """How alike are two texts? Judged by the ranks of the cosines against those of the scores, one for each pair."""
    a, b = _column(first), _column(second)
    if len(a) != len(b):
        raise ValueError(f"{name}: each pair has two texts; got {len(a)} first and {len(b)} second ones")
    texts, number = _numbered(a, b)
    return Task(name, "similarity", texts, number[: len(a)], number[len(a) :], np.asarray(list(scores), float))


def classification(name: str, texts: Iterable[str], labels: Iterable, groups: Iterable | None = None) -> Task:
    """What is a text about? Told by a linear probe, cross-validated with the groups whole."""
    own, number = _numbered(_column(texts))
    units = None if groups is None else as_labels(groups)
    return Task(name, "classification", own, number, None, as_labels(labels), units)


def clustering(name: str, texts: Iterable[str], labels: Iterable) -> Task:
    """Do texts of one label lie together, with no one telling?"""
    own, number = _numbered(_column(texts))
    return Task(name, "clustering", own, number, None, as_labels(labels))


def pair_task(
    table: pd.DataFrame, columns: Sequence[str] = ("query", "positive"), score: str | None = None, name: str = "pairs"
) -> Task:
    """A user's table of pairs: retrieval of the second column by the first, or similarity where there are scores."""
    if len(columns) != 2:
        raise ValueError(f"pairs have two columns; got {list(columns)}")
    _check_columns(table, [*columns, *([] if score is None else [score])])
    first, second = (table[column] for column in columns)
    return retrieval(name, first, second) if score is None else similarity(name, first, second, table[score])


def label_tasks(
    table: pd.DataFrame, text: str = "text", label: str = "label", group: str | None = None, name: str = "labels"
) -> list[Task]:
    """A user's table of labelled texts: a classification and a clustering of them."""
    _check_columns(table, [text, label, *([] if group is None else [group])])
    units = None if group is None else table[group]
    return [
        classification(f"{name}: classes", table[text], table[label], units),
        clustering(f"{name}: clusters", table[text], table[label]),
    ]


def task_texts(tasks: Iterable[Task]) -> list[str]:
    """Every text of these data sets once, in their order: what to capture before `lab.probes.evaluate(states, ...)`."""
    return list(dict.fromkeys(text for task in tasks for text in task.texts))


def _column(texts: Iterable[str]) -> list:
    if isinstance(texts, str):
        raise ValueError(f"needed is a column of texts, not one text; got {texts[:40]!r}")
    return list(texts)


def _numbered(*columns: list) -> tuple[tuple, np.ndarray]:
    """Each different text once, and the number of every entry of the columns."""
    entries = [text for column in columns for text in column]
    place: dict = {}
    for text in entries:
        place.setdefault(text, len(place))
    return tuple(place), np.array([place[text] for text in entries], dtype=int)


def _check_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in table.columns]:
        raise ValueError(f"the table has no column {missing}; it has {list(table.columns)}")
    if twice := [name for name in columns if list(table.columns).count(name) > 1]:
        raise ValueError(f"the table has the columns {twice} more than once: {list(table.columns)}; drop the others")
    for name in columns:
        if table[name].isna().any():
            rows = np.flatnonzero(table[name].isna())
            raise ValueError(f"column {name!r} has no value in {len(rows)} rows, the first at {rows[0]}: drop them")


def _check_relevance(task: Task) -> None:
    wanted = len(task.first), 0 if task.second is None else len(task.second)
    if getattr(task.target, "shape", None) != wanted or wanted[1] < 2:
        raise ValueError(f"{task.name}: retrieval needs relevance of {wanted[0]} queries by two documents or more; "
                         f"got {getattr(task.target, 'shape', None)} for {wanted}")  # fmt: skip
    grades = task.target.data
    if not np.isfinite(grades).all() or (grades < 0).any():
        raise ValueError(f"{task.name}: relevance must be finite and 0 or more")
    if len(idle := np.flatnonzero(task.target.sum(1) == 0)):
        raise ValueError(f"{task.name}: {len(idle)} queries have no relevant document, the first is {idle[0]}")


def _check_scores(task: Task) -> None:
    n, scores = len(task.first), task.target
    if task.second is None or len(task.second) != n or scores.shape != (n,) or not np.isfinite(scores).all():
        raise ValueError(f"{task.name}: {n} pairs need as many scores, all finite; got {scores.shape}")
    # leaving a pair out must leave two different scores
    _, counts = np.unique(scores, return_counts=True)
    if n < 4 or n - counts.max() < 2:
        raise ValueError(f"{task.name}: needed are 4 pairs or more, two of them with other scores than the commonest; "
                         f"got {n} pairs with scores {np.unique(scores)[:5]}")  # fmt: skip


def _check_labels(task: Task) -> None:
    n, labels = len(task.first), task.target
    if labels.shape != (n,) or pd.isna(labels).any() or (task.groups is not None and task.groups.shape != (n,)):
        raise ValueError(f"{task.name}: {n} texts need as many labels, and groups if any, none missing")
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2 or counts.min() < 2:
        raise ValueError(f"{task.name}: needed are two labels or more, of two texts or more each; got "
                         f"{dict(zip(names.tolist()[:5], counts.tolist()[:5], strict=True))}")  # fmt: skip
