"""lab.capture.moments and tokens against the same numbers from states that were kept."""

import numpy as np
import pytest
import torch

import lab

TEXTS = ["a singular value decomposition", "", "hello", "mean of the tokens " * 9, "x", "the last of them is here"]


@pytest.fixture(scope="module", params=["minilm", "llama"])
def model(request, minilm):
    return minilm if request.param == "minilm" else lab.models.tiny("llama", layers=3, dim=16, heads=2)


@pytest.fixture(scope="module")
def kept(model):
    """[layer, token, dim] in float64, text after text."""
    states = []
    for text in TEXTS:
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        if ids.numel():
            with torch.inference_mode():
                states.append(torch.stack(model.model(input_ids=ids, output_hidden_states=True).hidden_states)[:, 0])
    return torch.cat(states, dim=1).double().numpy()


@pytest.mark.parametrize("batch_tokens", [8, 64, 10_000])
def test_moments_are_those_of_all_tokens(model, kept, batch_tokens):
    got = lab.capture.moments(model, TEXTS, covariance=True, batch_tokens=batch_tokens, progress=False)
    centred = kept - kept.mean(1, keepdims=True)
    norm = np.linalg.norm(kept, axis=2)
    share = (kept**2).mean(1) / (kept**2).mean(1).sum(1, keepdims=True)
    size = np.sqrt((kept**2).mean((1, 2)))[:, None]
    still = kept.std(1) <= 1e-6 * np.maximum(np.abs(kept.mean(1)), size)  # MiniLM has two dead coordinates of 1e-33
    want = {
        "mean": kept.mean(1),
        "std": kept.std(1),
        "kurtosis": np.where(still, np.nan, (centred**4).mean(1) / (centred**2).mean(1) ** 2),
        "absmax": np.abs(kept).max(1),
        "share": share,
        "outlier": share > share.mean(1, keepdims=True) + 3 * share.std(1, keepdims=True),
        "covariance": np.einsum("lta,ltb->lab", centred, centred) / kept.shape[1],
        "norm": norm.mean(1),
        "norm_std": norm.std(1),
        "norm_max": norm.max(1),
    }
    assert got.attrs["tokens"] == kept.shape[1]
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=2e-4, atol=2e-5, err_msg=name)


def test_influence_is_one_minus_the_cosine_across_a_block(model, kept):
    got = lab.capture.moments(model, TEXTS, progress=False)
    norm = np.linalg.norm(kept, axis=2)
    cosine = (kept[1:] * kept[:-1]).sum(2) / (norm[1:] * norm[:-1])
    change = np.linalg.norm(kept[1:] - kept[:-1], axis=2) / norm[:-1]
    np.testing.assert_allclose(got.influence[1:], 1 - cosine.mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.change[1:], change.mean(1), rtol=1e-4)
    assert np.isnan(got.influence[0])
    apart = lab.capture.moments(model, TEXTS, layers=[0, 2], progress=False)
    assert np.isnan(apart.influence).all()  # layer 1, which stands between, was not watched


def test_far_means_do_not_cost_precision():
    """Deviations of 1 around 10,000: squares of float32 would have lost them."""
    model = lab.models.tiny("llama", layers=2, dim=16, heads=2)
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(10_000)
    got = lab.capture.moments(model, TEXTS, layers=[0], progress=False)
    x = lab.capture.tokens(model, TEXTS, layers=[0]).h[0].values.astype(float)
    np.testing.assert_allclose(got["std"][0], x.std(0), rtol=1e-3)
    centred = x - x.mean(0)
    np.testing.assert_allclose(got.kurtosis[0], (centred**4).mean(0) / (centred**2).mean(0) ** 2, rtol=5e-3)


def test_a_coordinate_that_never_moves_has_no_kurtosis():
    model = lab.models.tiny("llama", layers=1, dim=16, heads=2)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 3] = 7.0
    got = lab.capture.moments(model, TEXTS, layers=[0], progress=False)
    assert np.isnan(got.kurtosis[0, 3])
    assert got["std"][0, 3] < 1e-5
    assert bool(got.outlier[0, 3])


def test_maps_of_several_widths_leave_nan_beyond_their_own():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 8, 3))
    model = lab.models.wrap(net, torch.zeros(1, 1, 8, 8), blocks=["0", "1"])
    got = lab.capture.moments(model, torch.randn(5, 1, 8, 8), progress=False)
    assert got.width.values.tolist() == [1, 4, 8]
    assert np.isnan(got["mean"][1, 4:]).all()
    assert np.isfinite(got["mean"][1, :4]).all()
    assert np.isnan(got.influence).all()


def test_tokens_come_with_their_texts_and_places(model, kept):
    got = lab.capture.tokens(model, TEXTS, batch_tokens=40)
    np.testing.assert_allclose(got.h, kept, rtol=1e-3, atol=1e-4)
    ids = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    assert got.text.values.tolist() == [word for row in ids for word in model.tokenizer.convert_ids_to_tokens(row)]
    assert got.example.values.tolist() == [i for i, row in enumerate(ids) for _ in row]
    assert got.position.values.tolist() == [t for row in ids for t in range(len(row))]
    some = lab.capture.tokens(model, TEXTS, layers=[-1], dtype="float16")
    np.testing.assert_allclose(some.h[0], kept[-1], rtol=1e-2, atol=1e-2)
    assert some.h.dtype == np.float16
    with pytest.raises(ValueError, match="dtype must be"):
        lab.capture.tokens(model, TEXTS, dtype="int8")


def test_patches_are_tokens_too():
    vit, (images, _) = lab.models.tiny("vit", layers=2, dim=16, heads=2), lab.data.digits()
    got = lab.capture.tokens(vit, images[:3], layers=[1])
    assert got.sizes["token"] == 3 * 17
    assert "text" not in got.coords
