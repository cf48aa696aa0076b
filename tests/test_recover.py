"""lab.probes.recover: a linear map is found, noise is not, and leave-one-out is what it says."""

import numpy as np
import pytest

from lab import probes
from lab.probes.recover import _leave_one_out


def test_what_is_a_linear_map_is_read_back_and_what_is_not_is_not():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 12))
    linear = 3 + x @ draw.normal(size=(12, 5))
    sources = {"itself": x, "half": x[:, :6], "scaled": 1e-4 * x + 7, "noise": draw.normal(size=(400, 12))}
    found = probes.recover(sources, {"linear": linear, "itself": x})
    assert found.dims == ("source", "target")
    assert found.sel(source=["itself", "scaled"]).values == pytest.approx(1, abs=1e-6)
    assert found.sel(source="half", target="itself").item() == pytest.approx(0.5, abs=0.05)
    assert found.sel(source="noise").max() < 0.05
    assert found.sel(source="noise").min() > -0.1  # the penalty keeps it from doing harm


def test_noise_beside_a_signal_is_shrunk():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(80, 60))
    y = x[:, :1] + draw.normal(size=(80, 1))
    assert probes.recover({"x": x}, {"y": y}).item() > -0.2  # without a penalty 60 weights on 60 rows go far below


def test_leave_one_out_is_the_error_of_leaving_each_out():
    draw = np.random.default_rng(2)
    x, y, penalty = draw.normal(size=(9, 3)), draw.normal(size=(9, 2)), 0.7
    x -= x.mean(0)
    # the intercept is not penalised: centre within what is left
    slow = 0.0
    for i in range(9):
        rest = np.arange(9) != i
        mx, my = x[rest].mean(0), y[rest].mean(0)
        a, b = x[rest] - mx, y[rest] - my
        w = np.linalg.solve(a.T @ a + penalty * np.eye(3), a.T @ b)
        slow += np.square(y[i] - my - (x[i] - mx) @ w).sum()
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    centred = y - y.mean(0)
    fast, _ = _leave_one_out(u, s, u.T @ centred, centred, penalty)
    assert fast == pytest.approx(slow, rel=1e-9)


def test_a_constant_source_knows_nothing():
    y = np.random.default_rng(3).normal(size=(40, 2))
    found = probes.recover({"flat": np.full((40, 3), 1e6)}, {"y": y}).item()
    assert -1 < found <= 0  # the training rows' mean is not quite that of the others


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"same rows; got \{'a': 8, 'b': 7\}"):
        probes.recover({"a": np.zeros((8, 2))}, {"b": np.zeros((7, 2))})
    with pytest.raises(ValueError, match="two rows or more to train on and to test on"):
        probes.recover({"a": np.zeros((4, 2))}, {"b": np.zeros((4, 2))})
