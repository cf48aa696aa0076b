"""lab.training.smae: the loss by its definition in float64, what is hidden stays hidden, a killed run goes on."""

import math

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from test_losses_models import ANSWERS, DIM, PAIRS, QUERIES, saved

import lab
from lab.training.smae import CutHead, MaskedLoss, hidden, smae

pytestmark = pytest.mark.usefixtures("plain_torch")

TEXTS = [f"{a} {b}" for a, b in zip(QUERIES, ANSWERS, strict=True)]
SHORT = {"pairs": PAIRS, "steps": 6, "batch": 4, "rate": 1e-2, "every": 2, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved("bert", tmp_path_factory.mktemp("bert"))


def fresh(folder, mode="mean"):
    model = SentenceTransformer(modules=[Transformer(folder, max_seq_length=24), Pooling(DIM, mode)], device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    made = {"layers": 3, "dim": DIM, "heads": 2, "pieces": 80, "window": 24, "steps": 1, "batch": 2}
    return lab.training.base(TEXTS, **made, folder=tmp_path_factory.mktemp("base"), progress=False)


def embedder(base):
    return lab.training.embedder(base, "mean, both ways", device="cpu")


def drawn(model):
    given = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    ids, mask = given["input_ids"], given["attention_mask"].bool()
    there = mask & ~torch.isin(ids, torch.tensor(model.tokenizer.all_special_ids))
    return ids, mask, *hidden(there, (0.2, 0.4), torch.Generator().manual_seed(0))


def test_a_head_of_a_width_is_its_first_columns():
    torch.manual_seed(0)
    head, E = CutHead(6, 5).double(), torch.randn(5, 6).double()
    h = torch.randn(3, 4).double()
    W, b = head.dense.weight[:, :4], head.dense.bias
    for i in range(3):
        a = [sum(W[j, k] * h[i, k] for k in range(4)) + b[j] for j in range(6)]
        g = torch.stack([x * (1 + math.erf(x.item() / math.sqrt(2))) / 2 for x in a])
        z = (g - g.mean()) / (g.var(unbiased=False) + head.norm.eps).sqrt()
        torch.testing.assert_close(head(h, E)[i], E @ z + head.bias)
    whole = torch.nn.functional.pad(h, (0, 2))
    torch.testing.assert_close(head(whole, E), head(h, E))


def test_as_many_are_hidden_as_the_shares_say_and_the_fewer_are_among_the_more():
    there = torch.arange(20).expand(3, 20) < torch.tensor([[20], [1], [0]])
    there = there.clone()
    there[0, ::2] = False  # ten that may be hidden
    counts = torch.zeros(20)
    for seed in range(200):
        few, more = hidden(there, (0.2, 0.4), torch.Generator().manual_seed(seed))
        assert few.sum(1).tolist() == [2, 1, 0]
        assert more.sum(1).tolist() == [4, 1, 0]
        assert not (few & ~more).any()
        assert not (more & ~there).any()
        counts += few[0]
    assert counts[there[0]].min() > 20  # of 40 expected: each of them in its turn


def test_the_loss_is_its_definition(folder):
    torch.manual_seed(0)
    model = fresh(folder).double()
    net = MaskedLoss(model, PAIRS, model.tokenizer.mask_token_id).double().eval()
    ids, mask, few, more = drawn(model)
    sign, E = model.tokenizer.mask_token_id, model[0].model.embeddings.word_embeddings.weight
    states = (
        model[0]
        .model(input_ids=ids.masked_fill(few, sign), attention_mask=mask.long(), output_hidden_states=True)
        .hidden_states
    )
    losses = []
    for layer, dim in PAIRS:
        h = states[layer][..., :dim]
        said = [-net.head(h[b, t], E).log_softmax(-1)[ids[b, t]] for b, t in few.nonzero().tolist()]
        told = []
        for b in range(len(ids)):
            n = int(mask[b].sum())
            vector = net.head.widen(h[b, :n].mean(0))
            row = [vector, *(E[sign if more[b, t] else ids[b, t]] for t in range(n))]
            read = torch.stack(row) + net.places[: n + 1]
            out = net.decoder(read[None])[0]  # alone and without padding
            told += [-net.head(out[t + 1], E).log_softmax(-1)[ids[b, t]] for t in range(n) if more[b, t]]
        losses.append((sum(said) / len(said) + sum(told) / len(told)) / 2)
    torch.testing.assert_close(net(ids, mask, few, more), sum(losses) / len(PAIRS))


def test_hidden_tokens_are_read_as_the_sign(folder):
    model = fresh(folder)
    net, seen = MaskedLoss(model, PAIRS, 103), {}
    model[0].model.embeddings.word_embeddings.register_forward_pre_hook(lambda _m, a: seen.update(ids=a[0]))
    net.decoder.register_forward_pre_hook(lambda _m, a: seen.update(read=a[0]))
    ids, mask, few, more = drawn(model)
    net(ids, mask, few, more)
    assert (seen["ids"][few] == 103).all()
    assert torch.equal(seen["ids"][~few], ids[~few])
    E = net.embedding()
    words = seen["read"][:, 1:] - net.places[1 : ids.shape[1] + 1]
    torch.testing.assert_close(words[more], E[103].expand(int(more.sum()), -1))
    torch.testing.assert_close(words[~more], E[ids[~more]])


def test_a_pair_trains_its_layers_and_nothing_above(folder):
    model = fresh(folder)
    net = MaskedLoss(model, [(1, 4), (2, 8)], 103)
    net(*drawn(model)).backward()
    blocks = model[0].model.encoder.layer
    moved = [any(p.grad is not None and bool(p.grad.any()) for p in block.parameters()) for block in blocks]
    assert moved == [True, True, False]
    only = MaskedLoss(model, [(1, 4)], 103)
    states = torch.randn(5, 4)
    only.head(states, only.embedding().detach()).sum().backward()
    assert not only.head.dense.weight.grad[:, 4:].any()


def test_it_learns_what_stands_where_and_leaves_the_caller_alone(base):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    model = embedder(base)
    torch.random.set_rng_state(before)
    curve = smae(TEXTS, model, **SHORT | {"steps": 100, "rate": 2e-2})
    assert torch.equal(torch.random.get_rng_state(), before)
    assert curve.shape == (100,)
    assert curve[-10:].mean() < curve[:10].mean() - 1
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_killed_run_goes_on_to_the_same_bits(base, tmp_path, monkeypatch):
    whole = embedder(base)
    want = smae(TEXTS, whole, **SHORT)
    calls, forward = [], MaskedLoss.forward

    def killed(self, *given):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return forward(self, *given)

    monkeypatch.setattr(MaskedLoss, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        smae(TEXTS, embedder(base), **SHORT, folder=tmp_path)
    monkeypatch.setattr(MaskedLoss, "forward", forward)
    again = embedder(base)
    got = smae(TEXTS, again, **SHORT, folder=tmp_path)
    np.testing.assert_array_equal(got, want)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"holds another run.*seed"):
        smae(TEXTS, embedder(base), **SHORT | {"seed": 1}, folder=tmp_path)


@pytest.mark.parametrize(
    ("given", "word"),
    [({"texts": []}, "one or more"), ({"texts": "a text"}, "in a list"), ({"texts": ["", " "]}, "could be hidden"),
     ({"steps": 0}, "1 or more"), ({"rate": 0.0}, "above 0"), ({"hide": (0.4, 0.2)}, "two shares"),
     ({"hide": (0.0, 0.2)}, "two shares"), ({"pairs": [(4, 8)]}, "0 .embeddings. to 3"), ({"pairs": []}, "list of")],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(base, given, word):
    options = {"texts": TEXTS} | SHORT | given
    with pytest.raises(ValueError, match=word):
        smae(options.pop("texts"), embedder(base), **options)


def test_an_embedding_that_is_not_the_states_width_is_refused(folder):
    with pytest.raises(ValueError, match="32 numbers and the token states 16"):
        smae(TEXTS, fresh(folder, ("mean", "max")), **SHORT)


def test_the_room_has_it():
    assert lab.training.smae is smae
