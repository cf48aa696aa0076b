"""lab.geometry's numbers of sequences: curvature, prompt entropy and Fourier energy, alone and inside capture."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import lab
from lab import geometry

NUMBERS = {
    "curvature": geometry.curvature,
    "prompt_entropy": geometry.prompt_entropy,
    "centred": lambda x, mask: geometry.prompt_entropy(x, mask, 2.0, centred=True, unit=True),
    "low_frequency": geometry.low_frequency,
}


def all_real(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


def whole(number, x):
    """Of one sequence [T, D] without padding."""
    return number(x[None], all_real(x[None])).item()


def angles(x):
    v = np.diff(x.numpy(), axis=0)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairwise(v)]
    return np.mean(np.arccos(np.clip(cosines, -1, 1)))


def entropy_of(x, alpha=1.0):
    p = torch.linalg.svdvals(x).square()
    p = (p[p > 1e-12 * p[0]] / p.sum()).numpy()
    return -sum(p * np.log(p)) if alpha == 1 else np.log(sum(p**alpha)) / (1 - alpha)


@pytest.mark.parametrize("length", [3, 4, 17])
def test_match_their_definitions(length):
    x = torch.randn(length, 6, dtype=torch.float64) + 0.4
    assert whole(geometry.curvature, x) == pytest.approx(angles(x), rel=1e-12)
    room = math.log(min(length, 6))
    assert whole(geometry.prompt_entropy, x) == pytest.approx(entropy_of(x) / room, rel=1e-9)
    nats = geometry.prompt_entropy(x[None], all_real(x[None]), 2.0, share=False).item()
    assert nats == pytest.approx(entropy_of(x, 2.0), rel=1e-9)
    near = torch.nn.functional.normalize(x - x.mean(0), dim=1)
    assert whole(NUMBERS["centred"], x) == pytest.approx(entropy_of(near, 2.0) / room, rel=1e-9)
    t, energy, low = np.arange(length), 0.0, 0.0
    for k in range(length):
        f = min(k, length - k) / length
        size = np.abs(np.exp(-2j * np.pi * k * t / length) @ x.numpy()) ** 2
        energy, low = energy + size.sum(), low + size.sum() * (f <= 0.25)
    found = geometry.low_frequency(x[None], all_real(x[None]), 0.25).item()
    assert found == pytest.approx(low / energy, rel=1e-9)


@pytest.mark.parametrize("name", NUMBERS)
def test_padding_on_either_side_ragged_rows_and_what_stands_in_it_change_nothing(name):
    number, lengths = NUMBERS[name], [5, 9, 1, 0, 9, 2]
    texts = [torch.randn(n, 4) for n in lengths]
    want = [whole(number, text) if len(text) else math.nan for text in texts]
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    torch.testing.assert_close(
        number(torch.cat(texts), offsets), torch.tensor(want, dtype=torch.float64), equal_nan=True
    )
    for side in ("left", "right"):
        x = torch.full((6, 11, 4), torch.nan)
        mask = torch.zeros(6, 11, dtype=torch.bool)
        for row, text in enumerate(texts):
            place = slice(11 - len(text), 11) if side == "left" else slice(0, len(text))
            x[row, place], mask[row, place] = text, True
        found = number(x, mask)
        torch.testing.assert_close(found, torch.tensor(want, dtype=torch.float64), equal_nan=True)
        torch.testing.assert_close(number(x.mT.contiguous().mT, mask), found, equal_nan=True)
    assert number(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)).isnan().all()


def test_curvature_of_lines_walks_and_independent_points():
    line = torch.arange(50.0)[:, None] * torch.randn(1, 384)
    assert whole(geometry.curvature, line) == pytest.approx(0, abs=1e-4)  # not NaN, as without the clamp
    assert whole(geometry.curvature, line[torch.tensor([0, 1]).repeat(9)]) == pytest.approx(math.pi, abs=1e-4)
    points = torch.randn(400, 800, dtype=torch.float64)
    assert whole(geometry.curvature, points) == pytest.approx(2 * math.pi / 3, abs=0.01)
    walk = points.cumsum(0)
    assert whole(geometry.curvature, walk) == pytest.approx(math.pi / 2, abs=0.01)
    circle = torch.arange(40) * math.pi / 20
    assert whole(geometry.curvature, torch.stack([circle.cos(), circle.sin()], 1)) == pytest.approx(math.pi / 20)
    # information_flow took the angle between states, then the absolute cosine between steps
    states = torch.nn.functional.cosine_similarity(walk[:-1], walk[1:]).clamp(-1, 1).arccos().mean().item()
    steps = points[1:] - points[:-1]
    absolute = torch.nn.functional.cosine_similarity(steps[:-1], steps[1:]).abs().arccos().mean().item()
    assert states < 0.5
    assert absolute == pytest.approx(math.pi / 3, abs=0.01)


def test_steps_of_no_length_are_left_out():
    corner = torch.tensor([[0.0, 0], [1, 0], [1, 0], [1, 1], [1, 2], [0, 2]])
    # 1: right, rest, up, up, left: only up-up and up-left follow one another
    assert whole(geometry.curvature, corner) == pytest.approx(math.pi / 4)
    assert math.isnan(whole(geometry.curvature, torch.ones(6, 2)))
    assert math.isnan(whole(geometry.curvature, torch.randn(2, 2)))


def test_what_leaves_them_unchanged_and_what_does_not():
    x = torch.randn(20, 6, dtype=torch.float64).cumsum(0)
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    order = torch.randperm(20)
    for name, number in NUMBERS.items():
        was = whole(number, x)
        assert whole(number, 3 * x @ q) == pytest.approx(was, rel=1e-9)
        assert whole(number, x.flip(0)) == pytest.approx(was, rel=1e-9)
        shifted, shuffled = whole(number, x + 9), whole(number, x[order])
        assert (shifted == pytest.approx(was)) == (name in {"curvature", "centred"}), name
        assert (shuffled == pytest.approx(was)) == (name in {"prompt_entropy", "centred"}), name


def test_entropy_limits_and_the_gram_matrix_as_it_is():
    q = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    assert whole(geometry.prompt_entropy, q) == pytest.approx(1)
    line = torch.arange(1.0, 9)[:, None] * torch.randn(1, 8)
    assert whole(geometry.prompt_entropy, line) == pytest.approx(0, abs=1e-9)
    one = torch.randn(1, 1, 5)
    assert geometry.prompt_entropy(one, all_real(one), share=False).item() == 0
    assert math.isnan(whole(geometry.prompt_entropy, torch.zeros(4, 3)))
    x = torch.randn(60, 10, dtype=torch.float64)
    k = (x @ x.T).clamp(min=0)
    faulty = torch.special.entr(torch.linalg.eigvalsh(k / k.trace()).clamp(min=0)).sum().item()
    assert faulty - geometry.prompt_entropy(x[None], all_real(x[None]), share=False).item() > 0.3


def test_waves_and_noise_in_one_dimension():
    t = torch.arange(40.0)
    wave = (2 * math.pi * 0.2 * t).cos()[:, None]
    for cutoff, want in ((0.19, 0), (0.2, 1), (0.5, 1)):  # the cutoff's own frequency belongs to it
        assert geometry.low_frequency(wave[None], all_real(wave[None]), cutoff).item() == pytest.approx(want, abs=1e-9)
    x = torch.randn(30, 5, dtype=torch.float64) + 0.5
    mean = x.mean(0).square().sum() / x.square().sum(1).mean()
    assert geometry.low_frequency(x[None], all_real(x[None]), 0.0).item() == pytest.approx(mean.item())
    noise = torch.randn(1, 1000, 300)
    assert geometry.low_frequency(noise, all_real(noise), 0.1).item() == pytest.approx(0.201, abs=0.01)
    average = noise.unfold(1, 9, 1).mean(-1)  # what averages neighbours keeps the low ones
    assert geometry.low_frequency(average, all_real(average), 0.1).item() > 0.8


def test_patches_on_a_grid():
    h, w, d, cutoff = 4, 6, 3, 0.3
    x = torch.randn(2, 2 + h * w, d, dtype=torch.float64)
    want = []
    for picture in x[:, 2:].view(2, h, w, d).numpy():
        energy = (np.abs(np.fft.fft2(picture, axes=(0, 1))) ** 2).sum(-1)
        fy, fx = np.meshgrid(np.fft.fftfreq(h), np.fft.fftfreq(w), indexing="ij")
        want.append(energy[np.hypot(fy, fx) <= cutoff].sum() / energy.sum())
    found = geometry.patch_low_frequency(x, all_real(x), (h, w), prefix=2, cutoff=cutoff)
    np.testing.assert_allclose(found, want)
    other = geometry.patch_low_frequency(x, all_real(x), (w, h), prefix=2, cutoff=cutoff)
    assert abs(other - found).min() > 1e-3  # a picture of other sides
    assert geometry.patch_low_frequency(x, all_real(x), (h, w), prefix=1).isnan().all()
    mask = all_real(x)
    mask[0, -1] = False
    assert geometry.patch_low_frequency(x, mask, (h, w), prefix=2).isnan().tolist() == [True, False]
    flat = torch.ones(1, 16, 2)
    assert geometry.patch_low_frequency(flat, all_real(flat), (4, 4), prefix=0, cutoff=0.0).item() == 1


def test_half_precision_is_measured_in_float64():
    x = torch.randn(2, 9, 5).bfloat16()
    for number in NUMBERS.values():
        torch.testing.assert_close(number(x, all_real(x)), number(x.double(), all_real(x)))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x, m: geometry.low_frequency(x, m, 0.6), ValueError, r"from 0 to 0\.5; got 0\.6"),
        (lambda x, m: geometry.patch_low_frequency(x, m, (0, 4)), ValueError, "sides must be at least 1"),
        (lambda x, m: geometry.prompt_entropy(x, m, -1.0), ValueError, "alpha must be at least 0"),
        (lambda x, m: geometry.curvature(x, m[:, 1:]), ValueError, r"got \(2, 5, 3\) and mask \(2, 4\)"),
        (lambda x, m: geometry.curvature(x, m.float()), TypeError, "mask must be bool"),
        (lambda x, _: geometry.curvature(x[0], torch.tensor([0, 4])), ValueError, "from 0 to the 5 rows"),
    ],
)
def test_bad_input_is_refused(call, error, says):
    x = torch.randn(2, 5, 3)
    with pytest.raises(error, match=says):
        call(x, all_real(x))


def test_capture_feeds_them_without_keeping_tokens(tmp_path):
    model = lab.models.tiny("bert", layers=2, dim=16)
    texts = ["one two three four five", "a", "some more words than the others have here", "x y z"]
    pools = {
        "curvature": geometry.PerText(geometry.curvature),
        "entropy": geometry.PerText(geometry.prompt_entropy, alpha=2.0, share=False),
        "smooth": geometry.PerText(geometry.low_frequency, cutoff=0.2),
    }
    found = lab.capture.states(model, texts, pools=pools, progress=False)
    assert found.h.shape == (3, 3, 4, 1)
    tokens = lab.capture.tokens(model, texts)
    for i in range(4):
        x = torch.from_numpy(tokens.h.sel(layer=1).values[tokens.example.values == i])[None]
        for name, pool in pools.items():
            want = pool(x, all_real(x)).item()
            got = found.h.sel(layer=1, pool=name, example=i).item()
            assert got == pytest.approx(want, rel=1e-4, nan_ok=True)
    store = tmp_path / "s.zarr"
    lab.capture.to_zarr(model, texts, store, pools=pools, progress=False)
    changed = {**pools, "smooth": geometry.PerText(geometry.low_frequency, cutoff=0.3)}
    with pytest.raises(ValueError, match="pools"):
        lab.capture.to_zarr(model, texts, store, pools=changed, progress=False)


def test_capture_feeds_patches():
    model = lab.models.tiny("vit", layers=1, dim=16)
    images = lab.data.digits()[0][:3]
    prefix = int(lab.capture.tokens(model, images).sizes["token"] / 3) - 16
    pool = geometry.PerText(geometry.patch_low_frequency, grid=(4, 4), prefix=prefix)
    found = lab.capture.states(model, images, pools={"smooth": pool}, progress=False).h.values
    assert ((found > 0) & (found <= 1)).all()
