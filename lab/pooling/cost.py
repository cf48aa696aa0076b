"""What one read of the states costs: every operator of the registries on random states, its bytes and its seconds.

for case in cases(SMALL): moved(case)              bytes: the fewest possible, the textbook's, ours
against_textbook(cases(SMALL), rounds=5)           seconds, as ratios, on this machine
"""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from lab.kernels.race import forward_backward, race, ratio
from lab.kernels.traffic import least, traffic
from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, textbook
from lab.pooling.calls import SIZES, layer_input, token_inputs

# a gradient that asks of x at most where its maximum was: the backward pass need not read it again
UNREAD = frozenset({
    "tokens first", "tokens last", "tokens mean", "tokens sqrt_mean", "tokens position_mean",
    "tokens sink_excluding_mean", "tokens landmark", "tokens received_attention",
    "tokens max", "tokens span_max", "tokens splade", "tokens concat",
    "layers pick", "layers mean", "layers first_last", "layers max",
    "maps mixer", "maps pyramid", "maps poset", "maps s3",
})  # fmt: skip
# of x they need not read all, but so many times what they write
READ = {"tokens first": 1, "tokens last": 1, "layers pick": 1, "layers first_last": 2}


class Sizes(NamedTuple):
    tokens: tuple[int, int, int]  # B T D
    layers: tuple[int, int, int]  # L B D
    maps: tuple[int, int, int, int]  # B C H W


TINY = Sizes(tokens=(2, 8, 16), layers=(3, 4, 16), maps=(1, 4, 8, 8))
SMALL = Sizes(tokens=(16, 128, 384), layers=(7, 32, 384), maps=(4, 32, 56, 56))
LARGE = Sizes(tokens=(32, 256, 384), layers=(7, 64, 384), maps=(8, 64, 56, 56))


@dataclass(frozen=True)
class Case:
    """One operator with what it is called on; x, which the gradient is of, comes first."""

    family: str
    name: str
    pool: nn.Module
    inputs: tuple[Tensor, ...]
    textbook: Callable[..., Tensor] | None

    @property
    def label(self) -> str:
        return f"{self.family} {self.name}"

    @property
    def wanted(self) -> list[Tensor]:
        """What gradients are asked of: x and the trained parameters."""
        return [self.inputs[0], *(p for p in self.pool.parameters() if p.requires_grad)]

    def ours(self) -> Tensor:
        return self.pool(*self.inputs)

    def eager(self) -> Tensor:
        return self.textbook(self.pool, *self.inputs)

    def fewest(self, y: Tensor) -> tuple[int, int]:
        """The fewest bytes of a forward and of a backward pass: all that is needed read once, all results written once.

        Forward: inputs and parameters in, y out. Backward: dy in, dx and the parameters' gradients out, and inputs and
        parameters in again where the gradient depends on them.
        """
        x, *more = self.inputs
        parameters = least(*self.pool.parameters())
        read = READ[self.label] * least(y) if self.label in READ else least(x)
        inputs = read + least(*more) + parameters
        again = least(*more) if self.label in UNREAD else inputs
        return inputs + least(y), least(y) + again + least(x) + parameters


def cases(
    sizes: Sizes,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    names: Container[str] | None = None,
    padding: bool = True,
) -> Iterator[Case]:
    """The operators of the registries, or those with a name in `names`; built one by one, as some are large.

    padding: whether rows of tokens have between half of T and T of them, or all T.
    """
    g = torch.Generator().manual_seed(seed)
    x, h, maps = (torch.randn(size, generator=g).to(device, dtype).requires_grad_() for size in sizes)
    B, T, dim = sizes.tokens
    L, _, layer_dim = sizes.layers
    lengths = torch.randint(max(1, T // 2) if padding else T, T + 1, (B,), generator=g)
    mask = (torch.arange(T) < lengths[:, None]).to(device)
    families = {
        "tokens": (POOLS, (dim,), (x, mask), textbook.TOKENS),
        "layers": (LAYER_POOLS, (layer_dim, L), (h,), textbook.LAYERS),
        "maps": (MAP_POOLS, (sizes.maps[1],), (maps,), textbook.MAPS),
    }
    for family, (registry, arguments, inputs, forms) in families.items():
        for name, build in registry.items():
            if names is not None and name not in names:
                continue
            torch.manual_seed(seed)
            sizes_of = SIZES.get(name, {}) if family == "layers" else {}
            pool = build(*arguments, **sizes_of).to(device, dtype).eval()
            given = inputs
            if family == "tokens":
                given = token_inputs(name, x, mask)
            elif family == "layers":
                given = (layer_input(pool, h),)
            yield Case(family, name, pool, given, forms.get(name))


def moved(these: Iterable[Case]) -> pd.DataFrame:
    """Megabytes of each operator, both ways: the fewest possible, the textbook's, and how many times that is."""
    rows = {}
    for case in these:
        if case.textbook is None:
            continue
        with torch.no_grad():
            forward = sum(traffic(case.eager).values())
        y = case.eager()
        # a weight that does nothing at first, as a key's bias under a softmax, is allowed
        find = partial(torch.autograd.grad, allow_unused=True)
        backward = sum(traffic(find, y, case.wanted, torch.ones_like(y)).values())
        fewest = case.fewest(y)
        rows[case.label] = {
            "fewest forward": fewest[0] / 1e6,
            "eager forward": forward / 1e6,
            "times forward": forward / fewest[0],
            "fewest backward": fewest[1] / 1e6,
            "eager backward": backward / 1e6,
            "times backward": backward / fewest[1],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("operator")


def against_textbook(these: Iterable[Case], rounds: int) -> xr.Dataset:
    """Seconds of ours by seconds of the textbook's form: estimate (median), low, high [operator, way]."""
    steps = {}
    for case in these:
        if case.textbook is None:
            continue
        where = case.inputs[0].device
        calls = {"ours": case.ours, "eager": case.eager}
        variants = {name: partial(forward_backward, call, case.wanted, where) for name, call in calls.items()}
        race(variants, 1)  # to be warm
        seen = race(variants, rounds)
        steps[case.label] = [ratio([r[i] for r in seen["ours"]], [r[i] for r in seen["eager"]]) for i in (0, 1)]
    values = {
        end: [[getattr(step, end) for step in both] for both in steps.values()] for end in ("median", "low", "high")
    }
    axes = {"operator": list(steps), "way": ["forward", "backward"]}
    return xr.Dataset({end: (tuple(axes), table) for end, table in values.items()}, axes).rename(median="estimate")
