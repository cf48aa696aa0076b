"""Other people's geometry: the same numbers where it is right, and by name where it is not.

Faults of code that is no package stand beside the numbers' own tests: reptrix, information_flow, repitl, resi,
ckatorch.
"""

import math

import numpy as np
import pytest
import torch

from lab import geometry


def peer(name: str, how: str = "pip install -e .[dev] brings it"):
    return pytest.importorskip(
        name, reason=f"AGREEMENT NOT TESTED: {name} is not installed; {how}", exc_type=ImportError
    )


def drawn(n=300, d=4, wide=9):
    """Gaussian rows in d of `wide` dimensions, away from the origin."""
    x = torch.randn(n, d, dtype=torch.float64) * torch.linspace(0.3, 2, d)
    return x @ torch.linalg.qr(torch.randn(wide, d, dtype=torch.float64)).Q.T + 4


def test_scikit_dimension_agrees_where_no_rows_are_equal_and_reads_copies_as_no_dimension():
    skdim = peer("skdim", 'pip install -e ".[peers]" brings it, and matplotlib, which lab.data.docstrings then reads')
    x = drawn()
    theirs = skdim.id.TwoNN(discard_fraction=0.1).fit(x.numpy()).dimension_
    assert geometry.two_nn(x).item() == pytest.approx(theirs, rel=1e-9)
    likelihood = skdim.id.MLE(K=20).fit(x.numpy())
    # theirs is 1 / mean of 1 / d with 1 / (k - 1), as MacKay and Ghahramani have it
    assert geometry.levina_bickel(x, 20).item() == pytest.approx(likelihood.dimension_, rel=1e-9)
    copied = torch.cat([x, x[:30]])
    with np.errstate(divide="ignore", invalid="ignore"):
        assert skdim.id.MLE(K=20).fit(copied.numpy()).dimension_ == 0
    assert geometry.levina_bickel(copied, 20).item() == pytest.approx(likelihood.dimension_, rel=0.15)


def test_isoscore_agrees_with_its_authors_package():
    package = peer("IsoScore.IsoScore")
    x = drawn(d=9)
    assert geometry.isoscore(x).item() == pytest.approx(float(package.IsoScore(x.numpy())), rel=1e-6)


def test_netrep_agrees_on_shapes_and_calls_an_angle_cka():
    """netrep is on no package index. test_geometry_similarity.py holds the same two numbers against their definition,
    the rotation itself, found and applied by numpy: nothing of ours is in it."""
    metrics = peer("netrep.metrics", "pip install git+https://github.com/ahwillia/netrep brings it")
    x, y = drawn(d=5), drawn(wide=6)
    a, b = (side.numpy() for side in (x, y))
    angle = metrics.LinearMetric(alpha=1.0, score_method="angular").fit_score(a, b)
    assert geometry.angular(x, y) == pytest.approx(angle, rel=1e-9)
    units = [(side - side.mean(0)) / np.linalg.norm(side - side.mean(0)) for side in (a, b)]
    distance = metrics.LinearMetric(alpha=1.0, score_method="euclidean").fit_score(*units)
    assert geometry.procrustes(x, y) == pytest.approx(distance, rel=1e-9)
    # LinearCKA.score: an angle, 0 for equal spaces, of the biased ratio, which strangers do not bring to a right one
    assert metrics.LinearCKA().score(a, a) == pytest.approx(0, abs=1e-6)
    assert geometry.linear_cka(x, x) == pytest.approx(1)
    wide, strange = (torch.randn(64, 60, dtype=torch.float64) for _ in range(2))
    assert metrics.LinearCKA().score(wide.numpy(), strange.numpy()) < math.acos(0.3)
    assert abs(geometry.linear_cka(wide, strange)) < 0.1
