"""A small network that makes descriptors of images to search by; how its places become one vector is the question."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from lab.pooling import GSP, GeM2d, RegionalGeM, ScaleGeM
from lab.training.descend import descend


class MeanOfPlaces(nn.Module):
    """Global average pooling. x (B, D, H, W) -> (B, D)."""

    def forward(self, x: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D"]:
        return x.mean((2, 3))


class SumOfPlaces(nn.Module):
    """GSP of the places of a map. x (B, D, H, W) -> (B, D)."""

    def __init__(self, dim: int, mu: float, gamma: float) -> None:
        super().__init__()
        self.gsp = GSP(dim, num_prototypes=16, mu=mu, gamma=gamma)

    def weights(self, x: Float[Tensor, "B D H W"]) -> Float[Tensor, "B H W"]:
        """What each place counts, 1 on average."""
        tokens, mask = _tokens(x)
        return self.gsp.weights(tokens, mask).unflatten(1, x.shape[2:])

    def forward(self, x: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D"]:
        return self.gsp(*_tokens(x))


def _tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    tokens = x.flatten(2).mT.contiguous()
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device)


SEARCH_POOLS: dict[str, Callable[[int, float, float], nn.Module]] = {
    "mean": lambda *_: MeanOfPlaces(),
    "gsp": SumOfPlaces,
    "gem": lambda *_: nn.Sequential(GeM2d(3.0, learnable=False), nn.Flatten()),
}


def arcface(
    cosine: Float[Tensor, "B C"], labels: Int[Tensor, " B"], *, margin: float = 0.3, scale: float = 16.0
) -> Float[Tensor, ""]:
    """Cross-entropy of scale cos(theta_c), with scale cos(theta_y + margin) for the right class y; mean over rows.

    cos(theta + m) = cos theta cos m - sin theta sin m, which rises again past theta = pi - m; that is left as it is.
    Deng et al., "ArcFace", CVPR 2019, eq. 3 (number recalled). https://arxiv.org/abs/1801.07698
    """
    own = cosine.gather(1, labels[:, None])
    sine = (1 - own.square()).clamp(min=1e-12).sqrt()  # the root of an exact 0 has no gradient
    moved = own * math.cos(margin) - sine * math.sin(margin)
    return nn.functional.cross_entropy(scale * cosine.scatter(1, labels[:, None], moved), labels)


class ImageSearch(nn.Module):
    """Images (B, 1, H, W) -> maps (B, D, H/2, W/2) -> pool -> length 1 -> a linear map: the descriptor.

    A place sees 11 x 11 pixels: 3 x 3 filters by twos, then 3 x 3 filters two times, with batch norm and ReLU.
    `classes` [C, D] are ArcFace's directions, of no use once it is trained.
    """

    def __init__(self, pool: str, classes: int, dim: int, mu: float, gamma: float) -> None:
        super().__init__()
        half = dim // 2
        sizes = [(1, half, 3, 2), (half, dim, 3, 1), (dim, dim, 3, 1)]
        self.layers = nn.Sequential(*[
            nn.Sequential(nn.Conv2d(a, b, k, step, k // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b, k, step in sizes
        ])  # fmt: skip
        self.pool, self.fc = SEARCH_POOLS[pool](dim, mu, gamma), nn.Linear(dim, dim)
        self.classes = nn.Parameter(torch.randn(classes, dim))

    def forward(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B D"]:
        return self.fc(normalize(self.pool(self.layers(images)), dim=1))

    @torch.no_grad()
    def maps(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B D h w"]:
        """What is pooled."""
        return self.layers(images)

    @torch.no_grad()
    def weights(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B h w"]:
        """What GSP lets each place count, 1 on average. ValueError: a network with another pool."""
        if not isinstance(self.pool, SumOfPlaces):
            raise ValueError('weights are those of the pool "gsp"; this network has another')
        return self.pool.weights(self.layers(images))

    @torch.no_grad()
    def describe(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B D"]:
        """Descriptors of length 1, pooled as they were in training."""
        return normalize(self(images), dim=1)

    @torch.no_grad()
    def describe_anew(
        self,
        images: Float[Tensor, "B 1 H W"],
        *,
        p: float = 3.0,
        regional: bool = False,
        scales: Sequence[float] = (1.0,),
        over_scales: float = 1.0,
    ) -> Float[Tensor, "B D"]:
        """Descriptors of length 1 with SuperGlobal's pooling in the place of the trained one; nothing is learned.

        Of each scale: regional GeM of the maps if asked, GeM with p, length 1, the linear map; then scale GeM over
        scales with the exponent over_scales (1: the mean). Shao et al., ICCV 2023 (the authors' code was read: p 4.6,
        scales 0.7071, 1 and 1.4142, exponent 10). https://arxiv.org/abs/2308.06954
        """
        pool, around, found = GeM2d(p, learnable=False), RegionalGeM() if regional else nn.Identity(), []
        for scale in scales:
            side = [int(n * scale) for n in images.shape[2:]]
            sized = images if scale == 1 else interpolate(images, side, mode="bilinear", align_corners=False)
            found.append(self.fc(normalize(pool(around(self.layers(sized))).flatten(1), dim=1)))
        return normalize(ScaleGeM(over_scales)(torch.stack(found, 1)), dim=1)


def image_search(
    images: Float[Tensor, "N 1 H W"],
    labels: Int[Tensor, " N"],
    pool: str = "gsp",
    *,
    dim: int = 32,
    mu: float = 0.3,
    gamma: float = 20.0,
    margin: float = 0.3,
    scale: float = 16.0,
    steps: int = 250,
    batch: int = 32,
    rate: float = 1e-2,
    seed: int = 0,
    progress: bool = True,
) -> ImageSearch:
    """Train an ImageSearch with one of SEARCH_POOLS by ArcFace on labels 0 .. C - 1; AdamW, the rate falling to 0.

    mu, gamma: of GSP alone; its paper's loss by regression on prototypes, for classes unseen, is not here.
    ValueError: an unknown pool, labels that are not 0 .. C - 1 with C of 2 or more.
    """
    if pool not in SEARCH_POOLS:
        raise ValueError(f"no pool {pool!r}; there are {list(SEARCH_POOLS)}")
    names = labels.unique().tolist()
    if labels.shape != (len(images),) or len(names) < 2 or names != list(range(len(names))):
        raise ValueError(
            f"labels must be {len(images)} numbers from 0 to C - 1, two kinds or more; got {tuple(labels.shape)}, "
            f"{names}: number them with torch.unique(labels, return_inverse=True)[1]"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ImageSearch(pool, len(names), dim, mu, gamma)
    generator = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        rows = torch.from_numpy(generator.integers(len(images), size=batch))
        cosine = normalize(made(images[rows]), dim=1) @ normalize(made.classes, dim=1).T
        return arcface(cosine, labels[rows], margin=margin, scale=scale)

    descend(loss, made.parameters(), steps, rate=rate, falling=True, label=f"train {pool}", progress=progress)
    return made.eval()
