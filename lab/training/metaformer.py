"""A small MetaFormer of images: a block whose token mixer is a name, with its cost counted and its branches heard."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.geometry import patch_low_frequency
from lab.pooling import InceptionMixer, PfLayer, PfTokenLayer, PoolMixer2d
from lab.training.descend import descend
from lab.training.multiply_adds import multiply_adds

BRANCHES = ("convolution", "max", "attention")  # of an InceptionMixer, in the order of its channels


class Place(NamedTuple):
    """What a mixer is built for."""

    dim: int
    heads: int
    grid: tuple[int, int]
    attending: int  # of an InceptionMixer's heads, those that attend


class OnMaps(nn.Module):
    """A module of maps (B, C, H, W), here of (B, H, W, C)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        return self.inner(x.movedim(-1, 1)).movedim(1, -1)


class OnTokens(nn.Module):
    """A module of tokens (B, T, D), here of (B, H, W, D), row by row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
        return self.inner(x.flatten(1, 2)).view_as(x)


class SelfAttention(nn.Module):
    """Softmax attention of `heads` heads, every token to every token. x (B, T, D) -> the same shape."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SpatialMLP(nn.Module):
    """One matrix over places, the same for every channel: y = W x + b. x (B, T, D) -> the same shape."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.over = nn.Linear(tokens, tokens)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.over(x.mT).mT


def depthwise(dim: int) -> nn.Conv2d:
    """A 3 x 3 filter for each channel. x (B, C, H, W) -> the same shape."""
    return nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


def bottleneck(dim: int) -> nn.Sequential:
    """PfLayer(dim, dim) with a trainable 3 x 3 filter for each channel where it takes the maximum."""
    own = PfLayer(dim, dim)
    return nn.Sequential(own.reduce, depthwise(dim), own.expand)


# one line enrols a mixer in the training, the tests and the notebook
MIXERS: dict[str, Callable[[Place], nn.Module]] = {
    "attention": lambda p: OnTokens(SelfAttention(p.dim, p.heads)),
    "pooling": lambda _: OnMaps(PoolMixer2d(3)),
    "identity": lambda _: nn.Identity(),
    "spatial MLP": lambda p: OnTokens(SpatialMLP(p.grid[0] * p.grid[1])),
    "depthwise": lambda p: OnMaps(depthwise(p.dim)),
    "max, tokens": lambda p: OnTokens(PfTokenLayer(p.dim, grid=p.grid)),
    "max, bottleneck": lambda p: OnMaps(PfLayer(p.dim, p.dim)),
    "depthwise, bottleneck": lambda p: OnMaps(bottleneck(p.dim)),
    "inception": lambda p: InceptionMixer(p.dim, p.heads, p.attending),
}


class Block(nn.Module):
    """x <- x + mixer(norm(x)), then x <- x + MLP(norm(x)); alone: x <- mixer(norm(x)), nothing else.

    x (B, H, W, D) -> the same shape; LayerNorm over D, an MLP of 2 D with GELU. Yu et al., CVPR 2022, eqs. 2 and 3
    (numbers recalled; the abstract was read). https://arxiv.org/abs/2111.11418
    """

    def __init__(self, dim: int, mixer: nn.Module, *, alone: bool) -> None:
        super().__init__()
        self.alone, self.norm, self.mixer = alone, nn.LayerNorm(dim), mixer
        if not alone:
            wide = nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
            self.mlp = nn.Sequential(nn.LayerNorm(dim), *wide)

    def forward(self, x: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
        mixed = self.mixer(self.norm(x))
        if self.alone:
            return mixed
        x = x + mixed
        return x + self.mlp(x)


class MetaFormer(nn.Module):
    """Patches -> a linear map and a learned vector for each place -> blocks -> norm -> mean over places -> logits.

    Images (B, 1, H, W), pixels from 0 to 1 -> (B, classes); a patch is patch x patch pixels. attending: heads of each
    block that attend, for "inception" alone. Every mixer is told the places, the ones that need no telling too.
    """

    def __init__(
        self, mixer: str, *, side: int, patch: int, dim: int, heads: int, classes: int, alone: bool,
        attending: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch, self.grid = patch, (side // patch,) * 2
        self.stem, self.places = nn.Linear(patch**2, dim), nn.Parameter(0.2 * torch.randn(*self.grid, dim))
        made = (MIXERS[mixer](Place(dim, heads, self.grid, n)) for n in attending)
        self.blocks = nn.ModuleList(Block(dim, one, alone=alone) for one in made)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def embed(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B h w D"]:
        p = self.patch
        return self.stem(2 * images[:, 0].unfold(1, p, p).unfold(2, p, p).flatten(3) - 1) + self.places

    def forward(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B C"]:
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.head[1](self.head[0](x).mean((1, 2)))

    @torch.no_grad()
    def correct(self, images: Float[Tensor, "N 1 H W"], labels: Int[Tensor, " N"]) -> np.ndarray:
        """Whether each image's label is named, as 0 and 1."""
        return (self(images).argmax(1) == labels).double().numpy()

    def cost(self) -> dict[str, int]:
        """Parameters, those of the mixers alone, and `multiply_adds` of one image."""
        side = self.patch * self.grid[0]
        return {
            "parameters": sum(p.numel() for p in self.parameters()),
            "mixer parameters": sum(p.numel() for block in self.blocks for p in block.mixer.parameters()),
            "multiply-adds": multiply_adds(self, torch.zeros(1, 1, side, side)),
        }

    @torch.no_grad()
    def sharpness(self, images: Float[Tensor, "N 1 H W"], cutoff: float = 0.25) -> xr.DataArray:
        """Share of each branch's energy at frequencies above cutoff, [of, block, branch], mean over images.

        For mixers of "inception". of: "all" energy, or what is "varying" over places, without the mean. Frequencies
        in cycles per place, sqrt(f_y^2 + f_x^2); up to 0.5 along a row. Si et al., NeurIPS 2022, show spectra of the
        branches (figure recalled). https://arxiv.org/abs/2205.12956
        ValueError: another mixer.
        """
        if not all(isinstance(block.mixer, InceptionMixer) for block in self.blocks):
            raise ValueError(f"branches are those of InceptionMixer; got {type(self.blocks[0].mixer).__name__}")
        x, found = self.embed(images), []
        for block in self.blocks:
            maps = block.mixer.branches(block.norm(x).movedim(-1, 1))
            found.append([_above(one.flatten(2).mT, self.grid, cutoff) for one in maps])
            x = block(x)
        axes = {"block": np.arange(1, len(found) + 1), "branch": list(BRANCHES), "of": ["all", "varying"]}
        return xr.DataArray(np.array(found), axes, dims=tuple(axes)).transpose("of", "block", "branch")


