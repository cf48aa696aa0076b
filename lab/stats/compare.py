"""Designs side by side in one table: how good, how much better than one of them, and whether that could be chance."""

from collections.abc import Sequence

import xarray as xr

from lab.stats.effects import cohen_dz, rank_biserial
from lab.stats.exact import TESTS
from lab.stats.holm import holm
from lab.stats.levels import levels
from lab.stats.samples import checked


def compare(
    scores: xr.DataArray,
    along: str = "design",
    *,
    baseline: object = None,
    order: Sequence[str | Sequence[str]] | None = None,
    unit: str | None = None,
    family: Sequence[str] | None = None,
    test: str = "sign_flip",
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """One row for each label of `along` and of any axis that is not drawn: its mean, its difference to a baseline.

    scores: e.g. [design, seed, dataset, example], of the same seeds, data sets and examples for each design.
    baseline: the label the others are held against; the first when not given.
    order: what is drawn again for the intervals, as `levels` has it; by default what there is of seed, data set and
        example, seeds beside data sets, and examples inside data sets.
    unit: the axis of the test's pairs, which must be independent of each other; by default the first axis of order
        with more than one entry. Everything else in order is averaged first.
    family: the axes over which Holm's correction counts; by default all rows except the baseline's.
    test: "sign_flip" or "wilcoxon".

    Variables: estimate, low, high; difference, difference_low, difference_high, all from the same draws; p, attainable
    (the smallest p such a test could have given), holm (p over the family), dz and rank_biserial. The baseline's own
    tests are NaN. In the attributes: baseline, unit, pairs, family, the test and how it was done.

    Raises ValueError for axes or a baseline that are not there, one design, NaN, and a unit with fewer than two pairs.
    """
    order = _order(scores) if order is None else list(order)
    axes = [axis for part in order for axis in ([part] if isinstance(part, str) else part)]
    values = checked(scores, [along], fewest=2)
    checked(scores, axes, fewest=1)
    if along in axes:
        raise ValueError(f"{along!r} is what is compared; it cannot be drawn as well, got order {order}")
    if along not in values.coords:
        raise ValueError(f"the axis {along!r} needs labels; give scores coords of that name")
    labels = values[along].values.tolist()
    baseline = labels[0] if baseline is None else baseline
    if labels.count(baseline) != 1:
        raise ValueError(f"the baseline must be one of {labels}; got {baseline!r}")
    unit = next((axis for axis in axes if values.sizes[axis] > 1), axes[0]) if unit is None else unit
    if unit not in axes or test not in TESTS:
        raise ValueError(f"unit must be one of {axes} and test one of {list(TESTS)}; got {unit!r} and {test!r}")
    apart = values - values.sel({along: baseline}, drop=True)
    drawn = {"draws": draws, "level": level, "seed": seed}
    table = levels(values, order, **drawn)
    gap = levels(apart, order, **drawn).rename(
        {"estimate": "difference", "low": "difference_low", "high": "difference_high"}
    )
    pairs = apart.mean([axis for axis in axes if axis != unit])
    tested = TESTS[test](pairs, unit, seed=seed)
    others = apart[along] != baseline
    numbers = {
        "p": tested["p"].where(others),
        "attainable": tested["attainable"].where(others),
        "dz": cohen_dz(pairs, unit).where(others),
        "rank_biserial": rank_biserial(pairs, unit).where(others),
    }
    numbers["holm"] = holm(numbers["p"], family)
    spanned = tuple(numbers["p"].dims if family is None else family)
    return xr.merge([table, gap, xr.Dataset(numbers)], combine_attrs="drop", compat="no_conflicts").assign_attrs(
        table.attrs, along=along, baseline=baseline, unit=unit, pairs=pairs.sizes[unit], test=test,
        method=tested.attrs["method"], family=" x ".join(map(str, spanned)),
        tests=int(numbers["p"].notnull().sum()),
    )  # fmt: skip


def _order(scores: xr.DataArray) -> list[tuple[str, ...]]:
    """Seeds beside data sets, examples inside data sets: the same data serve every seed."""
    there = [axis for axis in ("seed", "dataset", "example") if axis in scores.dims]
    if not there:
        raise ValueError(f"name the axes to draw in order=; of seed, dataset, example none is in {scores.dims}")
    data = tuple(axis for axis in there if axis != "seed")
    return [chain for chain in (("seed",) if "seed" in there else (), data) if chain]
