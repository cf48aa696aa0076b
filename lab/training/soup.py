"""A model soup: several trainings of one base as one model, by the mean of their weights."""

import copy
from collections.abc import Sequence

import torch
from torch import nn


@torch.no_grad()
def soup(models: Sequence[nn.Module], weights: Sequence[float] | None = None) -> nn.Module:
    """A copy of the first model with the weighted mean of all their states, theta = sum_i w_i theta_i, sum_i w_i = 1.

    weights: one a model, 0 or more; scaled to a sum of 1; equal where not given. Means are taken in float64 and given
    back in the dtype that was there; numbers that are no floats, such as counters, must be the same in all.

    The claim is that models trained from one base, with other seeds, pairs or rates, lie in one basin, where the mean
    is as good as its best members or better, at the cost of one of them. Where the loss is convex along their weights
    its loss is at most the mean of theirs (Jensen); networks from different initial weights have no such thing, and
    their mean is no model at all. So judge it on validation data, as one more candidate.

    Wortsman et al., "Model soups", 2022 (uniform soup; recalled). https://arxiv.org/abs/2203.05482
    Raises ValueError for no model, states of other names, shapes or dtypes, other counters, and weights that are
    negative, sum to 0, or are not one a model.
    """
    models = list(models)
    if not models:
        raise ValueError("no model to take the mean of")
    shares = torch.ones(len(models)) if weights is None else torch.as_tensor(list(weights))
    shares = shares.double()
    if len(shares) != len(models) or not (shares >= 0).all() or not 0 < float(shares.sum()) < float("inf"):
        raise ValueError(f"needed are {len(models)} weights of 0 or more, not all 0; got {shares.tolist()}")
    shares = shares / shares.sum()
    states = [model.state_dict() for model in models]
    for at, state in enumerate(states[1:], 1):
        if other := _differing(states[0], state):
            raise ValueError(f"model {at} is not of the same kind as model 0: they differ in {other}")
    mean = {
        name: sum(share * state[name].double() for share, state in zip(shares.tolist(), states, strict=True)).to(first)
        if first.is_floating_point() else first
        for name, first in states[0].items()
    }  # fmt: skip
    whole = copy.deepcopy(models[0])
    whole.load_state_dict(mean)
    return whole


def _differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """The first names that only one has, or whose shape, dtype, or numbers that are no floats differ."""
    wrong = sorted(one.keys() ^ other.keys())
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if a.shape != b.shape or a.dtype != b.dtype or not (a.is_floating_point() or torch.equal(a, b)):
            wrong.append(name)
    return wrong[:5]
