"""A small MetaFormer: its block, mixers and spectra by their definitions, its cost against a count by hand."""

import math

import numpy as np
import pytest
import torch

import lab
from lab.pooling import InceptionMixer, PfLayer
from lab.training import MIXERS, metaformer
from lab.training.metaformer import Block, OnMaps, OnTokens, Place, SelfAttention, SpatialMLP, bottleneck

pytestmark = pytest.mark.usefixtures("plain_torch")

TINY = {"dim": 8, "layers": 2, "steps": 1, "batch": 8, "progress": False}


@pytest.fixture(scope="module")
def digits():
    return lab.data.digits()


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_trains_and_a_seed_is_a_run(digits, name, alone):
    images, labels = digits
    made, again, other = (metaformer(images, labels, name, alone=alone, seed=s, **TINY) for s in (3, 3, 4))
    assert made(images[:3]).shape == (3, 10)
    assert torch.equal(made(images[:3]), again(images[:3]))
    assert not torch.equal(made(images[:3]), other(images[:3]))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters())


def test_training_leaves_the_callers_random_numbers_alone(digits):
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    metaformer(*digits, **TINY)
    assert torch.equal(torch.rand(3), want)


def test_a_block_is_its_formula_and_alone_is_the_mixer_of_the_norm():
    x, mixer = torch.randn(2, 3, 3, 8), torch.nn.Linear(8, 8)
    with torch.no_grad():
        both = [Block(8, mixer, alone=alone) for alone in (False, True)]
        whole, bare = both
        norm = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(bare(x), mixer(norm))
        middle = x + mixer(norm)
        normed = torch.nn.functional.layer_norm(middle, (8,))
        _, first, _, second = whole.mlp
        torch.testing.assert_close(whole(x), middle + second(torch.nn.functional.gelu(first(normed))))


def test_places_mix_as_they_should():
    """The gradient of one place's output says which places it reads."""
    place, reads = Place(8, 2, (5, 5), 1), {}
    near = torch.zeros(5, 5, dtype=torch.bool)
    near[1:4, 1:4] = True
    for name, build in MIXERS.items():
        x = torch.randn(4, 5, 5, 8, requires_grad=True)
        mixer = build(place).eval()
        (mixer(x)[:, 2, 2].sin().sum()).backward()
        reads[name] = x.grad.abs().sum((0, 3)) > 0
    everything = torch.ones(5, 5, dtype=torch.bool)
    itself = torch.zeros(5, 5, dtype=torch.bool)
    itself[2, 2] = True
    assert torch.equal(reads["identity"], itself)
    for name in ("attention", "spatial MLP", "inception"):
        assert torch.equal(reads[name], everything), name
    for name in ("pooling", "depthwise", "depthwise, bottleneck"):
        assert torch.equal(reads[name], near), name
    for name in ("max, tokens", "max, bottleneck"):  # a maximum's gradient goes to the largest alone
        assert not (reads[name] & ~near).any(), name
        assert reads[name].sum() > 1, name


def test_attention_and_the_spatial_mlp_are_their_definitions():
    x, attend, over = torch.randn(2, 6, 8).double(), SelfAttention(8, 2).double(), SpatialMLP(6).double()
    q, k, v = (x @ attend.qkv.weight.T + attend.qkv.bias).split(8, -1)
    rows = []
    for h in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[..., h] @ k[..., h].mT / math.sqrt(4), -1)
        rows.append(weights @ v[..., h])
    torch.testing.assert_close(attend(x), torch.cat(rows, -1) @ attend.out.weight.T + attend.out.bias)
    want = torch.einsum("st,btd->bsd", over.over.weight, x) + over.over.bias[:, None]
    torch.testing.assert_close(over(x), want)
    maps = x.unflatten(1, (2, 3))
    torch.testing.assert_close(OnTokens(attend)(maps).flatten(1, 2), attend(x))
    conv = torch.nn.Conv2d(8, 8, 3, padding=1).double()
    torch.testing.assert_close(OnMaps(conv)(maps).movedim(-1, 1), conv(maps.movedim(-1, 1)))


def test_the_bottleneck_has_a_filter_where_the_maximum_was():
    made = bottleneck(6).eval()
    own = PfLayer(6, 6)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in own.parameters()) + 6 * 9 + 6
    x = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(made(x), made[2](made[1](made[0](x))))
    assert made[1].groups == 6


