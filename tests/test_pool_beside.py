"""What stands beside the registries, in other dimensions, settings or shapes, keeps the contract of maps too."""

import copy

import pytest
import torch

from lab.pooling import (
    EDSCWPool1d,
    EDSCWPool3d,
    GatedPool2d,
    GeM2d,
    InceptionMixer,
    PfTokenLayer,
    PosetPool2d,
    ScaleGeM,
    SoftPool1d,
    SoftPool3d,
    SpatialPyramidPool2d,
    TreePool2d,
)
from lab.pooling.poset import POSETS

pytestmark = pytest.mark.usefixtures("plain_torch")

BESIDE = {
    "soft, 1d": (lambda: SoftPool1d(2), (3, 4, 9)),
    "soft, 3d": (lambda: SoftPool3d(2), (3, 4, 5, 4, 7)),
    "soft, overlapping": (lambda: SoftPool1d(3, 2, 1), (3, 4, 9)),
    "edscw, 1d": (lambda: EDSCWPool1d(2), (3, 4, 9)),
    "edscw, 3d": (lambda: EDSCWPool3d(2), (3, 4, 5, 4, 7)),
    "gem, whole map": (GeM2d, (3, 4, 7, 9)),
    "gated, odd map": (GatedPool2d, (3, 4, 7, 9)),
    "tree of two leaves": (lambda: TreePool2d(depth=2), (3, 4, 7, 9)),
    "pyramid, paper bins": (lambda: SpatialPyramidPool2d((1, 2, 3), bins="paper"), (3, 4, 7, 9)),
    "pyramid, means": (lambda: SpatialPyramidPool2d((1, 2, 3), reduce="mean"), (3, 4, 7, 9)),
    "scale gem": (ScaleGeM, (3, 5, 8)),
    "scale gem, p = inf": (lambda: ScaleGeM(float("inf")), (3, 5, 8)),
    "pf_token": (lambda: PfTokenLayer(8), (3, 9, 8)),
    "inception": (lambda: InceptionMixer(8, 4), (3, 7, 5, 8)),
} | {f"poset {name}": (lambda name=name: PosetPool2d(name), (3, 4, 7, 9)) for name in POSETS}
ROUNDS_ON_THE_WAY = {"pf_token", "inception"}  # linear maps in the type of their weights: torch rounds after each
every = pytest.mark.parametrize("name", BESIDE)


def drawn(name, dtype=torch.float64):
    torch.manual_seed(0)
    build, shape = BESIDE[name]
    return build().to(dtype).eval(), torch.randn(shape, dtype=dtype)


@every
def test_an_example_is_itself_alone_in_any_memory_and_nothing_is_changed(name):
    pool, x = drawn(name)
    kept, y = x.clone(), pool(x)
    assert torch.equal(y, pool(x))
    torch.testing.assert_close(torch.cat([pool(one[None]) for one in x]), y)
    torch.testing.assert_close(pool(x.transpose(0, -1).contiguous().transpose(0, -1)), y)
    assert torch.equal(x, kept)
    assert pool(x[:0]).shape == (0, *y.shape[1:])


@every
def test_gradients_are_those_of_the_values(name):
    pool, x = drawn(name)
    given = {key: p for key, p in pool.named_parameters() if p.requires_grad}

    def value(x, *values):
        return torch.func.functional_call(pool, dict(zip(given, values, strict=True)), (x,)).clone()

    assert torch.autograd.gradcheck(value, (x[:1].requires_grad_(), *given.values()), fast_mode=True)


@pytest.mark.parametrize("name", [name for name in BESIDE if name not in ROUNDS_ON_THE_WAY])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_one_rounding_of_float64(name, dtype):
    pool, x = drawn(name)
    x = (1 + x.sigmoid()).to(dtype)
    got = copy.deepcopy(pool).float()(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), pool(x.double()), rtol=0.51 * torch.finfo(dtype).eps, atol=3e-5)


@every
def test_a_nan_is_seen_and_stays_in_its_example(name):
    pool, x = drawn(name)
    want = pool(x)
    x[1].view(-1)[3] = torch.nan
    y = pool(x)
    torch.testing.assert_close(y[[0, 2]], want[[0, 2]])
    assert y[1].isnan().any()
