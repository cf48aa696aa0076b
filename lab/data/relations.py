"""Synthetic sentences with their dependency trees: which relation holds between two of their entities?

Synthetic throughout: words are numbers, trees are drawn, and the answer stands on the path between the two entities.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

PAD = 0


@dataclass(frozen=True)
class Sentences:
    """Word ids with padding behind, the head of each word (-1 at the root and at padding), and what is asked."""

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    heads: Int[Tensor, "B T"]
    source: Int[Tensor, " B"]  # the place of the first entity asked about
    target: Int[Tensor, " B"]
    labels: Int[Tensor, " B"]  # the kind of the verb that joins them


@dataclass(frozen=True)
class Relations:
    """Clauses inside each other, "a [b v' c] v d": subject, verb and object, of which one clause is asked about.

    Every clause has two entities and a verb between them in the tree; a verb is one of `words` of one of `kinds`. One
    clause is the root, each further one hangs on an entity of an earlier one and stands right behind it, so a
    distractor may part the two entities asked about. Modifiers, words without a meaning, hang on any word, before it.
    The label is the kind of the verb of the clause asked about: with distractors there are as many verbs as clauses
    and only the tree, or the words' order, says which is meant.

    The setting of arXiv 1911.01055 (pooling for biomedical relation extraction, from the abstract) brought down to
    what can be known: no real text here.
    """

    kinds: int = 4
    words: int = 4  # verbs of each kind
    entities: int = 20
    modifiers: int = 12
    modified: float | int = 0.4  # the chance of another modifier before a word

    def __post_init__(self) -> None:
        if self.kinds < 2 or min(self.words, self.entities, self.modifiers) < 1 or not 0 <= self.modified < 1:
            raise ValueError(f"needed are two kinds, one word of each and a chance in [0, 1); got {self}")

    @property
    def vocab(self) -> int:
        return 1 + self.entities + self.kinds * self.words + self.modifiers

    def draw(self, size: int, distractors: int, seed: int) -> Sentences:
        """`size` sentences of 1 + distractors clauses. ValueError for a size below 1 or fewer than 0 distractors."""
        if size < 1 or distractors < 0:
            raise ValueError(f"got {size} sentences with {distractors} distractors; needed are 1 and 0 or more")
        generator = np.random.default_rng((seed, distractors))
        rows = [self._sentence(1 + distractors, generator) for _ in range(size)]
        longest = max(len(ids) for ids, *_ in rows)
        ids = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids, *_ in rows])
        heads = torch.tensor([heads + [-1] * (longest - len(heads)) for _, heads, *_ in rows])
        source, target, labels = (torch.tensor([row[i] for row in rows]) for i in (2, 3, 4))
        return Sentences(ids, ids != PAD, heads, source, target, labels)

    def _sentence(self, clauses: int, generator: np.random.Generator) -> tuple[list[int], list[int], int, int, int]:
        """Words in their order, their heads, the two entities and the label. Nodes are numbered as they are made."""
        words, head, left, right = [], [], [], []

        def add(word: int, above: int, before: bool) -> int:
            words.append(word)
            head.append(above)
            left.append([])
            right.append([])
            if above >= 0:
                (left if before else right)[above].append(len(words) - 1)
            return len(words) - 1

        free: list[int] = []
        made = []
        for _ in range(clauses):
            above = free.pop(int(generator.integers(len(free)))) if free else -1
            kind = int(generator.integers(self.kinds))
            first_verb = 1 + self.entities + kind * self.words
            verb = add(first_verb + int(generator.integers(self.words)), above, before=False)
            ends = [add(1 + int(generator.integers(self.entities)), verb, before) for before in (True, False)]
            free += ends
            made.append((*ends, kind))
        first_modifier = 1 + self.entities + self.kinds * self.words
        for node in range(3 * clauses):
            while generator.random() < self.modified:
                add(first_modifier + int(generator.integers(self.modifiers)), node, before=True)
        order: list[int] = []

        def spell(node: int) -> None:
            for child in left[node]:
                spell(child)
            order.append(node)
            for child in right[node]:
                spell(child)

        spell(0)
        place = {node: t for t, node in enumerate(order)}
        source, target, kind = made[int(generator.integers(clauses))]
        heads = [-1 if head[node] < 0 else place[head[node]] for node in order]
        return [words[node] for node in order], heads, place[source], place[target], kind
