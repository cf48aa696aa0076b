"""Is one design better than another, as somebody said? It holds, it does not, or there is too little power to say."""

from collections.abc import Iterable
from dataclasses import dataclass

import xarray as xr

from lab.stats.effects import cohen_dz
from lab.stats.exact import TESTS
from lab.stats.holm import holm
from lab.stats.levels import levels
from lab.stats.samples import checked
from lab.stats.settling import settling


@dataclass(frozen=True)
class Contrast:
    """That one label of an axis scores higher than another, or, with more=False, that it does not."""

    says: str
    better: str
    than: str
    where: str  # the label of the second axis, such as the kind of data set
    more: bool = True


def contrasts(
    scores: xr.DataArray,
    said: Iterable[Contrast],
    *,
    along: str = "design",
    within: str = "kind",
    margin: float = 0.01,
    test: str = "wilcoxon",
    unit: str = "seed",
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """One row for each claim: the difference with its interval, p, the smallest p there could be, and the verdict.

    scores: [along, seed, dataset, example], with a coordinate `within` along dataset; a claim takes its data sets of
    them. Intervals are drawn from seeds beside data sets, and examples inside data sets, as `levels` has it. Of m
    claims each has the interval of 1 - (1 - level) / m (Bonferroni), so that all m hold the truth at once as often as
    level says, and so do the verdicts; p is of one difference a seed (or data set: unit), Holm's correction over the
    claims.

    A claim of more holds where the interval lies above 0, and does not where it lies below `margin`, the smallest
    difference that would matter; otherwise there is too little power. A claim of no more is the other way round: it
    holds where the interval lies below margin, and does not where it lies above 0. An interval above 0 and below margin
    is a difference that does not matter: it counts as more. seeds: how many units would settle it, by an interval above
    0 or below margin in 8 of 10 experiments, if the difference is the one seen and the rest stays as it is (0: more
    than a hundred, or none, where the data sets leave it open); see `settling`.

    Variables over claim: difference, low, high, p, attainable, holm, dz, seeds, verdict; coordinate says.
    Raises ValueError for labels that are not there, no claim, one unit only, and NaN among the scores asked.
    """
    said = list(said)
    if not said or not margin > 0 or test not in TESTS:
        raise ValueError(
            f"needed are a claim, a positive margin and a test of {list(TESTS)}; got {len(said)}, {margin}, {test!r}"
        )
    rows = [
        _row(_apart(scores, claim, along, within), claim, margin, test, unit,
             {"draws": draws, "level": 1 - (1 - level) / len(said), "seed": seed})
        for claim in said
    ]  # fmt: skip
    table = xr.concat(rows, "claim").assign_coords(claim=range(len(said)), says=("claim", [c.says for c in said]))
    return table.assign(holm=holm(table["p"])).assign_attrs(margin=margin, test=test, unit=unit, level=level)


def _apart(scores: xr.DataArray, claim: Contrast, along: str, within: str) -> xr.DataArray:
    there = scores[along].values.tolist()
    if missing := [name for name in (claim.better, claim.than) if name not in there]:
        raise ValueError(f"no {along} {missing}; there are {there}")
    kinds = scores[within].values.tolist()
    if claim.where not in kinds:
        raise ValueError(f"no {within} {claim.where!r}; there are {sorted(set(kinds))}")
    picked = scores.isel(dataset=[i for i, kind in enumerate(kinds) if kind == claim.where])
    apart = picked.sel({along: claim.better}, drop=True) - picked.sel({along: claim.than}, drop=True)
    return checked(apart.dropna("example", how="all"), ["seed", "dataset", "example"], fewest=1)


def _row(apart: xr.DataArray, claim: Contrast, margin: float, test: str, unit: str, drawn: dict) -> xr.Dataset:
    chains = [("seed",), ("dataset", "example")]
    interval = levels(apart, chains, **drawn)
    pairs = apart.mean([axis for axis in ("seed", "dataset", "example") if axis != unit])
    tested = TESTS[test](pairs, unit)
    low, high = float(interval["low"]), float(interval["high"])
    above, small = low > 0, high < margin
    verdict = "too little power"
    if above or small:
        verdict = "holds" if above == claim.more else "does not hold"
    other = next(chain for chain in chains if unit not in chain)
    beside = 0.0
    if any(apart.sizes[axis] > 1 for axis in other):
        rest = levels(apart.mean([axis for axis in apart.dims if axis not in other]), other, **drawn)
        beside = float(rest["high"] - rest["low"]) / 2
    needed = settling(pairs, unit, margin=margin, beside=beside, level=drawn["level"])
    numbers = {"difference": float(interval["estimate"]), "low": low, "high": high, "p": float(tested["p"]),
               "attainable": float(tested["attainable"]), "dz": float(cohen_dz(pairs, unit)), "seeds": needed,
               "verdict": verdict}  # fmt: skip
    return xr.Dataset(numbers)
