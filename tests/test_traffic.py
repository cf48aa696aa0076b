"""Traffic against sums done by hand, on operators whose bytes are known."""

import torch

from lab.kernels.traffic import Traffic, least, traffic
from lab.kernels.window_pool import window_pool

MB = 4 * 1000  # bytes of a float32 tensor of 1000


def test_an_operator_reads_its_inputs_and_writes_its_output():
    x, y = torch.ones(1000), torch.ones(1000)
    assert traffic(torch.add, x, y) == {"add": 3 * MB}
    assert traffic(torch.exp, x) == {"exp": 2 * MB}
    assert traffic(torch.sum, x) == {"sum": MB + 4}


def test_steps_add_up_and_the_heaviest_comes_first():
    x = torch.ones(1000)
    moved = traffic(lambda: (x + x).exp().sum())
    assert moved == {"add": 3 * MB, "exp": 2 * MB, "sum": MB + 4}
    assert list(moved) == ["add", "exp", "sum"]


def test_an_operator_in_place_reads_and_writes():
    x = torch.ones(1000)
    assert traffic(lambda: x.add_(1)) == {"add_": 2 * MB}


def test_views_and_memory_not_yet_touched_move_nothing():
    x = torch.ones(10, 100)
    assert traffic(lambda: torch.empty_like(x.view(100, 10).T[3:].expand(2, -1, -1))) == {}


def test_an_expanded_axis_is_in_memory_once():
    x = torch.ones(1000)
    assert least(x.expand(50, -1)) == MB
    assert traffic(lambda: torch.exp(x.expand(50, -1))) == {"exp": MB + 50 * MB}


def test_the_backward_pass_is_seen_too():
    x = torch.ones(1000, requires_grad=True)
    y, dy = x.exp(), torch.ones(1000)
    assert traffic(lambda: torch.autograd.grad(y, x, dy)) == {"mul": 3 * MB}


def test_calls_are_counted_and_nothing_is_after_the_end():
    x = torch.ones(1000)
    with Traffic() as seen:
        x + x + x
    x.exp()
    assert seen.calls == {"add": 2}


def test_our_window_pool_moves_inputs_and_outputs_once_and_the_textbook_does_not():
    x = torch.rand(2, 8, 16, 16)
    ours = traffic(lambda: window_pool(x, "softmax", 2))
    y = window_pool(x, "softmax", 2)
    assert sum(ours.values()) == least(x, y)
    textbook = traffic(
        lambda: torch.nn.functional.avg_pool2d(x * x.exp(), 2) / torch.nn.functional.avg_pool2d(x.exp(), 2)
    )
    assert sum(textbook.values()) > 6 * sum(ours.values())


def test_half_tensors_have_half_the_bytes():
    x = torch.ones(1000, dtype=torch.bfloat16)
    assert sum(traffic(torch.exp, x).values()) == MB
