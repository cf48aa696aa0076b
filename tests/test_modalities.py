"""lab.training.instructed: answers are the table's, GradCache is exact, a sum of two towers cannot do both tasks."""

import numpy as np
import pytest
import torch

import lab
from lab.training import INSTRUCTIONS, Instruction, instructed
from lab.training.instructions import WORDS, asked, features, joined, tasks
from lab.training.losses.cached import Cached
from lab.training.modalities import DESIGNS, Distinct

IMAGES, LABELS = lab.data.digits()
SHORT = {"layers": 1, "dim": 16, "heads": 2, "steps": 2, "batch": 8, "progress": False}


pytestmark = pytest.mark.usefixtures("plain_torch")


def drawn(design, seed=0):
    torch.manual_seed(seed)
    return DESIGNS[design](16, 2, 2).double()


def wide(features):
    return {name: value.double() if value.is_floating_point() else value for name, value in features.items()}


def mixed(n=3):
    """Queries of a picture, of a word, of both, and of neither word nor instruction."""
    pictures = IMAGES[:n]
    parts = [features("name", pictures, None), features("mirror", None, list(WORDS[:n]))]
    parts += [features("is it", pictures, list(WORDS[:n])), features("", pictures, None)]
    return wide(joined(parts))


def test_the_table_says_what_is_right():
    by_hand = {
        "name": lambda d: WORDS[d],
        "mirror": lambda d: WORDS[9 - d],
        "swap": lambda d: WORDS[d + 1 if d % 2 == 0 else d - 1],
        "parity": lambda d: "odd" if d % 2 else "even",
        "size": lambda d: "large" if d > 4 else "small",
    }
    generator = np.random.default_rng(0)
    for name, form in tasks():
        features, answers = asked(name, INSTRUCTIONS[name], form, IMAGES, LABELS, 40, generator)
        spelled = ["".join(" abcdefghijklmnopqrstuvwxyz."[i - 1] for i in row if i) for row in features["input_ids"]]
        shown = [(IMAGES[:, 0] == patched(row)).all((1, 2)).nonzero() for row in features["pixel_values"]]
        for i, answer in enumerate(answers):
            word = spelled[i].removeprefix(name).strip(" .")
            digit = int(LABELS[shown[i][0, 0]]) if form.startswith(("image", "both")) else WORDS.index(word)
            want = ("yes" if WORDS[digit] == word else "no") if name == "is it" else by_hand[name](digit)
            assert answer == want, (name, form, spelled[i])
        assert bool(features["pictured"].all()) == form.startswith(("image", "both"))


