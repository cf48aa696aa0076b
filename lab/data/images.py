"""Images that come with scikit-learn, and what can be done to a set of them."""

import hashlib
from collections.abc import Sequence

import numpy as np

from lab.data import ledger


def digits() -> tuple:
    """scikit-learn's 1,797 handwritten digits, bundled with it (UCI's optical recognition test set).

    Returns images, float32 [N, 1, 8, 8] in [0, 1] (the counts 0 to 16 of inked pixels in a 4 x 4 block,
    divided by 16), and labels, int64 [N], the digit itself. The order is scikit-learn's.
    """
    import torch
    from sklearn.datasets import load_digits

    bunch = load_digits()
    ledger.note("scikit-learn's digits", len(bunch.target), lambda: hashlib.sha256(bunch.data.tobytes()).hexdigest())
    images = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 16
    return images, torch.from_numpy(bunch.target).to(torch.int64)


def of_each(labels: object, counts: object, *, seed: int = 0) -> np.ndarray:
    """Places of counts[k] examples of the k-th label in sorted order, drawn without return, in the order they stand.

    labels [N]; counts: one for each label, or one number for all. To balance a set, or to unbalance it.
    ValueError for another number of counts, and for more than there are.
    """
    values, generator = np.asarray(labels), np.random.default_rng(seed)
    names, there = np.unique(values, return_counts=True)
    wanted = np.asarray(counts)
    if wanted.shape not in ((), (len(names),)):
        raise ValueError(f"there are {len(names)} labels, {names.tolist()}; got counts of shape {wanted.shape}")
    wanted = np.broadcast_to(wanted, names.shape)
    if (wanted < 0).any() or (wanted > there).any():
        least, most = dict(zip(names.tolist(), there.tolist(), strict=True)), wanted.tolist()
        raise ValueError(f"counts must be from 0 to what is there, {least}; got {most}")
    drawn = zip(names, wanted, strict=True)
    parts = [generator.choice(np.flatnonzero(values == name), n, replace=False) for name, n in drawn]
    return np.sort(np.concatenate(parts))


def cued(images: object, labels: object, agreeing: float, *, seed: int = 0) -> tuple:
    """Images [N, 1, H, W] with two rows below in which one lit pixel names a class, the right one for a share of them.

    What a network may learn in place of the picture: pixel k of those rows is 1. The cue names the image's own class
    for round(agreeing N) images drawn at random, another class, drawn evenly, for the rest. labels: whole numbers from
    0 on, up to 2 W of them. Returns images [N, 1, H + 2, W] and whether each cue is right, bool [N].
    ValueError for labels that are no such numbers, and a share outside [0, 1].
    """
    import torch

    values, generator = np.asarray(labels), np.random.default_rng(seed)
    n, width = len(images), images.shape[-1]
    k = int(values.max()) + 1 if values.size else 0
    whole = np.issubdtype(values.dtype, np.integer) and values.shape == (n,) and values.min() >= 0
    if not whole or not 2 <= k <= 2 * width:
        raise ValueError(f"labels must be {n} whole numbers from 0 to at most {2 * width - 1}, two or more kinds")
    if not 0 <= agreeing <= 1:
        raise ValueError(f"agreeing is the share of cues that are right, from 0 to 1; got {agreeing}")
    right = np.zeros(n, dtype=bool)
    right[generator.permutation(n)[: round(agreeing * n)]] = True
    named = np.where(right, values, (values + generator.integers(1, k, size=n)) % k)
    rows = torch.zeros(n, 1, 2 * width, dtype=images.dtype)
    rows[np.arange(n), 0, named] = 1
    return torch.cat([images, rows.unflatten(-1, (2, width))], dim=2), right


