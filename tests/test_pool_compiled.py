"""Pools that stand ragged rows side by side, under torch.compile: one graph for all sizes, none known beforehand."""

import os
import subprocess
import sys

COMPILE = """
import torch
from lab import pooling
from lab.pooling.gsp import threshold

torch._dynamo.config.error_on_recompile = True  # other sizes fit the first graph
operators = {
    "multihead_attention": pooling.MultiHeadAttentionPool(8, 2),
    "pma": pooling.PMA(8, 2),
    "hopfield": pooling.HopfieldPooling(8, update_steps=1),
    "perceiver": pooling.PerceiverPool(8, num_latents=4),
    "gsp": lambda x, offsets: threshold(x.mean(-1), offsets, 0.3, steps=2),
}
for name, operator in operators.items():
    torch._dynamo.reset()
    compiled = torch.compile(operator, fullgraph=True, dynamic=True, backend="eager")
    for lengths in ([3, 0, 9], [70, 1, 0, 2, 12]):
        a = torch.randn(sum(lengths), 8, requires_grad=True)
        b = a.detach().clone().requires_grad_()
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        got, want = compiled(a, offsets), operator(b, offsets)
        torch.testing.assert_close(got, want, msg=lambda found: name + ": " + found)
        got.square().sum().backward(), want.square().sum().backward()
        torch.testing.assert_close(a.grad, b.grad, msg=lambda found: name + ": " + found)
    print(name)
"""


EVERY = """
import torch
from lab.pooling import POOLS
from lab.pooling.calls import token_inputs

NAMES = "mean last gem lse norm_weighted_mean key_value".split()
torch._dynamo.config.error_on_recompile = True
lengths = ([3, 0, 9], [70, 1, 0, 2, 12])
for name in NAMES:
    torch._dynamo.reset()
    pool = POOLS[name](8).eval()
    compiled = torch.compile(pool, fullgraph=True, dynamic=True, backend="aot_eager")
    for some in lengths:
        x, offsets = torch.randn(sum(some), 8), torch.tensor([0, *some]).cumsum(0)
        inputs = token_inputs(name, x, offsets)
        torch.testing.assert_close(compiled(*inputs), pool(*inputs), msg=lambda found: name + ": " + found)
    print(name)
"""


def test_ragged_rows_of_any_length_fit_one_graph():
    """In a Python of its own: the types that tests check would break the graph."""
    env = os.environ | {"PYTHONWARNINGS": "ignore"}
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=env, check=False)
    assert run.stdout.split() == ["multihead_attention", "pma", "hopfield", "perceiver", "gsp"], run.stderr[-3000:]


def test_token_pools_of_each_kind_compile_ragged_rows_into_one_graph():
    """Sums, places, powers, exponentials, weights and codes: the others share their steps, or stand above."""
    env = os.environ | {"PYTHONWARNINGS": "ignore"}
    run = subprocess.run([sys.executable, "-c", EVERY], capture_output=True, text=True, env=env, check=False)
    assert run.stdout.split()[-1] == "key_value", run.stderr[-3000:]
