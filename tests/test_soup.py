"""lab.training.soup, and SimCSE's recipe: the mean of weights and what it promises; a text beside itself."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lab
from lab.training import soup

pytestmark = pytest.mark.usefixtures("plain_torch")

X, Y = (torch.randn(200, d, generator=torch.Generator().manual_seed(d)) for d in (6, 1))


def loss(model):
    return float((model(X) - Y).detach().square().mean())


def linear(seed):
    torch.manual_seed(seed)
    return nn.Linear(6, 1)


def test_a_soup_is_the_mean_of_the_weights_and_its_members_stay():
    models = [linear(seed) for seed in range(3)]
    before = [model.weight.clone() for model in models]
    shares = np.array([1.0, 2.0, 5.0]) / 8
    made = soup(models, [1.0, 2.0, 5.0])
    want = sum(share * model.weight.double() for share, model in zip(shares, models, strict=True))
    torch.testing.assert_close(made.weight.double(), want, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(soup(models).bias, sum(model.bias for model in models) / 3)
    assert all(torch.equal(model.weight, old) for model, old in zip(models, before, strict=True))
    assert torch.equal(soup([models[1]]).weight, models[1].weight)
    half = soup([model.to(torch.bfloat16) for model in models])
    assert half.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("seed", range(5))
def test_a_soup_is_no_worse_than_the_mean_of_its_members_where_the_loss_is_convex(seed):
    models = [linear(10 * seed + i) for i in range(4)]
    assert loss(soup(models)) <= np.mean([loss(model) for model in models]) + 1e-6


def test_the_mean_of_networks_that_share_no_beginning_is_no_model():
    """The converse: the same function with its hidden units in another order is another point, and the mean is lost."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    other = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    order = torch.randperm(32)
    other[0].load_state_dict({"weight": one[0].weight[order], "bias": one[0].bias[order]})
    other[2].load_state_dict({"weight": one[2].weight[:, order], "bias": one[2].bias})
    torch.testing.assert_close(one(X), other(X))
    with torch.no_grad():
        assert float((soup([one, other])(X) - one(X)).abs().mean()) > 0.1 * float(one(X).std())


def test_trained_embedders_make_a_soup_that_encodes():
    small = lab.models.tiny("bert", layers=1, dim=16, heads=2)
    design = lab.training.Design("bidirectional", "mean", "all", "softmax_mix")
    models = [lab.training.embedder(small, design, seed=seed, window=16, device="cpu") for seed in range(2)]
    with torch.no_grad():
        for model, step in zip(models, (0.02, -0.02), strict=True):
            for parameter in model.parameters():
                parameter.add_(step)
    made = soup(models)
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.sub_(0.02)
    texts = ["alpha", "beta gamma"]
    np.testing.assert_allclose(made.encode(texts), models[0].encode(texts), atol=1e-5)


@pytest.mark.parametrize(
    ("models", "weights", "says"),
    [
        ([], None, "no model"),
        ([linear(0), nn.Linear(5, 1)], None, "model 1 is not of the same kind.*'weight'"),
        ([linear(0), nn.Linear(6, 1, bias=False)], None, "'bias'"),
        ([linear(0), linear(1)], [1.0], "needed are 2 weights"),
        ([linear(0), linear(1)], [1.0, -1.0], "needed are 2 weights"),
        ([nn.BatchNorm1d(2), nn.BatchNorm1d(2)], None, "num_batches_tracked"),
    ],
)
def test_what_is_no_soup_is_refused(models, weights, says):
    if says == "num_batches_tracked":
        models[1](torch.randn(4, 2))
    with pytest.raises(ValueError, match=says):
        soup(models, weights)


def test_simcse_is_a_text_beside_itself_under_two_dropouts():
    """Equal columns: both sides of a pair are the same tokens, told apart by dropout alone, and that is trained on."""
    small = lab.models.tiny("bert", layers=2, dim=32, heads=2)
    model = lab.training.embedder(small, "mean, both ways", window=16, device="cpu")
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.1
    texts = [f"{a} {b}" for a in ("red", "green", "blue", "grey") for b in ("one", "two", "three", "four")]
    pairs = pd.DataFrame({"query": texts, "positive": texts})
    seen = []
    forward = model[1].register_forward_hook(lambda _m, _i, out: seen.append(out["sentence_embedding"].detach()))
    tuned = lab.training.contrastive(
        pairs, model, steps=30, batch=8, rate=1e-3, every=15, warmup=0.0, seed=0, progress=False
    )
    forward.remove()
    sides = seen[0], seen[1]
    assert sides[0].shape == sides[1].shape
    assert not torch.allclose(*sides)  # the two passes had dropouts of their own
    near = torch.nn.functional.cosine_similarity(*sides)
    assert float(near.min()) > 0.5
    assert float(tuned.curve.loss[-1]) < float(tuned.curve.loss[0])