def _above(x: Tensor, grid: tuple[int, int], cutoff: float) -> list[float]:
    """1 - low over images, of all energy and of all but the mean's."""
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    low, mean = (patch_low_frequency(x.double(), real, grid, prefix=0, cutoff=at) for at in (cutoff, 0.0))
    return [float((1 - low).mean()), float(((1 - low) / (1 - mean)).mean())]


def metaformer(
    images: Float[Tensor, "N 1 H W"],
    labels: Int[Tensor, " N"],
    mixer: str = "pooling",
    *,
    alone: bool = False,
    attending: Sequence[int] | None = None,
    patch: int = 2,
    layers: int = 2,
    dim: int = 32,
    heads: int = 4,
    steps: int = 150,
    batch: int = 32,
    rate: float = 1e-2,
    seed: int = 0,
    progress: bool = True,
) -> MetaFormer:
    """Train a MetaFormer with one of MIXERS from scratch; AdamW, cross-entropy, the rate falling to 0.

    alone: the mixers without residuals and MLPs. attending: for "inception", how many of `heads` attend in each block;
    None is half of them. ValueError: an unknown mixer, images that are no squares of whole patches, a dim
    that heads do not divide, a split that is not one of `layers` numbers.
    """
    if mixer not in MIXERS:
        raise ValueError(f"no mixer {mixer!r}; there are {list(MIXERS)}")
    if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3] or images.shape[2] % patch:
        raise ValueError(f"images must be [N, 1, H, H], H a multiple of patch={patch}; got {tuple(images.shape)}")
    if dim % heads:
        raise ValueError(f"dim must be a multiple of heads; got {dim} and {heads}")
    split = [heads // 2] * layers if attending is None else list(attending)
    if layers < 1 or len(split) != layers:
        raise ValueError(f"attending must be one number for each of {layers} blocks, 1 or more; got {attending}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = MetaFormer(
            mixer, side=images.shape[2], patch=patch, dim=dim, heads=heads,
            classes=int(labels.max()) + 1, alone=alone, attending=split,
        )  # fmt: skip
    generator = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        rows = torch.from_numpy(generator.integers(len(images), size=batch))
        return nn.functional.cross_entropy(made(images[rows]), labels[rows])

    descend(loss, made.parameters(), steps, rate=rate, falling=True, label=f"train {mixer}", progress=progress)
    return made.eval()
