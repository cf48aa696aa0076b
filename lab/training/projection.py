"""A contrastive encoder under a projection head: what the features before the head keep that those behind it lose."""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from lab.data.tasks import PlantedFeatures
from lab.training.descend import descend
from lab.training.losses.contrast import infonce, similarities

HEADS = ("none", "linear", "mlp", "diagonal")


class Projected(nn.Module):
    """Vectors [B, D] -> before [B, E], a ReLU network's output, and behind its head [B, E].

    head: "none" leaves it as it is, "linear" and "mlp" (one ReLU) learn with it, "diagonal" multiplies coordinate i by
    decay^i, fixed, and learns nothing.
    """

    def __init__(self, width: int, dim: int = 16, hidden: int = 64, head: str = "mlp", decay: float = 0.7) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"no head {head!r}; there are {list(HEADS)}")
        if not 0 < decay <= 1:
            raise ValueError(f"the diagonal falls by a factor in (0, 1] from one coordinate to the next; got {decay}")
        self.encoder = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.kind = head
        if head == "linear":
            self.head = nn.Linear(dim, dim, bias=False)
        elif head == "mlp":
            self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        else:
            self.head = nn.Identity()
        self.register_buffer("factors", decay ** torch.arange(dim, dtype=torch.float32))

    def forward(self, x: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        before = self.encoder(x)
        return before, before * self.factors if self.kind == "diagonal" else self.head(before)


def info_nce(one: Float[Tensor, "B E"], two: Float[Tensor, "B E"], temperature: float) -> Tensor:
    """-mean log(e^(cos_ii / t) / sum_j e^(cos_ij / t)) of both directions, the other views of the batch as negatives.

    van den Oord et al., 2018; as in SimCLR without the negatives of a view's own side.
    """
    both = (infonce(*similarities(pair), scale=1 / temperature).mean() for pair in ((one, two), (two, one)))
    return sum(both) / 2


@dataclass(frozen=True, eq=False)
class Headed:
    """A trained encoder with its head, and the task it was trained on."""

    net: Projected
    task: PlantedFeatures
    losses: np.ndarray  # of each step

    @torch.no_grad()
    def states(self, n: int = 400, *, seed: int = 1) -> xr.Dataset:
        """h[layer, pool, example, dim] of new examples as they are, for every probe: layer 0 before, 1 behind the head.

        Beside it sign[example, feature], the planted ones.
        """
        drawn = self.task.draw(n, seed=-seed)  # training draws by seeds from 0 on
        h = np.stack([part.double().numpy() for part in self.net(drawn.clean)])[:, None]
        return xr.Dataset(
            {"h": (("layer", "pool", "example", "dim"), h), "sign": (("example", "feature"), drawn.signs.numpy())},
            coords={"layer": [0, 1], "pool": ["vector"], "example": np.arange(n)},
        )

    def weights(self, n: int = 2000) -> xr.DataArray:
        """weight[layer, feature]: half the distance of the two means of a sign, over the spread of all examples.

        |mean(h | +) - mean(h | -)| / 2 over sqrt(E |h - mean h|^2): squares sum to 1 at most, and all are alike where a
        space weights its features alike.
        """
        states = self.states(n)
        h, sign = states.h.isel(pool=0, drop=True), states.sign
        middle = h - h.mean("example")
        apart = (middle * sign).mean("example")  # signs are even: half the difference of the means
        return np.sqrt((apart**2).sum("dim") / (middle**2).sum("dim").mean("example"))


def projected(
    task: PlantedFeatures,
    head: str = "mlp",
    *,
    dim: int = 16,
    hidden: int = 64,
    decay: float = 0.7,
    steps: int = 500,
    batch: int = 256,
    rate: float = 2e-3,
    temperature: float = 0.5,
    seed: int = 0,
    progress: bool = True,
) -> Headed:
    """Train an encoder and its head so that two views of an example agree behind the head, AdamW on `info_nce`.

    Raises ValueError for an unknown head, a decay outside (0, 1] and fewer than one step.
    """
    if steps < 1 or batch < 2 or min(rate, temperature) <= 0:
        raise ValueError(
            f"got steps={steps}, batch={batch}, rate={rate}, temperature={temperature}; needed are one step or more, "
            "two examples or more, and a positive rate and temperature"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Projected(task.dim, dim, hidden, head, decay)

    def loss(step: int) -> Tensor:
        views = task.draw(batch, seed=seed * 2_000_003 + step)
        return info_nce(net(views.one)[1], net(views.two)[1], temperature)

    label = f"contrast, head {head}"
    losses = descend(loss, net.parameters(), steps, rate=rate, weight_decay=1e-3, label=label, progress=progress)
    return Headed(net, task, losses)
