"""Tasks with known answers: the answer is known because the rule is followed."""

import pytest
import torch

from lab.data.tasks import BigramBackcopy, BlockSearch, Induction, MaxRetrieval


@pytest.mark.parametrize("task", [BigramBackcopy(), Induction(), BlockSearch()])
def test_a_seed_is_a_batch(task):
    one, same, other = task.draw(4, 1), task.draw(4, 1), task.draw(4, 2)
    assert torch.equal(one.ids, same.ids)
    assert not torch.equal(one.ids, other.ids)
    assert one.ids.shape == one.targets.shape == one.counted.shape
    assert torch.equal(one.ids[:, 1:], one.targets[:, :-1])
    assert int(one.ids.max()) < task.vocab


def test_a_trigger_is_followed_by_what_stood_before_it():
    task = BigramBackcopy(length=200)
    drawn = task.draw(8, 0)
    triggers = task.is_trigger(drawn.ids[:, 1:])
    assert triggers.sum() > 20
    assert torch.equal(drawn.targets[:, 1:][triggers], drawn.ids[:, :-1][triggers])
    assert (drawn.ids[:, 0] == 0).all()
    assert not (drawn.ids[:, 1:] == 0).any()


def test_elsewhere_the_text_is_the_chains_and_so_is_the_best_loss():
    task = BigramBackcopy(symbols=5, triggers=1, length=400)
    drawn = task.draw(64, 3)
    counts = torch.zeros(6, 6)
    free = ~task.is_trigger(drawn.ids)
    counts.index_put_((drawn.ids[free], drawn.targets[free]), torch.ones(int(free.sum())), accumulate=True)
    seen = counts / counts.sum(1, keepdim=True).clamp(min=1)
    rows = counts.sum(1) > 500
    torch.testing.assert_close(seen[rows], task.chain[rows], rtol=0, atol=0.03)
    logs = task.chain[drawn.ids, drawn.targets].clamp(min=1e-30).log()
    assert task.best(drawn) == pytest.approx(float(-torch.where(free, logs, 0).mean()), rel=1e-5)


def test_what_is_said_twice_is_known_the_second_time():
    task = Induction(symbols=9, length=7)
    drawn = task.draw(5, 0)
    assert torch.equal(drawn.ids[:, 7:], drawn.ids[:, :6])
    assert drawn.counted.sum(1).tolist() == [6] * 5
    assert torch.equal(drawn.targets[drawn.counted].view(5, 6), drawn.ids[:, 1:7])


def test_one_block_alone_holds_the_letters_asked_for():
    task = BlockSearch(blocks=6, letters=4, asked=2, symbols=8)
    drawn = task.draw(50, 0)
    assert drawn.counted.sum(1).tolist() == [1] * 50
    for ids, target in zip(drawn.ids, drawn.targets[:, -1], strict=True):
        blocks = ids[: 6 * 5].view(6, 5)[:, :4]
        holding = [set(ids[-3:-1].tolist()) <= set(block.tolist()) for block in blocks]
        assert sum(holding) == 1
        assert target == blocks[holding.index(True), 0]


def test_the_class_of_the_largest():
    items, right = MaxRetrieval(classes=4).draw(20, 9, seed=0)
    assert items.shape == (20, 9, 5)
    leader = items[torch.arange(20), items[..., 0].argmax(1)]
    assert torch.equal(leader[:, 1:].argmax(1), right)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BigramBackcopy(symbols=3, triggers=3),
        lambda: BigramBackcopy(length=2),
        lambda: BlockSearch(letters=3, asked=4),
        lambda: BlockSearch(blocks=1),
        lambda: MaxRetrieval().draw(0, 3, 0),
    ],
)
def test_sizes_that_make_no_task_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()
