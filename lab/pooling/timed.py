"""What benchmarks/pooling.py measured and stored, device by device, as a page shows it.

tables = stored("benchmarks/results")               {device: a row for each operator, size and type}
panels = beside(tables, "eager", labels())          ratios for lab.plots.ratio_dots
missing(tables[device], labels())                   what there is no ratio for, and why
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS

SLOWER = "\u00a0▲"  # on the same line as its number
OTHERS = ("eager", "compile", "peer")


def stored(folder: str | Path) -> dict[str, pd.DataFrame]:
    """{device: what benchmarks/pooling.py stored about it, a row for each operator}; nothing there, nothing here."""
    found = {}
    for path in sorted(Path(folder).glob("pooling-*.json")):
        if path.name.startswith("pooling-some-"):  # a run of a few operators
            continue
        run = json.loads(path.read_text(encoding="utf-8"))
        table = pd.DataFrame(run["rows"])
        table.attrs = {name: value for name, value in run.items() if name != "rows"}
        found[run["device"]] = table
    return found


def ratios(table: pd.DataFrame, other: str, way: str) -> xr.Dataset:
    """One device's stored ratios to one other variant: estimate, low, high and words [operator].

    Over several sizes and types: the median of their medians, the lowest and the highest of their rounds. Words stand
    where there is no number: "not measured", or "no gradient" where a backward pass has nothing to do.
    """
    ends = {"estimate": "", "low": "_low", "high": "_high"}
    lines = []
    for label, rows in table.groupby(table["family"] + " " + table["name"], sort=False):
        middle, low, high = (rows.get(f"{other}_{way}_ratio{end}", pd.Series(dtype=float)) for end in ends.values())
        words = "no gradient" if (rows[f"{other}_missing"] == "").any() else "not measured"
        lines.append((label, middle.median(), low.min(), high.max(), words))
    return pd.DataFrame(lines, columns=["operator", *ends, "words"]).set_index("operator").to_xarray()


def labels() -> list[str]:
    """All operators of the registries, named as in the tables."""
    families = {"tokens": POOLS, "layers": LAYER_POOLS, "maps": MAP_POOLS}
    return [f"{family} {name}" for family, registry in families.items() for name in registry]


def beside(stored: Mapping[str, pd.DataFrame], other: str, known: Sequence[str] = ()) -> dict[str, xr.Dataset]:
    """ratios of every device that has any, both ways, {heading: dataset}; the slowest of a family stand on top.

    known: operators that have a row even where no table has one.
    """
    panels = {
        f"{device}: {way}": ratios(table, other, way)
        for device, table in stored.items()
        if (table[f"{other}_missing"] == "").any()
        for way in ("forward", "backward")
    }
    if not panels:
        return {}
    worst = pd.concat([panel["estimate"].to_series() for panel in panels.values()], axis=1).max(axis=1)
    worst = worst.reindex([*worst.index, *(name for name in known if name not in worst.index)])
    family = worst.index.str.split().str[0]
    order = worst.groupby(family, sort=False).apply(lambda w: w.sort_values(ascending=False)).index.get_level_values(-1)
    blank = {"words": "not measured"}
    return {heading: panel.reindex(operator=order, fill_value=blank) for heading, panel in panels.items()}


def measured(panels: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The panels without the operators that none of them has a number for."""
    known = np.logical_or.reduce([panel["estimate"].notnull().values for panel in panels.values()])
    return {heading: panel.isel(operator=known) for heading, panel in panels.items()}


def alone(values: pd.Series) -> xr.Dataset:
    """Numbers without a range as ratios have one: estimate, low and high [operator] are the same; 0 is in words."""
    seen = values.where(values > 0)  # a logarithmic axis has no place for 0
    table = pd.DataFrame(dict.fromkeys(("estimate", "low", "high"), seen)).assign(words="none at all")
    return table.rename_axis("operator").to_xarray()


def judged(ratios: xr.Dataset) -> str:
    """How many operators are faster, slower, or neither beyond doubt, in words; the slowest is named."""
    seen = ratios.to_dataframe().dropna(subset="estimate")
    faster, slower = int((seen["high"] < 1).sum()), seen[seen["low"] > 1]
    said = f"{faster} of {len(seen)} faster, {len(slower)} slower, {len(seen) - faster - len(slower)} undecided"
    worst = seen["estimate"].max()
    return said + (f" (slowest: `{seen['estimate'].idxmax()}`, {worst:.1f} times)" if worst > 1 else "")


def missing(table: pd.DataFrame, known: Sequence[str] = ()) -> str:
    """What a device's table has no ratio for, and why: a line of Markdown for each variant and reason.

    known: operators that should have a row.
    """
    named = table.assign(operator=table["family"] + " " + table["name"])
    lines = []
    for other in OTHERS:
        for why, rows in named[named[f"{other}_missing"] != ""].groupby(f"{other}_missing", sort=False):
            whom = ", ".join(f"`{name}`" for name in rows["operator"].unique())
            lines.append(f"- beside {other}, {len(rows)} of {len(table)} rows ({why}): {whom}")
    if absent := [f"`{name}`" for name in known if name not in set(named["operator"])]:
        lines.append(f"- not in this table at all: {', '.join(absent)}")
    return "\n".join(lines) or "Nothing: every row has every ratio."


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A device's table as a page shows it: milliseconds, share of the copy's bandwidth, ratios, ▲ where ours is slower.

    A row that was not measured beside a variant says so; `missing` says why.
    """
    page = pd.DataFrame(
        {
            "operator": table["family"] + " " + table["name"],
            "type": table["dtype"],
            "shape": ["x".join(map(str, shape)) for shape in table["shape"]],
            "fwd ms": table["forward_ms"].round(2),
            "bwd ms": table["backward_ms"].round(2),
            "share fwd": table["forward_share"].round(2),
            "share bwd": table["backward_share"].round(2),
        }
    )
    for other in OTHERS:
        page[f"÷ {other}"] = [_beside(row, other) for row in table.to_dict("records")]
    return page.set_index("operator")


def _beside(row: dict, other: str) -> str:
    if row[f"{other}_missing"]:
        return "not measured"
    both = (row[f"{other}_{way}_ratio"] for way in ("forward", "backward"))
    return ", ".join("no gradient" if math.isnan(r) else f"{r:.2f}{SLOWER if r > 1 else ''}" for r in both)
