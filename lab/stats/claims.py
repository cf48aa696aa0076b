"""Claims held against what was measured: each with the side of zero it takes, its interval, and how it came out."""

from collections.abc import Mapping

import pandas as pd
import xarray as xr

from lab.stats.bootstrap import bootstrap

OUTCOMES = {1: "holds", -1: "negative", 0: "not at this scale"}


def judge(
    claims: Mapping[str, tuple[xr.DataArray | xr.Dataset, int]], along: str = "seed", *, seed: int = 0
) -> pd.DataFrame:
    """One row for each claim: estimate, low and high of its number, and the outcome.

    claims: {what is claimed: (samples, sign)}. samples is the number along one axis, whose mean gets its 95 % interval
    by `bootstrap`, or an interval that is there already, a dataset with estimate, low and high. sign is 1 where the
    claim says that the number is above zero, -1 where below: take a bound off a number that is held against one.

    "holds": the whole interval is on the claimed side; "negative": it is on the other one; "not at this scale": it
    has zero in it, so that these samples cannot tell. Of two samples the interval reaches 12.7 times half their
    distance to either side, so that they seldom can. Each interval is one of 95 % by itself: of twenty claims without
    a truth one is expected to come out, and many claims are better judged together, by `contrasts`.

    Raises ValueError for no claim, a sign that is neither 1 nor -1, and samples as `bootstrap` does.
    """
    if not claims:
        raise ValueError("no claim to judge")
    rows = {}
    for claim, (samples, sign) in claims.items():
        if sign not in (1, -1):
            raise ValueError(f"a claim is above zero, 1, or below it, -1; {claim!r} has sign {sign!r}")
        made = (
            samples if isinstance(samples, xr.Dataset) else bootstrap(samples.reset_coords(drop=True), along, seed=seed)
        )
        if missing := {"estimate", "low", "high"} - set(made):
            raise ValueError(f"the interval of {claim!r} lacks {sorted(missing)}")
        if made["estimate"].size != 1:
            raise ValueError(f"{claim!r} is {made['estimate'].size} numbers, {dict(made.sizes)}; a claim is one")
        estimate, low, high = (float(made[name].item()) for name in ("estimate", "low", "high"))
        side = 1 if low > 0 else -1 if high < 0 else 0
        rows[claim] = {"estimate": estimate, "low": low, "high": high, "outcome": OUTCOMES[side * sign]}
    return pd.DataFrame(rows).T.astype(dict.fromkeys(("estimate", "low", "high"), float))


def verdict(table: pd.DataFrame) -> str:
    """The rows of `judge` as Markdown: what holds, what is negative, what these samples cannot tell."""
    parts = []
    for outcome in OUTCOMES.values():
        rows = table[table["outcome"] == outcome]
        if len(rows):
            said = [
                f"{claim} ({row.estimate:+.3f} [{row.low:+.3f}, {row.high:+.3f}])" for claim, row in rows.iterrows()
            ]
            parts.append(f"**{outcome.capitalize()}**: {'; '.join(said)}.")
    return "\n\n".join(parts)
