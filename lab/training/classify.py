"""Training a small classifier, looking at every layer's classes on the way."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from lab import geometry
from lab.models import Loaded, wrap
from lab.training.classifier import CLASSIFIER_LOSSES, Classifier, ClassifierRecipe, mixed

LOOKED = {
    "nc1": geometry.nc1,
    "nc2_norms": geometry.nc2_norms,
    "nc2_angles": geometry.nc2_angles,
    "nc2_frame": geometry.nc2_frame,
    "cdnv": geometry.cdnv,
    "nearest_centre": geometry.nearest_centre,
}


@dataclass(frozen=True, eq=False)
class Classified:
    """A trained classifier, what it was made of, and what was seen on the way."""

    model: Loaded  # layer 0 is the input, the last the features that enter the classifier
    recipe: ClassifierRecipe
    names: list  # of the classes, in the order of the scores
    curve: xr.Dataset

    @property
    def weight(self) -> Tensor:
        """The classifier's rows [K, D]."""
        return self.model.model.head.weight.detach()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """What enters the classifier [N, D]."""
        return self.model.model.features(x.to(self.model.device)).cpu()

    @torch.no_grad()
    def accuracy(self, x: Tensor, labels: Any) -> float:
        said = self.model.model(x.to(self.model.device)).argmax(1).cpu().numpy()
        return float((np.array(self.names)[said] == np.asarray(labels)).mean())


def classify(
    x: Any,
    labels: Any,
    recipe: ClassifierRecipe = ClassifierRecipe(),  # noqa: B008 (frozen)
    *,
    every: int = 100,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Classified:
    """Train a classifier of vectors x [N, D] with their labels, and see how its classes draw together.

    curve has, for step 0, every, 2 every, ... and the last, of all training rows as they are (not mixed): loss,
    accuracy, nc3 and nc4 of the classifier beside the features [step]; and over [step, layer], layer 0 the input, nc1,
    nc2_norms, nc2_angles, nc2_frame, cdnv and nearest_centre as lab.geometry has them. NaN where a number is not
    defined, and of the loss "pairs", which trains no classifier, where it asks for one.

    The model goes on to lab.capture.states(run.model, x), and with that to every probe and number of the lab.
    Collapse in training: Papyan, Han & Donoho, 2020. https://arxiv.org/abs/2008.08186

    Raises TypeError for an x that is no float tensor; ValueError for one that is not [N, D] or not finite, for labels
    of another length, missing, or all the same; FloatingPointError when the loss is no number.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(
            f"x must be a float tensor [N, D]; got {x.dtype if isinstance(x, Tensor) else type(x).__name__}"
        )
    if x.ndim != 2:
        raise ValueError(f"x must be vectors [N, D]; got {list(x.shape)}: images.flatten(1) makes vectors of images")
    grouped = geometry.Classes(x, labels)  # checks the labels and that x is finite
    names, truth = grouped.names, grouped.index.to(device)
    rows = x.detach().float().to(device)
    model = _drawn(rows, len(names), recipe)
    net = model.model
    targets = torch.nn.functional.one_hot(truth, len(names)).float()
    soft = (1 - recipe.smoothing) * targets + recipe.smoothing / len(names)
    optimiser = torch.optim.SGD(
        net.parameters(), lr=recipe.rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    generator = np.random.default_rng(recipe.seed)
    seen = [{"step": 0} | _look(model, rows, truth, targets, recipe)]
    for step in tqdm(range(1, recipe.steps + 1), desc=f"classify {recipe.loss}", disable=not progress, leave=False):
        batch = torch.from_numpy(generator.permutation(len(rows))[: recipe.batch]).to(rows.device)
        here, wanted = rows[batch], soft[batch]
        if recipe.mixup:
            both = mixed(here, recipe.mixup, [recipe.seed, step])
            share = both.share[:, None]
            here, wanted = both.x, share * wanted + (1 - share) * wanted[both.second.to(wanted.device)]
        loss = CLASSIFIER_LOSSES[recipe.loss](net, net.features(here), wanted)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}; a lower rate than {recipe.rate}?")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == recipe.steps:
            seen.append({"step": step} | _look(model, rows, truth, targets, recipe))
    return Classified(model, recipe, names, _curve(seen, model.depth))


def _drawn(rows: Tensor, classes: int, recipe: ClassifierRecipe) -> Loaded:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = Classifier(rows.shape[1], classes, recipe).to(rows.device)
    blocks = [f"blocks.{i}" for i in range(len(net.blocks))]
    return wrap(net, {"x": rows[:2]}, blocks=blocks, name=f"classifier {recipe.loss}, seed {recipe.seed}")


@torch.no_grad()
def _look(
    model: Loaded, rows: Tensor, truth: Tensor, targets: Tensor, recipe: ClassifierRecipe
) -> dict[str, float | list[float]]:
    """The numbers of all rows at this moment; lists run over layers."""
    states: dict[int, Tensor] = {}
    net = model.model
    with model.watching(states.__setitem__, range(model.depth + 1)):
        scores = net(rows)
    layers = [geometry.Classes(states[layer], truth) for layer in range(model.depth + 1)]
    found = {name: [float(number(grouped)) for grouped in layers] for name, number in LOOKED.items()}
    found["loss"] = float(CLASSIFIER_LOSSES[recipe.loss](net, states[model.depth], targets))
    if recipe.loss == "pairs":
        return found | dict.fromkeys(("accuracy", "nc3", "nc4"), float("nan"))
    weight, bias = net.head.weight, net.head.bias
    if net.scale is not None:
        weight = torch.nn.functional.normalize(weight, dim=-1)
    return found | {
        "accuracy": float((scores.argmax(1) == truth).double().mean()),
        "nc3": float(geometry.nc3(layers[-1], weight=weight)),
        "nc4": float(geometry.nc4(layers[-1], weight=weight, bias=bias)),
    }


def _curve(seen: list[dict[str, Any]], depth: int) -> xr.Dataset:
    axes = {name: ("step", "layer") if name in LOOKED else ("step",) for name in seen[0] if name != "step"}
    found = {name: (dims, np.array([row[name] for row in seen])) for name, dims in axes.items()}
    return xr.Dataset(found, coords={"step": [row["step"] for row in seen], "layer": np.arange(depth + 1)})