def test_the_cost_is_the_count_by_hand(digits):
    """dim 8, 16 places, 2 blocks, MLPs of 16, 10 digits, patches of 4 pixels."""
    made = {name: metaformer(*digits, name, heads=2, **TINY).cost() for name in ("attention", "pooling", "identity")}
    bare = metaformer(*digits, "identity", alone=True, heads=2, **TINY).cost()
    places, stem, head = 16, 4 * 8, 8 * 10
    mlp, attention = 2 * 8 * 16, 4 * 8 * 8
    assert bare["multiply-adds"] == places * stem + head
    assert made["identity"]["multiply-adds"] == places * stem + head + 2 * places * mlp
    assert made["pooling"] == made["identity"]
    products = 2 * places * places * 8  # q k and the weights times v
    assert made["attention"]["multiply-adds"] == made["identity"]["multiply-adds"] + 2 * (places * attention + products)
    assert made["attention"]["mixer parameters"] == 2 * (attention + 4 * 8)
    assert made["attention"]["parameters"] - made["pooling"]["parameters"] == 2 * (attention + 4 * 8)
    assert bare["parameters"] == (stem + 8) + 16 * 8 + 2 * 2 * 8 + 2 * 8 + head + 10


def test_a_split_is_one_of_channels_and_mirrored_splits_cost_the_same(digits):
    how = TINY | {"heads": 4}
    up, down = (metaformer(*digits, "inception", attending=split, **how) for split in ((1, 3), (3, 1)))
    assert [block.mixer.low for block in up.blocks] == [2, 6]
    assert [block.mixer.low for block in down.blocks] == [6, 2]
    assert up.cost() == down.cost()


def test_branches_are_what_the_inception_mixer_joins():
    mixer, x = InceptionMixer(8, 4, 2), torch.randn(2, 4, 4, 8)
    convolution, most, attention = mixer.branches(x.movedim(-1, 1))
    assert [one.shape[1] for one in (convolution, most, attention)] == [4, 4, 4]
    y = torch.cat([convolution, most, attention], 1)
    torch.testing.assert_close(mixer.project(y + mixer.fuse(y)).movedim(1, -1), mixer(x))
    pooled = torch.nn.functional.max_pool2d(x[..., 2:4].movedim(-1, 1), 3, 1, 1)
    torch.testing.assert_close(mixer.after_max(pooled), most)
    assert torch.equal(attention[..., 0::2, 0::2], attention[..., 1::2, 1::2])  # averaged, then repeated


def test_sharpness_is_the_share_of_fouriers_energy(digits):
    images = digits[0][:5]
    made = metaformer(*digits, "inception", heads=4, **TINY)
    found = made.sharpness(images, cutoff=0.3)
    assert found.dims == ("of", "block", "branch")
    assert found.sizes == {"of": 2, "block": 2, "branch": 3}
    with torch.no_grad():
        x = made.embed(images)
        x = made.blocks[0](x)
        maps = made.blocks[1].mixer.branches(made.blocks[1].norm(x).movedim(-1, 1))
    f = np.fft.fftfreq(4)
    radius = np.hypot(f[:, None], f[None])
    for branch, y in zip(("convolution", "max", "attention"), maps, strict=True):
        energy = (np.abs(np.fft.fft2(y.numpy().astype(float))) ** 2).sum(1)
        high = energy[:, radius > 0.3].sum(1)
        here = found.sel(branch=branch, block=2)
        assert float(here.sel(of="all")) == pytest.approx((high / energy.sum((1, 2))).mean(), rel=1e-6)
        varying = energy.sum((1, 2)) - energy[:, 0, 0]
        assert float(here.sel(of="varying")) == pytest.approx((high / varying).mean(), rel=1e-6)


def test_a_mixer_learns_digits_and_correct_counts(digits):
    images, labels = digits
    made = metaformer(images[:400], labels[:400], "depthwise, bottleneck", layers=1, steps=40, progress=False)
    right = made.correct(images[:400], labels[:400])
    assert set(np.unique(right)) <= {0.0, 1.0}
    assert right.mean() > 0.6
    named = made(images[:400]).argmax(1)
    assert right.mean() == pytest.approx(float((named == labels[:400]).double().mean()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mixer": "mean"}, "no mixer 'mean'; there are"),
        ({"patch": 3}, r"a multiple of patch=3; got \(1797, 1, 8, 8\)"),
        ({"dim": 9}, "a multiple of heads; got 9 and 4"),
        ({"layers": 0}, "for each of 0 blocks, 1 or more"),
        ({"mixer": "inception", "attending": (1, 2, 1)}, r"for each of 2 blocks, 1 or more; got \(1, 2, 1\)"),
        ({"mixer": "inception", "attending": (1, 4)}, "attention_heads be less than num_heads"),
    ],
)
def test_what_does_not_fit_is_refused(digits, change, says):
    with pytest.raises(ValueError, match=says):
        metaformer(*digits, **TINY | change)
    with pytest.raises(ValueError, match="branches are those of InceptionMixer; got Identity"):
        metaformer(*digits, "identity", **TINY).sharpness(digits[0][:2])


def test_images_of_another_shape_are_refused(digits):
    with pytest.raises(ValueError, match=r"must be \[N, 1, H, H\].*got \(1797, 1, 8, 6\)"):
        metaformer(digits[0][..., :6], digits[1], **TINY)
