"""A pooled map brought back to its size: what a pool has kept, by how well that goes."""

from collections.abc import Callable, Mapping

import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from lab.geometry import ssim
from lab.pooling import AdaPool2d, AdaUnpool2d, EDSCWPool2d, SoftPool2d

WAYS = ("nearest", "bilinear")


def enlarged(y: Float[Tensor, "B C h w"], size: tuple[int, int], way: str = "nearest") -> Float[Tensor, "B C H W"]:
    """y interpolated to size; way: "nearest" (each value over its window) or "bilinear", corners not aligned."""
    if way not in WAYS:
        raise ValueError(f"way must be one of {WAYS}; got {way!r}")
    corners = {} if way == "nearest" else {"align_corners": False}
    return nn.functional.interpolate(y, size=tuple(size), mode=way, **corners)


def variance_lost(found: Tensor, maps: Tensor) -> float:
    """sum (found - x)^2 / sum (x - mean x)^2 over all entries of the maps x: 0 all is back, 1 as good as their mean."""
    if found.shape != maps.shape:
        raise ValueError(f"found must have the maps' shape {tuple(maps.shape)}; got {tuple(found.shape)}")
    apart = (maps - maps.mean()).square().sum()
    if not apart > 0:
        raise ValueError("the maps are one constant, of which nothing can be lost")
    return ((found - maps).square().sum() / apart).item()


def linear_decoder(
    y: Float[Tensor, "B C h w"], maps: Float[Tensor, "N D H W"], *, ridge: float = 1e-3
) -> Callable[[Float[Tensor, "N C h w"]], Float[Tensor, "N C H W"]]:
    """The affine map of a channel's pooled values to its places that has the least squared error, fitted on these maps.

    Each channel of each map is an example; all share one decoder. With ridge times the mean square of the pooled values
    on the diagonal; solved in float64. No pool is at an advantage by a decoder made for another.
    """
    if y.shape[:2] != maps.shape[:2]:
        raise ValueError(f"y must be the maps pooled; got {tuple(y.shape)} and {tuple(maps.shape)}")
    x, target = (t.double().flatten(0, 1).flatten(1) for t in (y, maps))
    about, mean = x.mean(0), target.mean(0)
    x, size = x - about, maps.shape[2:]
    gram = x.T @ x
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, x.T @ (target - mean))

    def decode(y: Tensor) -> Tensor:
        flat = (y.double().flatten(0, 1).flatten(1) - about) @ weight + mean
        return flat.view(*y.shape[:2], *size).to(y.dtype)

    return decode


@torch.no_grad()
def kept(
    pools: Mapping[str, nn.Module], learn: Float[Tensor, "N C H W"], asked: Float[Tensor, "M C H W"], *, window: int = 4
) -> xr.Dataset:
    """What comes back of the maps `asked`, pool by pool: lost [pool, way] and ssim [pool, way].

    way: "nearest", "bilinear", and "fitted", the linear_decoder of each pool made on the maps `learn`. lost is
    variance_lost; ssim has windows of `window` and the span of `asked`, the mean over maps and channels. By "nearest"
    no pool can lose less than the mean of each window, which has the least squared error of all constants.
    """
    size, span, found = tuple(asked.shape[2:]), (asked.max() - asked.min()).item(), {}
    for name, pool in pools.items():
        y, decode = pool(asked), linear_decoder(pool(learn), learn)
        back = {way: enlarged(y, size, way) for way in WAYS} | {"fitted": decode(y)}
        for way, maps in back.items():
            alike = ssim(maps, asked, window=window, span=span).mean().item()
            found[name, way] = {"lost": variance_lost(maps, asked), "ssim": alike}
    rows = pd.DataFrame(found).T.rename_axis(["pool", "way"]).to_xarray()
    return rows.reindex(pool=list(pools), way=[*WAYS, "fitted"])


def fitted_ada(maps: Float[Tensor, "N C H W"]) -> AdaPool2d:
    """AdaPool2d with the beta, one for each place of the pooled map, by which "nearest" brings most of `maps` back.

    With d = eDSCW - SoftPool and m the window's mean the squared error is least at beta = sum d (m - SoftPool) /
    sum d^2 over maps and channels, and in [0, 1] at the nearer end where that lies outside: what learning beta for
    this end can reach at best. Stergiou & Poppe, 2023, learn it with the network's task (the authors' code was read).
    https://arxiv.org/abs/2111.00772
    """
    wide = maps.double()
    em, edscw, mean = SoftPool2d(2)(wide), EDSCWPool2d(2)(wide), nn.functional.avg_pool2d(wide, 2)
    d = edscw - em
    length = d.square().sum((0, 1))
    beta = (d * (mean - em)).sum((0, 1)) / length.masked_fill(length == 0, 1)  # equal ends: any beta, here 0
    pool = AdaPool2d(2, beta_size=tuple(beta.shape))
    with torch.no_grad():
        pool.raw_beta.copy_(beta.clamp(0, 1).logit())
    return pool


def unpooled(
    y: Float[Tensor, "B C h w"], masks: tuple[Tensor, Tensor, Tensor], *, kernel_size: int = 2
) -> dict[str, Float[Tensor, "B C H W"]]:
    """Three ways back from AdaPool2d's output y and its masks, {name: map}.

    "adaUnPool": as it is defined, the places of a window sum to y, so each is about 1/n of it; "adaUnPool, times n":
    the places of a window have the mean y. "from the masks": SoftPool's mask is m = softmax(x) over the window, so that
    x_i = log m_i + c, and y = sum_i u_i x_i with the weights u = beta v + (1 - beta) m that sum to 1 gives
    c = y - sum_i u_i log m_i: the masks hold all of the map but one number a window, which y is.
    Stergiou & Poppe, IEEE TIP 2023 (the authors' code was read for adaUnPool). https://arxiv.org/abs/2111.00772
    """
    edscw, em, beta = masks
    n = kernel_size**2
    if any(a != kernel_size * b for a, b in zip(edscw.shape[2:], y.shape[2:], strict=True)):
        raise ValueError(f"windows of {kernel_size} must tile the map {tuple(edscw.shape)}; got y {tuple(y.shape)}")
    back = AdaUnpool2d(kernel_size)(y, masks)
    size, logs = tuple(edscw.shape[2:]), em.log()
    share = enlarged(beta.to(y.dtype).expand_as(y), size)
    mixed = share * edscw + (1 - share) * em
    below = nn.functional.avg_pool2d(mixed * logs, kernel_size) * n
    return {"adaUnPool": back, "adaUnPool, times n": n * back, "from the masks": logs + enlarged(y - below, size)}
