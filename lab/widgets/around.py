"""What lies around some examples, in every layer: their neighbours, and whether they hold together."""

import numpy as np
import xarray as xr

NEAR = 10  # neighbours of each chosen example that are counted
MOST = 200  # chosen examples whose own neighbours are searched; of more, so many spread evenly


def around(states: xr.Dataset, chosen: np.ndarray, pool: int, k: int = 5) -> xr.Dataset:
    """Neighbours of the chosen examples as one, for each layer, in one pool; by cosine.

    number, cosine [layer, rank]: the k examples that are not chosen nearest to the mean direction of the chosen,
        m = mean_i x_i / |x_i|; of one example these are its neighbours. -1 and NaN where there are fewer.
    together [layer]: of the NEAR nearest neighbours of each chosen example, the share that is chosen too, mean over
        the chosen (of at most MOST of them); NaN for fewer than two. attrs["chance"] is what a random choice of as many
        gives, (m - 1) / (n - 1). High on a map and low here: the map made that group, not the space.

    Examples without finite states, and all-zero ones, are nobody's neighbours. ValueError for an empty choice.
    """
    if not len(chosen):
        raise ValueError("neighbours need one chosen example or more; got none")
    h = states.h.transpose("layer", "pool", "example", "dim")
    layers, n = h.sizes["layer"], h.sizes["example"]
    number, cosine = np.full((layers, k), -1), np.full((layers, k), np.nan)
    together = np.full(layers, np.nan)
    widths = states["width"].values if "width" in states else np.full(layers, h.sizes["dim"])
    for layer in range(layers):
        unit = _unit(h[layer, pool, :, : int(widths[layer])].values)
        near = unit @ np.nan_to_num(unit[chosen]).mean(0)
        length = np.linalg.norm(np.nan_to_num(unit[chosen]).mean(0))
        near = near / (length if length > 0 else 1)
        near[chosen] = np.nan
        some = _first(near, k)
        number[layer, : len(some)], cosine[layer, : len(some)] = some, near[some]
        if len(chosen) > 1:
            together[layer] = _together(unit, chosen)
    return xr.Dataset(
        {"number": (("layer", "rank"), number), "cosine": (("layer", "rank"), cosine), "together": ("layer", together)},
        coords={"layer": h.layer.values, "rank": np.arange(1, k + 1)},
        attrs={"chance": (len(chosen) - 1) / max(1, n - 1), "chosen": len(chosen)},
    )


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; NaN where a row has no direction."""
    x = np.where(np.isfinite(x).all(1, keepdims=True), x, np.nan).astype(np.float32, copy=False)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, np.nan)


def _first(near: np.ndarray, k: int) -> np.ndarray:
    """The numbers of the k largest, largest first, without NaN."""
    order = np.where(np.isnan(near), -np.inf, near)
    k = min(k, len(order))
    some = np.argpartition(-order, k - 1)[:k]
    some = some[np.lexsort((some, -order[some]))]
    return some[np.isfinite(order[some])]


def _together(unit: np.ndarray, chosen: np.ndarray) -> float:
    asked = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), MOST)).round().astype(int)]
    asked = asked[np.isfinite(unit[asked]).all(1)]
    inside = np.zeros(len(unit), bool)
    inside[chosen] = True
    shares = []
    for i in asked:
        near = unit @ unit[i]
        near[i] = np.nan
        some = _first(near, NEAR)
        if len(some):
            shares.append(inside[some].mean())
    return float(np.mean(shares)) if shares else np.nan