def cluttered(
    images: object, side: int = 16, *, pieces: int = 3, size: int = 4, noise: float = 0.1, seed: int = 0
) -> tuple:
    """Images [N, 1, h, w] each at a random place of a canvas [side, side], among pieces cut out of other images.

    Synthetic clutter. A piece is size x size pixels from anywhere in another image of the set, put where it does not
    touch the image's own box; pieces may cover each other (the brighter pixel stays). Then noise |N(0, noise^2)| is
    added everywhere and the sum is cut to [0, 1]. Returns the canvases [N, 1, side, side] and what each pixel is, int8
    [N, side, side]: 1 in the image's own box, 2 a pixel of a piece that is not 0, 0 elsewhere.
    ValueError for fewer than two images, a canvas on which a piece may find no room, negative pieces or noise.
    """
    import torch

    n, (h, w) = len(images), images.shape[-2:]
    if n < 2 or images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be [N >= 2, 1, h, w]; got {tuple(images.shape)}")
    if not 1 <= size <= min(h, w) or side < max(h, w) + 2 * size - 1:
        raise ValueError(
            f"size is from 1 to {min(h, w)}, and beside an image of {h} x {w} a piece of {size} always finds room on a "
            f"side of {max(h, w) + 2 * size - 1} or more; got size={size}, side={side}"
        )
    if pieces < 0 or noise < 0:
        raise ValueError(f"pieces and noise are 0 or more; got {pieces} and {noise}")
    generator = np.random.default_rng(seed)
    source = np.asarray(images, dtype=np.float32)[:, 0]
    canvas, kind = np.zeros((n, side, side), np.float32), np.zeros((n, side, side), np.int8)
    corners = np.stack(np.meshgrid(*[np.arange(side - size + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for i in range(n):
        top, left = generator.integers(side - h + 1), generator.integers(side - w + 1)
        apart = (corners + size <= (top, left)) | (corners >= (top + h, left + w))
        free = corners[apart.any(1)]
        for _ in range(pieces):
            other = (i + generator.integers(1, n)) % n
            y, x = generator.integers(h - size + 1), generator.integers(w - size + 1)
            r, c = free[generator.integers(len(free))]
            piece = source[other, y : y + size, x : x + size]
            at = np.s_[i, r : r + size, c : c + size]
            canvas[at] = np.maximum(canvas[at], piece)
            kind[at][piece > 0] = 2
        canvas[i, top : top + h, left : left + w] = source[i]
        kind[i, top : top + h, left : left + w] = 1
    canvas = np.clip(canvas + np.abs(generator.normal(0, noise, canvas.shape)), 0, 1)
    return torch.from_numpy(canvas.astype(np.float32))[:, None].to(images.dtype), torch.from_numpy(kind)


def resized(images: object, size: Sequence[int]) -> object:
    """Images [N, C, H, W] brought to [N, C, *size] by bilinear interpolation, corners not aligned; deforms at will."""
    import torch

    _check(images)
    if len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(f"size is two whole numbers, height and width, each 1 or more; got {size}")
    return torch.nn.functional.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False)


def moved(
    images: object,
    *,
    down: float | int = 0,
    right: float | int = 0,
    degrees: float | int = 0,
    scale: float | int = 1,
) -> object:
    """Images [N, C, H, W] turned and scaled about their middle, then shifted; bilinear, 0 where nothing was.

    A place p (from the middle, in pixels, x to the right and y down) goes to scale R p + (right, down), where R turns
    by degrees, counter-clockwise as seen. Numbers that leave all as it is give the images back within rounding.
    ValueError for a scale that is not above 0.
    """
    import torch

    _check(images)
    if not scale > 0:
        raise ValueError(f"scale must be above 0; got {scale}")
    H, W = images.shape[-2:]
    turn = torch.deg2rad(torch.tensor(float(degrees), dtype=torch.float64))
    # where each place of the result comes from, the inverse; affine_grid counts in halves of the width and the height
    inverse = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).view(2, 2) / scale
    inverse = inverse * torch.tensor([[1.0, H / W], [W / H, 1.0]], dtype=torch.float64)
    shift = torch.tensor([2 * right / W, 2 * down / H], dtype=torch.float64)
    theta = torch.cat([inverse, -(inverse @ shift)[:, None]], 1).to(images).expand(len(images), 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, mode="bilinear", align_corners=False)


def _check(images: object) -> None:
    import torch

    if not isinstance(images, torch.Tensor) or images.ndim != 4 or not images.is_floating_point():
        got = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"images must be a float tensor [N, C, H, W]; got {got}")
