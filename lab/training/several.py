"""Several recipes, several seeds each: what a comparison is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from tqdm import tqdm

from lab.training.classify import Classified
from lab.training.language_model import Run, Source, language_model
from lab.training.recipe import Recipe


def several(
    source: Source,
    recipes: Mapping[str, Recipe],
    seeds: Iterable[int] = (0,),
    *,
    folder: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[tuple[str, int], Run]:
    """Every recipe trained from every seed, as {(name, seed): run}; the seed stands in the place of the recipe's own.

    folder: each run is kept in a folder of its own below it, so that a call that was killed goes on. options: those of
    `language_model`. Raises ValueError for no recipe or no seed.
    """
    seeds = list(seeds)
    if not recipes or not seeds:
        raise ValueError(f"got {len(recipes)} recipes and {len(seeds)} seeds; at least one of each is needed")
    runs = {}
    for name, seed in tqdm([(name, seed) for name in recipes for seed in seeds], desc="runs", disable=not progress):
        recipe = replace(recipes[name], seed=seed)
        own = None if folder is None else Path(folder) / f"{recipe.checksum()}-{seed}"
        runs[name, seed] = language_model(source, recipe, folder=own, progress=False, **options)
    return runs


def together(runs: Mapping[tuple[str, int], Run | Classified]) -> xr.Dataset:
    """The curves of several runs in one, over run and seed; NaN for a look that a run did not take."""
    names, seeds = (list(dict.fromkeys(part)) for part in zip(*runs, strict=True))
    rows = [xr.concat([runs[name, seed].curve for seed in seeds], pd.Index(seeds, name="seed"), join="outer",
                      combine_attrs="drop") for name in names]  # fmt: skip
    return xr.concat(rows, pd.Index(names, name="run"), join="outer", combine_attrs="drop")
