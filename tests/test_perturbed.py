"""What a result hangs on: weights of fewer bits, texts with noise before them."""

import pytest
import torch

import lab


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_weights_are_rounded_to_the_levels_of_each_row(kind):
    model = lab.models.tiny(kind, layers=2, dim=16)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    small = lab.models.quantized(model, 4)
    own = dict(model.model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in own.items())
    for name, weight in small.model.named_parameters():
        exact = own[name].detach()
        if weight.ndim < 2:
            assert torch.equal(weight, exact)
            continue
        step = exact.abs().amax(1, keepdim=True) / 7
        assert ((weight - exact).abs() <= 0.5001 * step + 1e-12).all()
        levels = (weight / step.clamp(min=1e-30)).detach()
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert not torch.equal(weight, exact)
    assert small.name == f"{model.name}, 4 bits"
    assert lab.models.fingerprint(small) != lab.models.fingerprint(model)


def test_more_bits_are_nearer_to_the_model():
    model = lab.models.tiny("gpt2", layers=2, dim=32)
    texts = ["one two", "three"]
    exact = lab.capture.states(model, texts, progress=False).h
    far = [
        float(abs(lab.capture.states(lab.models.quantized(model, bits), texts, progress=False).h - exact).max())
        for bits in (2, 4, 8, 16)
    ]
    assert far[0] > 3 * far[1] > 9 * far[2] > 27 * far[3] > 0


def test_quantized_refuses():
    model = lab.models.tiny("gpt2", layers=1, dim=16)
    for bits in (1, 17, True, 4.0):
        with pytest.raises(ValueError, match="bits must be a whole number from 2 to 16"):
            lab.models.quantized(model, bits)


def test_noise_is_before_each_text_and_another_one_each_time():
    texts = ["read a file", "solve it"]
    found = lab.data.noisy(texts, words=4, seed=0)
    assert [text.split(" ", 4)[4] for text in found] == texts
    assert all(3 <= len(word) <= 8 and word.isalpha() and word.islower() for word in found[0].split()[:4])
    assert found[0].split()[:4] != found[1].split()[:4]
    assert found == lab.data.noisy(texts, words=4, seed=0)
    assert found != lab.data.noisy(texts, words=4, seed=1)
    assert lab.data.noisy(texts, words=0) == texts
    with pytest.raises(TypeError, match="a list of strings"):
        lab.data.noisy("one text")
    with pytest.raises(ValueError, match="words must be 0 or more"):
        lab.data.noisy(texts, words=-1)
