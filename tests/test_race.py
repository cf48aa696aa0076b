"""The race's rules: turns, repeats, one graph a backward pass. Clocks are set by hand; nothing here looks at a time."""

import math

import pytest
import torch

from lab.kernels import race


@pytest.fixture
def calls_take(monkeypatch):
    """Every call is made, and said to have taken so many seconds."""

    def set_to(seconds):
        def clock(function, device="cpu"):
            function()
            return seconds

        monkeypatch.setattr(race, "clock", clock)

    return set_to


def test_every_other_round_goes_the_other_way_about():
    order = []
    variants = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    seen = race.race(variants, 3)
    assert "".join(order) == "abccbaabc"
    assert seen == {name: [1.0] * 3 for name in "abc"}


def test_no_round_begins_without_patience_but_the_first():
    assert race.race({"a": lambda: 1.0}, 5, patience=-1.0) == {"a": [1.0]}


def test_a_ratio_is_of_one_round():
    assert race.ratio([1.0, 4.0, 9.0], [2.0, 4.0, 3.0]) == (1.0, 0.5, 3.0)


@pytest.mark.parametrize(("seconds", "repeats"), [(1e-5, 100), (race.SAMPLE / 3, 3), (1.0, 1), (0.0, race.MOST)])
def test_short_calls_are_repeated_until_a_sample_is_full(calls_take, seconds, repeats):
    calls_take(seconds)
    given = []
    found = race.sample(given.append, prepare=object)
    assert len(given) == 1 + repeats  # one to be warm
    assert len({id(each) for each in given}) == len(given)
    assert found == seconds / repeats


def test_a_graph_is_walked_back_once(calls_take):
    calls_take(1e-4)
    x = torch.ones(3, requires_grad=True)
    made, walked = [], []

    def function():
        y = x * 2
        if y.requires_grad:
            made.append(y)
            y.register_hook(lambda _: walked.append(len(made)))
        return y

    forward, backward = race.forward_backward(function, [x])
    assert forward == backward == pytest.approx(1e-5)
    assert len(walked) == 11  # one to be warm, ten to be timed
    assert len(made) == 12  # and the one that dy has its shape from


def test_what_has_no_gradient_has_no_time_of_it():
    x = torch.ones(3)
    assert math.isnan(race.forward_backward(lambda: x * 2, [])[1])
    assert math.isnan(race.forward_backward(lambda: x * 2, [x])[1])
