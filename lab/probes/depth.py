"""At which depth does a concept appear, and by which has it arrived? Marks on an accuracy curve, with intervals."""

import numpy as np
import xarray as xr

MARKS = ("jump", "converge", "half_rise", "one_se", "best")


def depth(
    correct: xr.DataArray,
    chance: float,
    *,
    jump: float = 1.1,
    calm: float = 0.03,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Depths, as shares of the last layer, at which a probe's accuracy a_l over layers l passes five marks.

    correct: [layer, example, ...], right or wrong when held out, as `linear` returns it; chance: the accuracy of
    knowing nothing (its attribute). With b_l = a_l / a_(l-1):
        jump       the first layer with b_l >= 1.1, NaN where there is none
        converge   the first layer after which |b_l - 1| < 0.03 for good; the last where it never calms
        half_rise  the first with (a_l - chance) / (max a - chance) >= 1/2, NaN where nothing rises above chance
        one_se     the first within one standard error of the best layer's accuracy
        best       the layer of the highest accuracy, the first of equals
    The ratio marks hang on the chance level and on noise: read half_rise and one_se beside them.

    Returns estimate, low, high [mark, ...] with percentile intervals from drawing the examples again, the curve
    anew each time; where a mark is missing in some draws, share[mark, ...] says in how many it was there, and the
    interval is that of these.

    Jumping and converging points: Jin et al., 2025, Concept Depth, https://arxiv.org/abs/2404.07066 (definitions from
    notes; the thresholds recalled, and not in the authors' code). half_rise and one_se are ours.
    Raises ValueError for missing axes, one layer, fewer than two examples, NaN, layers out of order, and a level,
    draws or chance out of range.
    """
    if not {"layer", "example"} <= set(correct.dims):
        raise ValueError(f"correct needs the axes layer and example; got {correct.dims}")
    curve = correct.astype(float).transpose("layer", "example", ...)
    layers = curve["layer"].values
    if len(layers) < 2 or curve.sizes["example"] < 2 or (np.diff(layers) <= 0).any():
        raise ValueError(f"two examples and two layers or more, rising, are needed; got {dict(curve.sizes)}")
    if not np.isfinite(curve.values).all():
        raise ValueError("correct must be 0 or 1 for each example; some are NaN")
    if draws < 1 or not 0 < level < 1 or not 0 <= chance < 1 or jump <= 1 or calm <= 0:
        raise ValueError(
            f"needed are draws of 1 or more, level in (0, 1), chance in [0, 1), jump > 1, calm > 0; got draws={draws}, "
            f"level={level}, chance={chance}, jump={jump}, calm={calm}"
        )
    n = curve.sizes["example"]
    values = curve.values.reshape(len(layers), n, -1)
    estimate = _marks(values.mean(1), n, chance, jump, calm)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws) / n
    drawn = np.stack([_marks(np.einsum("lec,e->lc", values, share), n, chance, jump, calm) for share in counts])
    there = ~np.isnan(drawn)
    depth_of = np.append(layers / layers[-1], np.nan)
    low, high = _middle(depth_of[np.where(there, drawn, -1).astype(int)], level)
    shape = (len(MARKS), *curve.shape[2:])
    dims = ("mark", *curve.dims[2:])
    numbers = {
        "estimate": depth_of[np.where(np.isnan(estimate), -1, estimate).astype(int)],
        "low": low,
        "high": high,
        "share": there.mean(0),
    }
    rest = {axis: curve[axis] for axis in curve.dims[2:] if axis in curve.coords}
    return xr.Dataset(
        {name: (dims, found.reshape(shape)) for name, found in numbers.items()},
        coords={"mark": list(MARKS), **rest},
        attrs={"chance": chance, "jump": jump, "calm": calm, "draws": draws, "level": level, "layers": len(layers)},
    )


def _marks(a: np.ndarray, n: int, chance: float, jump: float, calm: float) -> np.ndarray:
    """Places [mark, cell] on the curves a [layer, cell], NaN for none."""
    last = len(a) - 1
    before = a[:-1]
    # from nothing to something is a jump however large; from nothing to nothing is calm
    ratio = np.where(before > 0, a[1:] / np.where(before > 0, before, 1), np.where(a[1:] > 0, np.inf, 1))
    restless = np.abs(ratio - 1) >= calm
    converge = np.where(restless.any(0), last - restless[::-1].argmax(0), 0)
    top = a.max(0)
    rise = top - chance
    half = (a - chance) >= 0.5 * rise
    error = np.sqrt(top * (1 - top) / n)
    return np.stack(
        [
            np.where((ratio >= jump).any(0), 1 + (ratio >= jump).argmax(0), np.nan),
            converge.astype(float),
            np.where(rise > 0, half.argmax(0), np.nan),
            (a >= top - error).argmax(0).astype(float),
            a.argmax(0).astype(float),
        ]
    )


def _middle(drawn: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bounds over the draws [draw, mark, cell] that are not NaN; NaN where none is."""
    bounds = np.full((2, *drawn.shape[1:]), np.nan)
    for where in np.ndindex(*drawn.shape[1:]):
        found = drawn[(slice(None), *where)]
        found = found[~np.isnan(found)]
        if len(found):
            # depths are steps: a bound is one of them
            bounds[(slice(None), *where)] = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return bounds[0], bounds[1]
