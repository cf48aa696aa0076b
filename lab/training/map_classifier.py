"""A small convolutional network trained on images: what does it matter how its maps shrink, and how they are read?"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.data.images import resized
from lab.pooling import (
    AdaPool2d,
    GatedPool2d,
    MixedPool2d,
    PosetPool2d,
    SoftPool2d,
    SpatialPyramidPool2d,
    TreePool2d,
)
from lab.pooling.poset import POSETS
from lab.training.descend import descend

# what halves a map, by name; a poset's is "poset n"
SHRINKING = {
    "average": lambda: nn.AvgPool2d(2),
    "max": lambda: nn.MaxPool2d(2),
    "mixed": MixedPool2d,
    "gated": GatedPool2d,
    "tree": TreePool2d,
    "soft": SoftPool2d,
    "ada": AdaPool2d,
} | {f"poset {name}": lambda name=name: PosetPool2d(name) for name in POSETS}


class MapNet(nn.Module):
    """convolution - ReLU - pool, twice, then bins of the map side by side and a linear layer.

    images (B, C, H, W) -> logits (B, K). Convolutions are 3 x 3 and keep the size, with `channels` and twice as many.
    pools: 2, or 1 to leave the second map as large as it is. relu_first: False for convolution - pool - ReLU. levels:
    the bins, those of SpatialPyramidPool2d by maximum: (1,) is the global maximum, (2,) of a 2 x 2 map the map itself.
    """

    def __init__(
        self,
        pool: str = "max",
        *,
        channels: int = 8,
        pools: int = 2,
        levels: tuple[int, ...] = (2,),
        relu_first: bool = True,
        entering: int = 1,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if pool not in SHRINKING:
            raise ValueError(f"no pool {pool!r}; there are {list(SHRINKING)}")
        if pools not in {1, 2} or channels < 1:
            raise ValueError(f"pools must be 1 or 2, channels 1 or more; got pools={pools}, channels={channels}")
        convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((entering, channels), (channels, 2 * channels))]
        self.read = SpatialPyramidPool2d(levels)
        self.head = nn.Linear(2 * channels * sum(n * n for n in self.read.levels), classes)
        # the pools last: their draws leave those of the rest as they are, so that a seed is the same with every pool
        shrinking = [SHRINKING[pool]() for _ in range(pools)]
        steps = []
        for i, convolution in enumerate(convolutions):
            after = [nn.ReLU(), *shrinking[i : i + 1]]
            steps += [convolution, *(after if relu_first else after[::-1])]
        self.maps = nn.Sequential(*steps)
        self.stride = 2**pools

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(self.read(self.maps(images)))

    @torch.no_grad()
    def correct(self, images: Float[Tensor, "N C H W"], labels: Int[Tensor, " N"]) -> np.ndarray:
        """Whether each image's label is named, as 0 and 1."""
        return (self(images).argmax(1) == labels).double().numpy()


def map_classifier(
    images: Float[Tensor, "N C H W"],
    labels: Int[Tensor, " M"],
    pool: str = "max",
    *,
    sizes: Sequence[tuple[int, int]] = (),
    steps: int = 100,
    batch: int = 64,
    rate: float = 3e-2,
    seed: int = 0,
    progress: bool = True,
    **shape: object,
) -> MapNet:
    """Train a MapNet from scratch by cross-entropy: AdamW, the rate rising once and falling to 0.

    pool: a name of SHRINKING; shape: what MapNet takes beside it. sizes: where there are some, each batch is brought to
    one of them, drawn evenly (multi-size training; He et al., ECCV 2014, section 2.3, recalled: there the sizes take
    turns by epochs). https://arxiv.org/abs/1406.4729
    The seed draws weights, batches and sizes. ValueError: no images, other labels than images, what MapNet refuses.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"a label for each image is needed, one or more; got {len(images)} and {len(labels)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MapNet(pool, entering=images.shape[1], classes=int(labels.max()) + 1, **shape)
    generator = np.random.default_rng(seed)

    def loss(_: int) -> Tensor:
        rows = torch.from_numpy(generator.integers(len(images), size=batch))
        seen = images[rows]
        if sizes:
            seen = resized(seen, sizes[generator.integers(len(sizes))])
        return nn.functional.cross_entropy(net(seen), labels[rows])

    descend(loss, net.parameters(), steps, rate=rate, falling=True, label=f"train {pool}", progress=progress)
    return net.eval()
