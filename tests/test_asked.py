"""lab.capture.asked: the state at the template's own token, whatever the text, its length and the padding."""

import pytest
import torch

import lab
from lab.capture.asked import TokenBefore, asked

TEXTS = ["sort", "the largest value there is in an array", "open a file and close it again"]
MASKED = 'This sentence : "{}" means [MASK] .'


@pytest.fixture(scope="module")
def bert():
    return lab.models.tiny("bert", layers=2, dim=16, heads=2, window=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    made = {"layers": 2, "dim": 16, "heads": 2, "pieces": 90, "window": 40, "steps": 1, "batch": 2}
    texts = [*TEXTS, 'This sentence : "" means in one word : "'] * 3
    place = lab.training.base(texts, **made, folder=tmp_path_factory.mktemp("base"), progress=False)
    return lab.models.load(str(place))


def last(model, text):
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    return ids[0], model.last_state(input_ids=ids)[0]


def test_the_pool_counts_from_the_last_real_token():
    x = torch.arange(24.0).reshape(2, 4, 3).clone()
    mask = torch.tensor([[True, True, True, False], [False, True, False, True]])
    x[~mask] = torch.nan
    torch.testing.assert_close(TokenBefore(0)(x, mask), torch.stack([x[0, 2], x[1, 3]]))
    torch.testing.assert_close(TokenBefore(1)(x, mask), torch.stack([x[0, 1], x[1, 1]]))
    torch.testing.assert_close(TokenBefore(2)(x, mask), torch.stack([x[0, 0], torch.zeros(3)]))


def test_the_mask_is_read_where_there_is_one(bert):
    found = asked(bert, TEXTS, MASKED, progress=False)
    assert found.h.dims == ("layer", "pool", "example", "dim")
    assert found.attrs["template"] == MASKED
    for i, text in enumerate(TEXTS):
        ids, state = last(bert, MASKED.format(text))
        want = state[(ids == bert.tokenizer.mask_token_id).nonzero()[0, 0]]
        torch.testing.assert_close(torch.from_numpy(found.h.values[-1, 0, i]), want, atol=1e-5, rtol=1e-5)


def test_the_last_token_of_the_template_is_read_and_not_the_end(base):
    found = asked(base, TEXTS, progress=False, layers=[-1]).h.values[0, 0]
    plain = asked(base, TEXTS, "{}", progress=False, layers=[-1]).h.values[0, 0]
    for i, text in enumerate(TEXTS):
        for given, got in ((f'This sentence : "{text}" means in one word : "', found), (text, plain)):
            ids, state = last(base, given)
            assert ids[-1] == base.tokenizer.eos_token_id
            torch.testing.assert_close(torch.from_numpy(got[i]), state[-2], atol=1e-5, rtol=1e-5)


def test_a_long_text_is_cut_and_the_template_is_not(bert):
    overhead = len(bert.tokenizer(MASKED.format(""))["input_ids"])
    words = " ".join(["word"] * 99)
    found = asked(bert, [words, "word " * 5], MASKED, max_length=overhead + 5, progress=False)
    assert found.tokens.values.tolist() == [overhead + 5] * 2
    assert not found.truncated.any()
    torch.testing.assert_close(found.h.values[:, :, 0], found.h.values[:, :, 1])


@pytest.mark.parametrize(
    ("template", "options", "word"),
    [("no place", {}, "needs {} in the place"), ("{} {}", {}, "once"), ("[MASK] {}", {}, "behind the text"),
     ("{} [MASK] [MASK]", {}, "behind the text"), (MASKED, {"max_length": 9}, "no room for a text")],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(bert, template, options, word):
    with pytest.raises(ValueError, match=word):
        asked(bert, TEXTS, template, progress=False, **options)


def test_a_model_without_words_is_refused():
    with pytest.raises(ValueError, match="no tokenizer that says where"):
        asked(lab.models.tiny("vit", layers=1, dim=16, heads=2), TEXTS)
    assert lab.capture.asked is asked
