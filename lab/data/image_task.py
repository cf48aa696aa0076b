"""A search among images: classes to learn on, other images of theirs, and classes that are never learnt on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lab.data.images import cluttered

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gallery:
    """Queries and the database they are searched in, no image in both; kinds: what each pixel is, as in `cluttered`."""

    queries: "Tensor"  # [Q, 1, S, S]
    database: "Tensor"  # [N, 1, S, S]
    relevant: "Tensor"  # bool [Q, N]: of one class
    labels: np.ndarray  # of the queries
    kinds: "Tensor"  # int8 [Q, S, S], of the queries


@dataclass(frozen=True, eq=False)
class ImageTask:
    """Images to learn on with labels 0 .. C - 1, and three galleries, no image in two of them."""

    images: "Tensor"
    labels: "Tensor"
    tuning: Gallery  # held-out images of the classes learnt on
    held_out: Gallery  # others of these
    unseen: Gallery  # images of other classes


def image_task(
    images: object, labels: object, *, learnt: int = 12, queries: int = 100, database: int = 400, seed: int = 0,
    **clutter: float | int,
) -> ImageTask:  # fmt: skip
    """Images and their turns by a quarter, twice the classes, each on a canvas among clutter: `cluttered`.

    A turned image has its label + C, C the number of classes before. `learnt` of the 2 C classes, drawn by the seed,
    are learnt on; the galleries have so many queries and images in the database, `tuning` half as many of each. Every
    query has an image of its class in the database, or another is drawn in its place. images [N, 1, h, h], labels
    whole numbers 0 .. C - 1. Synthetic placement; seed draws classes, clutter and splits.
    ValueError: labels that are no such numbers, too few images left, what `cluttered` refuses.
    """
    import torch

    values = torch.as_tensor(labels)
    classes = int(values.max()) + 1
    if values.shape != (len(images),) or values.unique().tolist() != list(range(classes)):
        raise ValueError(f"labels must be {len(images)} whole numbers, each from 0 to C - 1 among them")
    if not 2 <= learnt <= 2 * classes - 2:
        raise ValueError(f"learnt is from 2 to {2 * classes - 2} of {2 * classes} classes; got {learnt}")
    generator = np.random.default_rng(seed)
    both = torch.cat([images, images.rot90(1, (2, 3))])
    values = torch.cat([values, values + classes])
    canvases, kinds = cluttered(both, seed=seed, **clutter)
    seen = np.isin(values.numpy(), generator.permutation(2 * classes)[:learnt])
    of_seen, of_others = (generator.permutation(np.flatnonzero(rows)) for rows in (seen, ~seen))
    half, whole = (queries // 2, database // 2), (queries, database)
    room = [n + 2 * q for q, n in (half, whole)]  # some queries may find no answer
    needed = sum(room)
    if min(queries, database) < 2 or len(of_seen) < 2 * needed or len(of_others) < room[1]:
        raise ValueError(
            f"of {len(of_seen)} images of the classes learnt on, {needed} are held out and at least as many are needed "
            f"to learn on; of {len(of_others)} others {room[1]}: ask for fewer queries and a smaller "
            f"database, both 2 or more; got {queries} and {database}"
        )

    def gallery(rows: np.ndarray, sizes: tuple[int, int]) -> Gallery:
        base = rows[: sizes[1]]
        answered = rows[sizes[1] :][np.isin(values[rows[sizes[1] :]].numpy(), values[base].numpy())]
        asked = answered[: sizes[0]]
        if len(asked) < sizes[0]:
            raise ValueError(f"only {len(asked)} of {sizes[0]} queries have an answer: enlarge the database")
        same = values[asked][:, None] == values[base]
        return Gallery(canvases[asked], canvases[base], same, values[asked].numpy(), kinds[asked])

    tuning, held_out, rest = np.split(of_seen, [room[0], needed])
    numbered = values[rest].unique(return_inverse=True)[1]
    return ImageTask(
        canvases[rest], numbered, gallery(tuning, half), gallery(held_out, whole), gallery(of_others[: room[1]], whole)
    )
