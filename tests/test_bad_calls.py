"""Every wrong call of an operator is refused by the operator: in words, with what came, and never with an answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_calls import FAMILIES


@pytest.fixture(scope="module")
def told():
    """What came of each call in a Python of its own: in this one the types in the signatures would answer first."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    env.pop("TRITON_INTERPRET", None)
    run = subprocess.run([sys.executable, "-m", "bad_calls"], capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return list(map(json.loads, run.stdout.splitlines()))


def refused(came):
    """A ValueError or TypeError that the operator raises itself, and not what it stands on, with what it was given."""
    if isinstance(came, str):
        return False
    error, words, ours = came
    given = any(said in words for said in ("got", "has", "there are", "are none", "the output is", "missing"))
    return ours and given and error in {"ValueError", "TypeError"}


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_calls_are_refused_in_words(family, told):
    mine = {name: came for which, name, came in told if which == family}
    assert len(mine) > 30
    assert {name: came for name, came in mine.items() if not refused(came)} == {}
