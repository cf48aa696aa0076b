"""Two spaces of the same examples: what every similarity reads of one side or of both, each part made once."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lab.geometry.space import Space

Part = tuple[Any, ...]  # what makes it, and the settings that it is given


class Parts:
    """part(make, *settings) is make(self, *settings), made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[Part, Any] = {}

    def part(self, make: Callable[..., Any], *settings: object) -> Any:
        key = (make, *settings)
        if key not in self._made:
            self._made[key] = make(self, *settings)
        return self._made[key]

    @property
    def nbytes(self) -> int:
        """Of all parts, what two of them share counted once."""
        tensors = [t for made in self._made.values() for t in (made if isinstance(made, tuple) else (made,))]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class Side(Parts):
    """One of two spaces: rows [N, D] in float64."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.space: Space | None = Space(x)

    def only(self, parts: Iterable[Part]) -> "Side":
        """Itself with these parts made and all else let go, the rows too."""
        self._made = {key: self.part(*key) for key in parts}
        self.space = None
        return self


class Pair(Parts):
    def __init__(self, a: Side, b: Side) -> None:
        super().__init__()
        self.a, self.b = a, b

    def sides(self, make: Callable[..., Any], *settings: object) -> tuple[Any, Any]:
        """The same part of both."""
        return self.a.part(make, *settings), self.b.part(make, *settings)


def pair(x: Tensor, y: Tensor, rows: int) -> Pair:
    """Both in float64; ValueError for other numbers of rows, too few of them, and NaN."""
    if not all(isinstance(side, Tensor) and side.ndim == 2 for side in (x, y)):
        raise ValueError(f"x and y must be tensors [rows, dim]; got {_shape(x)} and {_shape(y)}")
    if len(x) != len(y) or len(x) < rows:
        words = {2: "two", 3: "three", 4: "four"}[rows]
        raise ValueError(f"x and y must have the same rows, at least {words}; got {len(x)} and {len(y)}")
    return Pair(Side(x), Side(y))


def centred(side: Side) -> Tensor:
    return side.space.centred.x


def coordinates(side: Side) -> Tensor:
    """The centred rows; more columns than rows are turned into as many, which no rotation-blind number can tell."""
    x = side.part(centred)
    return torch.linalg.qr(x.T, mode="r").R.T if x.shape[1] > len(x) else x


def gram(side: Side) -> Tensor:
    x = side.part(coordinates)
    return x.T @ x


def product(both: Pair) -> Tensor:
    """X'Y of the coordinates."""
    x, y = both.sides(coordinates)
    return x.T @ y


def numerical_rank(values: Tensor, size: int) -> int:
    """How many of the descending squared singular values stand above rounding."""
    return int((values > values[:1] * size * torch.finfo(values.dtype).eps).sum())


def _shape(x: object) -> object:
    return tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
