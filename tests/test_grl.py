"""GRL: preferring by a formula with known limits, a decoder that learns it, a reference that nothing moves."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from test_losses_models import ANSWERS, DIM, PAIRS, QUERIES, WRONG, assert_same, features, gradients, saved
from torch import nn

import lab
from lab.training.losses import LOSSES
from lab.training.losses.cached import Cached
from lab.training.losses.grl import preference

pytestmark = pytest.mark.usefixtures("plain_torch")

WORSE = ["no", "delete all of it", "sys", "y", "d", "return", "an empty line"]
TABLE = pd.DataFrame({"query": QUERIES, "positive": ANSWERS, "negative": WRONG, "negative_2": WORSE})
SHORT = {"steps": 6, "batch": 3, "rate": 1e-2, "every": 2, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def model(folder):
    given = SentenceTransformer(modules=[Transformer(folder), Pooling(DIM, "mean")], device="cpu").double().train()
    given[0].model.config.tie_word_embeddings = True
    return given


def moved(model, by=0.3):
    """The model after some training, as far as its reference can tell."""
    with torch.no_grad():
        for weight in model[0].model.parameters():
            if weight.requires_grad:
                weight += by * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
    return model


def said(transformer, query, document, tokenizer):
    """log p(document | query), token by token."""
    start, end = tokenizer(query)["input_ids"], tokenizer(document)["input_ids"]
    ids = torch.tensor([start + end])
    logs = (transformer(input_ids=ids).last_hidden_state @ transformer.get_input_embeddings().weight.T).log_softmax(-1)
    return math.fsum(logs[0, t - 1, ids[0, t]].item() for t in range(len(start), ids.shape[1]))


# preference


def test_preference_is_its_formula():
    drawn = [5 * torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    got = preference(*drawn, beta=0.3)
    c, r, c_ref, r_ref = (x.tolist() for x in drawn)
    margin = [(c[i] - c_ref[i]) - (r[i] - r_ref[i]) for i in range(6)]
    want = [-math.log(1 / (1 + math.exp(-0.3 * m))) for m in margin]
    assert got.tolist() == pytest.approx(want, rel=1e-12)
    slopes = torch.autograd.grad(got.sum(), drawn, allow_unused=True)
    slope = [-0.3 / (1 + math.exp(0.3 * m)) for m in margin]
    assert slopes[0].tolist() == pytest.approx(slope, rel=1e-12)
    assert slopes[1].tolist() == pytest.approx([-s for s in slope], rel=1e-12)
    assert slopes[2:] == (None, None)


def test_gradients_are_those_of_differences():
    held = [torch.randn(4, dtype=torch.float64) for _ in range(2)]
    drawn = [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda c, r: preference(c, r, *held, beta=0.7), drawn)
    assert torch.autograd.gradgradcheck(lambda c, r: preference(c, r, *held, beta=0.7), drawn)


def test_limits():
    c, r = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    zero, log2 = torch.zeros(5, dtype=torch.float64), torch.full((5,), math.log(2), dtype=torch.float64)
    torch.testing.assert_close(preference(c, r, c, r, beta=3.0), log2)  # as the reference says
    torch.testing.assert_close(preference(c, r, c + 7, r + 7, beta=3.0), log2)  # both answers as much likelier
    torch.testing.assert_close(preference(c, r, zero, zero, beta=1e-12), log2)
    far = torch.tensor([1e4, -1e4], dtype=torch.float64, requires_grad=True)
    value = preference(far, *zero[:2].expand(3, 2), beta=0.5)
    assert value.tolist() == [0, 5000]
    assert torch.autograd.grad(value.sum(), far)[0].tolist() == [0, -0.5]


def test_half_precision_is_widened_before_it_is_subtracted():
    c, r = torch.tensor([-100.0, -300.0]), torch.tensor([-100.5, -299.0])
    got = preference(*(x.bfloat16() for x in (c, r, c - 1, r - 0.5)))
    c, r, c_ref, r_ref = (x.bfloat16().double() for x in (c, r, c - 1, r - 0.5))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), preference(c, r, c_ref, r_ref), rtol=1e-6, atol=0)


def test_preference_refuses():
    one = torch.zeros(3)
    with pytest.raises(ValueError, match="one shape"):
        preference(one, one, one, torch.zeros(1))
    for beta in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta must be"):
            preference(one, one, one, one, beta=beta)


# the loss


def test_at_first_it_is_agreement_and_log_two(model):
    agreement, loss = LOSSES["agreement"](model), LOSSES["grl"](model, preference=0.5)
    columns = features(model, QUERIES, ANSWERS, WRONG)
    want = agreement(columns).item() + math.log(2) / 2
    assert loss(columns).item() == pytest.approx(want, rel=1e-12)
    model.eval()
    assert loss(columns).item() == pytest.approx(want, rel=1e-12)


def test_the_term_is_its_definition_over_every_negative(model):
    """Against passes of one text at a time, by the weights of the beginning and by those of now."""
    loss, first = LOSSES["grl"](model, beta=0.2, preference=3.0), copy.deepcopy(model[0].model).eval()
    moved(model)
    total = []
    for query, *documents in zip(QUERIES, ANSWERS, WRONG, WORSE, strict=True):
        now, then = (
            [said(transformer, query, document, model.tokenizer) for document in documents]
            for transformer in (model[0].model, first)
        )
        total += [math.log1p(math.exp(-0.2 * ((now[0] - then[0]) - (now[k] - then[k])))) for k in (1, 2)]
    columns = features(model, QUERIES, ANSWERS, WRONG, WORSE)
    got = loss.besides(columns)
    assert got.item() == pytest.approx(3 * math.fsum(total) / len(total), rel=1e-10)
    assert loss(columns).item() == pytest.approx(LOSSES["agreement"](model)(columns).item() + got.item(), rel=1e-12)


def test_dropout_is_off_while_the_decoder_reads(tmp_path):
    small = lab.models.tiny("gpt2", layers=2, dim=DIM, heads=2)
    given = lab.training.embedder(small, "mean, causal", device="cpu").double().train()
    assert any(isinstance(part, nn.Dropout) and part.p > 0 for part in given.modules())
    given[0].model.config.tie_word_embeddings = True
    loss = LOSSES["grl"](given).train()
    assert loss.besides(features(given, QUERIES, ANSWERS, WRONG)).item() == pytest.approx(math.log(2), rel=1e-12)
    assert all(part.training for part in given.modules())


def test_every_weight_of_the_decoder_gets_a_gradient_and_a_step_prefers_the_positive(model):
    loss = LOSSES["grl"](model)
    columns = features(model, QUERIES, ANSWERS, WRONG)
    before = loss.besides(columns)
    before.backward()
    own = dict(model[0].model.named_parameters())
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in own.values())
    assert not any(weight.requires_grad or weight.grad is not None for weight in loss.reference.parameters())
    with torch.no_grad():
        for weight in own.values():
            weight -= 0.01 * weight.grad
    after = loss.besides(columns)
    assert after < before - 1e-3
    assert torch.isfinite(after)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_nothing(model, side):
    loss = LOSSES["grl"](model)
    moved(model)
    one = [gradients(loss.besides, model, features(model, *([text] for text in row)))
           for row in zip(QUERIES, ANSWERS, WRONG, strict=True)]  # fmt: skip
    model.tokenizer.padding_side = side
    columns = features(model, QUERIES, ANSWERS, WRONG)
    assert any(not bool(column["attention_mask"].all()) for column in columns)
    for column in columns:
        column["input_ids"] = column["input_ids"].where(column["attention_mask"].bool(), 9)  # any token may pad
    value, grads = gradients(loss.besides, model, columns)
    assert value == pytest.approx(sum(value for value, _ in one) / len(one), rel=1e-6)  # llama norms in float32
    for name, grad in grads.items():
        want = sum(alone[name] for _, alone in one) / len(one)
        torch.testing.assert_close(grad, want, rtol=1e-5, atol=1e-6 * want.abs().max().item(), msg=name)


# GradCache


@pytest.mark.parametrize(("mini_batch", "layers"), [(3, False), (100, False), (3, True)])
def test_in_pieces_it_is_the_same_loss_and_gradient(model, mini_batch, layers):
    inner = LOSSES["grl"](model, preference=2.0)
    if layers:
        inner = LOSSES["starbucks"](model, inner, pairs=PAIRS)
    moved(model)
    texts = QUERIES, ANSWERS, WRONG, WORSE
    whole = gradients(inner, model, features(model, *texts))
    pieces = gradients(Cached(model, inner, mini_batch=mini_batch), model, features(model, *texts))
    assert_same(pieces, whole)
    with torch.no_grad():
        assert Cached(model, inner, mini_batch=mini_batch)(features(model, *texts)).item() == pytest.approx(whole[0])


def test_the_losses_of_many_layers_add_the_term_once(model):
    loss = LOSSES["grl"](model)
    columns = features(model, QUERIES, ANSWERS, WRONG)
    for name, options in {"starbucks": {"pairs": PAIRS}, "matryoshka_2d": {"dims": [4, 8], "layers": [1]}}.items():
        torch.manual_seed(0)
        whole = LOSSES[name](model, loss, **options)(columns)
        torch.manual_seed(0)
        without = LOSSES[name](model, LOSSES["agreement"](model), **options)(columns)
        assert (whole - without).item() == pytest.approx(math.log(2), rel=1e-9)


def test_in_pieces_no_pass_is_larger_and_its_activations_are_made_again(model):
    passes = []
    loss = Cached(model, LOSSES["grl"](model), mini_batch=2)
    handle = model[0].model.register_forward_hook(  # sentence-transformers embeds by .forward, which has no hooks
        lambda _module, _args, kwargs, output: passes.append(
            (len(kwargs["input_ids"]), output.last_hidden_state.requires_grad)
        ),
        with_kwargs=True,
    )
    value = loss(features(model, QUERIES, ANSWERS, WRONG))
    assert passes == 2 * [(7, False)] + 6 * [(2, True)] + 2 * [(1, True)]  # the KL's teacher, then four pieces
    value.backward()
    handle.remove()
    assert sorted(passes[10:]) == 2 * [(1, True)] + 6 * [(2, True)]


# the reference


def test_weights_that_are_not_trained_stand_in_both(model):
    held = model[0].model.layers[0].requires_grad_(False)
    loss = LOSSES["grl"](model)
    theirs = {id(weight) for weight in loss.reference.parameters()}
    assert {id(weight) for weight in held.parameters()} <= theirs
    assert not theirs & {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert sum(weight.requires_grad for weight in loss.parameters()) == sum(w.requires_grad for w in model.parameters())
    moved(model)
    got = loss.besides(features(model, QUERIES, ANSWERS, WRONG))
    got.backward()
    assert got.item() != pytest.approx(math.log(2), rel=1e-3)
    assert all(weight.grad is None for weight in held.parameters())


def test_with_adapters_the_reference_has_its_own_adapters_alone(folder, tmp_path):
    given = lab.training.embedder(folder, "mean, causal", lora=2, device="cpu")
    given[0].model.config.tie_word_embeddings = True
    loss = LOSSES["grl"](given)
    copies = {id(w) for w in loss.reference.parameters()} - {id(w) for w in given.parameters()}
    assert len(copies) == sum(w.requires_grad for w in given[0].parameters())
    columns = features(given, QUERIES, ANSWERS, WRONG)
    assert loss.besides(columns).item() == pytest.approx(math.log(2), rel=1e-6)
    moved(given)
    assert loss.besides(columns).item() != pytest.approx(math.log(2), rel=1e-3)


def test_a_head_of_ones_own_is_trained_and_has_a_reference(model):
    model[0].model.config.tie_word_embeddings = False
    head = nn.Linear(DIM, len(model.tokenizer), bias=False).double()
    loss = LOSSES["grl"](model, head=head)
    columns = features(model, QUERIES, ANSWERS, WRONG)
    loss(columns).backward()
    assert head.weight.grad.abs().max() > 0
    whole = head.weight.grad.clone()
    head.zero_grad()
    Cached(model, loss, mini_batch=2)(features(model, QUERIES, ANSWERS, WRONG)).backward()
    torch.testing.assert_close(head.weight.grad, whole)
    with torch.no_grad():
        head.weight += torch.randn_like(head.weight)
    assert loss.besides(columns).item() != pytest.approx(math.log(2), rel=1e-3)


def fresh(folder):
    given = lab.training.embedder(folder, "mean, causal", device="cpu")
    given[0].model.config.tie_word_embeddings = True
    return given


def test_a_run_that_goes_on_has_the_reference_of_the_beginning(folder, tmp_path):
    def stop(step, _):
        if step == 4:  # the checkpoint that is there is that of step 2
            raise KeyboardInterrupt

    whole = lab.training.contrastive(TABLE, fresh(folder), loss="grl", **SHORT)
    with pytest.raises(KeyboardInterrupt):
        lab.training.contrastive(TABLE, fresh(folder), loss="grl", folder=tmp_path, see=stop, **SHORT)
    on = lab.training.contrastive(TABLE, fresh(folder), loss="grl", folder=tmp_path, **SHORT)
    for name in ("loss", "grad_norm"):
        np.testing.assert_array_equal(on.curve[name], whole.curve[name])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(on.model.state_dict()[name], value), name
    assert not torch.equal(whole.model[0].model.norm.weight, fresh(folder)[0].model.norm.weight)


def test_training_makes_the_positive_the_likelier(folder):
    given = fresh(folder)
    loss = LOSSES["grl"](given)
    lab.training.contrastive(TABLE, given, loss=lambda _: loss, **SHORT | {"steps": 20})
    assert loss.besides(features(given, QUERIES, ANSWERS, WRONG, WORSE)) < 0.9 * math.log(2)


def test_it_refuses(model):
    with pytest.raises(TypeError, match="must be a module"):
        LOSSES["grl"](model, head=lambda states: states)
    for option in ("weight", "preference", "beta", "scale"):
        with pytest.raises(ValueError, match=f"{option} must be"):
            LOSSES["grl"](model, **{option: 0.0})
    with pytest.raises(ValueError, match="2 columns"):
        LOSSES["grl"](model)(features(model, QUERIES, ANSWERS))