def patched(row):
    """Four patches of 4 x 4 back to a picture."""
    return row.view(2, 2, 4, 4).transpose(1, 2).reshape(8, 8)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_row_is_its_own_whatever_stands_beside_it_and_in_its_padding(design):
    model, features = drawn(design), mixed()
    whole = model(features)["sentence_embedding"]
    for i in range(len(whole)):
        real = int(features["attention_mask"][i].sum())
        own = {name: value[i : i + 1] for name, value in features.items()}
        own |= {name: own[name][:, :real] for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(model(own)["sentence_embedding"][0], whole[i], rtol=1e-9, atol=1e-12)
    assert torch.pdist(whole).min() > 1e-6
    absent = features["pixel_values"].masked_fill(~features["pictured"].bool()[:, None, None], 7.0)
    torch.testing.assert_close(model({**features, "pixel_values": absent})["sentence_embedding"], whole)


def test_a_dual_encoder_adds_and_a_decoder_does_not():
    """score(picture, instruction) is a sum of the two for one, and not for the other."""
    for design, adds in (("dual encoder", True), ("decoder", False)):
        model = drawn(design)
        asked = {(i, name): wide(features(name, IMAGES[i : i + 1], None)) for i in (0, 1) for name in ("name", "swap")}
        e = {key: model(one)["sentence_embedding"][0] for key, one in asked.items()}
        mixed_term = e[0, "name"] - e[0, "swap"] - e[1, "name"] + e[1, "swap"]
        assert (mixed_term.abs().max() < 1e-12) == adds


def test_a_sum_is_right_on_three_of_four_at_most_where_two_instructions_exchange_two_answers():
    """The bound that the docstring states, by drawing sums: f(d) . t + g(instruction) . t over two digits."""
    generator = np.random.default_rng(0)
    f, g = generator.normal(size=(20_000, 2, 1, 2)), generator.normal(size=(20_000, 1, 2, 2))
    said = (f + g).argmax(-1)  # [draw, digit, instruction]
    right = (said[..., 0] == [0, 1]).sum(1) + (said[..., 1] == [1, 0]).sum(1)
    assert right.max() == 3


@pytest.mark.parametrize("design", DESIGNS)
def test_the_loss_is_its_formula_and_mini_batches_have_its_gradient(design):
    model, queries = drawn(design), mixed()
    n = len(queries["pictured"])
    answers = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0])
    sought = wide(features("", None, [WORDS[i] for i in answers]))
    q, t = (torch.nn.functional.normalize(model(one)["sentence_embedding"], dim=1) for one in (queries, sought))
    total = 0.0
    for i in range(n):
        others = [j for j in range(n) if answers[j] != answers[i]]
        scores = torch.stack([5 * q[i] @ t[j] for j in [i, *others]])
        total = total + scores.logsumexp(0) - scores[0]
    total = total / n
    total.backward()
    want = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    for loss in (Distinct(model, 5.0), Cached(model, Distinct(model, 5.0), mini_batch=5)):
        model.zero_grad(set_to_none=True)
        value = loss([dict(queries), dict(sought)], answers)
        value.backward()
        assert value.item() == pytest.approx(total.item(), rel=1e-10)
        for name, parameter in model.named_parameters():
            if name in want:
                torch.testing.assert_close(parameter.grad, want[name], rtol=1e-7, atol=1e-12)
    assert len(want) > 10


@pytest.mark.parametrize("design", DESIGNS)
def test_a_seed_is_a_training_and_mini_batches_change_nothing(design):
    one, again, other = (instructed(IMAGES, LABELS, design, seed=seed, **SHORT) for seed in (3, 3, 4))
    small = instructed(IMAGES, LABELS, design, seed=3, mini_batch=3, **SHORT)
    assert np.array_equal(one.loss, again.loss)
    assert one.loss[0] != other.loss[0]
    np.testing.assert_allclose(small.loss, one.loss, rtol=1e-5)
    assert not one.model.training


def test_it_learns_a_word_for_a_word_in_a_few_steps():
    some = {"swap": Instruction(INSTRUCTIONS["swap"].answers, ("word>word",), ("image>word",))}
    made = instructed(IMAGES, LABELS, instructions=some, **SHORT | {"steps": 60, "batch": 32, "rate": 1e-2})
    right = made.score(IMAGES[:300], LABELS[:300], n=50)
    assert right.part.values.tolist() == ["trained", "held out"]
    assert right[0].mean() > 0.9
    assert right.chance.values.tolist() == [0.1, 0.1]
    assert made.embed("swap", IMAGES[:5], None).shape == (5, 16)


def test_what_cannot_be_trained_is_refused():
    for options, said in (
        ({"design": "triple encoder"}, r"no design 'triple encoder'; there are \['decoder'"),
        ({"batch": 1}, "a batch of 2 or more"),
        ({"dim": 18, "heads": 4}, "a multiple of 2"),
        ({"rate": 0.0}, "positive ones"),
        ({"instructions": {}}, "no instruction has a form"),
    ):
        with pytest.raises(ValueError, match=said):
            instructed(IMAGES, LABELS, **SHORT | options)
    with pytest.raises(ValueError, match=r"pictures \[N, 1, 8, 8\].*got \(1797, 1, 8, 4\)"):
        instructed(IMAGES[..., :4], LABELS, **SHORT)
    with pytest.raises(ValueError, match=r"each of them there; got \[0\]"):
        instructed(IMAGES, LABELS * 0, **SHORT)
    with pytest.raises(ValueError, match="ten answers and different forms"):
        Instruction(WORDS, ("picture>word",))
    with pytest.raises(ValueError, match="a picture answers with a digit"):
        Instruction(("odd", "even") * 5, ("word>image",))
