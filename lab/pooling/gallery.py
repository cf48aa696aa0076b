"""Every registered operator built with its defaults, in families, and what was measured of them side by side."""

from collections.abc import Callable, Mapping

import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, ReceivedAttentionPool
from lab.pooling.calls import SIZES, token_inputs

FIXED, VALUES, LEARNED = "one place or fixed weights", "by the values themselves", "by learned scores"
OVER_LAYERS, OVER_MAPS = "over layers", "over feature maps"
READ = ("read mean", "read one", "read max")
COLUMNS = (*READ, "outlier", "order", "padding", "length", "shift", "top share")
UNMOVED = 1e-4


class SelfReceivedPool(ReceivedAttentionPool):
    """ReceivedAttentionPool with attention made of the states themselves, calls.received.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. A stand-in where no attention map was captured.
    """

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        return super().forward(*token_inputs("received_attention", x, mask))


def token_pools(dim: int, seed: int = 0) -> dict[str, nn.Module]:
    """POOLS by name, in eval mode, family after family; every pool draws its weights from the same seed."""
    pools = {
        name: _seeded(seed, kind, dim) for name, kind in (POOLS | {"received_attention": SelfReceivedPool}).items()
    }
    order = [FIXED, VALUES, LEARNED]
    return dict(sorted(pools.items(), key=lambda item: order.index(family(item[1], dim))))  # sorted is stable


def family(pool: nn.Module, dim: int) -> str:
    """What a token's weight hangs on: weights that are learned, the values, or only where the token stands.

    Learned: a parameter of two axes or more. Fixed: linear in the states, f(2 x + z) = 2 f(x) + f(z).
    """
    if any(p.ndim > 1 for p in pool.parameters()):
        return LEARNED
    draw = torch.Generator().manual_seed(0)
    # small states: products of large ones saturate a softmax, which then looks fixed
    x, z = (0.3 * torch.randn(2, 1, 6, dim, generator=draw)).to(next(pool.parameters(), torch.empty(0)))
    mask = torch.ones(1, 6, dtype=torch.bool, device=x.device)
    whole, parts = pool(2 * x + z, mask), 2 * pool(x, mask) + pool(z, mask)
    return FIXED if torch.allclose(whole, parts, atol=1e-5) else VALUES


def layer_pools(dim: int, num_layers: int, seed: int = 0) -> dict[str, nn.Module]:
    """LAYER_POOLS by name, in eval mode, each taking calls.layer_input of [L, B, D]."""
    return {name: _seeded(seed, kind, dim, num_layers, **SIZES.get(name, {})) for name, kind in LAYER_POOLS.items()}


def map_pools(channels: int, seed: int = 0) -> dict[str, nn.Module]:
    """MAP_POOLS by name, in eval mode: what draws in training gives its average."""
    return {name: _seeded(seed, kind, channels) for name, kind in MAP_POOLS.items()}


def side_by_side(
    read: xr.DataArray, seen: Mapping[str, Mapping[str, Tensor]], families: str | Mapping[str, str]
) -> pd.DataFrame:
    """A row per operator: COLUMNS, blank where a question does not arise, their family, and kept, the mean of READ.

    read: R^2 [source, target] of the mean, one input and the maximum; seen: {operator: {column: values}}, of
    which averages are taken; families: of each operator, or of all. R^2 below 0 is nothing kept, 0.
    """
    averages = {name: {column: float(v.mean()) for column, v in values.items()} for name, values in seen.items()}
    table = read.to_pandas().set_axis(list(READ), axis=1).join(pd.DataFrame(averages).T).reindex(columns=list(COLUMNS))
    table = table.loc[list(seen)].assign(kept=table[list(READ)].clip(lower=0).mean(axis=1))
    return table.assign(family=families if isinstance(families, str) else pd.Series(families))


def twins(results: Mapping[str, Tensor], rtol: float = 1e-5) -> list[list[str]]:
    """Operators whose results are the same numbers, in groups of two or more."""
    groups: list[list[str]] = []
    for name, y in results.items():
        for group in groups:
            other = results[group[0]]
            if y.shape == other.shape and (y - other).abs().max() <= rtol * other.abs().max():
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def verdict(table: pd.DataFrame, results: Mapping[str, Tensor]) -> str:
    """What one family's rows of side_by_side say, in Markdown: who keeps most, who is moved by what, who is a twin."""
    kept = table["kept"].sort_values(ascending=False)
    said = [f"keeps most: {_named(kept, 1)}; least: {_named(kept[::-1], 1)}"]
    for column, words in {
        "outlier": "one input 20 times its size", "order": "the order", "padding": "padding",
        "length": "a text read twice", "shift": "a shift by one place",
    }.items():  # fmt: skip
        moved = table[column].dropna().sort_values(ascending=False)
        loud = moved[moved >= UNMOVED]
        if len(moved):
            said.append(
                f"{words} moves {len(loud)} of {len(moved)}" + (f", most {_named(loud, 2)}" if len(loud) else "")
            )
    alike = [" = ".join(f"`{name}`" for name in group) for group in twins({k: results[k] for k in table.index})]
    said += [f"the same numbers: {', '.join(alike)}"] if alike else []
    whole = ". ".join(part[0].upper() + part[1:] for part in said)
    return f"**{table['family'].iloc[0].capitalize()}, {len(table)} operators.** {whole}."


def _named(values: pd.Series, n: int) -> str:
    return ", ".join(f"`{name}` ({value:.2f})" for name, value in values.head(n).items())


def _seeded(seed: int, kind: Callable[..., nn.Module], *sizes: int, **options: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*sizes, **options).eval()
