"""lab.training.losses on tiny models: layers in one pass, GradCache to the same gradient, the trainer."""

import copy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModelForCausalLM

import lab
from lab.pooling.interchange import LayerPooling
from lab.pooling.layers import SoftmaxMix
from lab.pooling.token import MeanPool
from lab.training.losses import LOSSES, contrast
from lab.training.losses.cached import Cached
from lab.training.losses.contrast import Batch, InfoNCE
from lab.training.losses.layers import coordinate_agreement, layer_vectors, parts, score_agreement

DIM, DEPTH = 16, 3
QUERIES = ["mean of an array", "sort", "the largest value there is", "open a file", "a", "draw a line", "close it"]
ANSWERS = ["return sum(x) / len(x)", "return sorted(x)", "max", "open(path)", "b", "line(x, y) of a plot", "f.close()"]
WRONG = ["print", "return None", "import os", "x = 1", "c is d", "pass", "raise an error that says what was wrong"]
PAIRS = [(1, 4), (2, 8), (3, 16)]


def saved(kind, folder):
    small = lab.models.tiny(kind, layers=DEPTH, dim=DIM, heads=2, seed=1)
    small.model.save_pretrained(folder)
    small.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: saved(kind, tmp_path_factory.mktemp(kind)) for kind in ("bert", "llama")}


def fresh(folders, kind="bert"):
    model = SentenceTransformer(modules=[Transformer(folders[kind]), Pooling(DIM, "mean")], device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.double().train()


@pytest.fixture
def bert(folders):
    return fresh(folders)


def features(model, *columns):
    return [dict(model.preprocess(column)) for column in columns]


def gradients(loss, model, *inputs):
    model.zero_grad()
    value = loss(*inputs)
    value.backward()
    return value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(a, b):
    assert a[0] == pytest.approx(b[0], rel=1e-12)
    assert a[1].keys() == b[1].keys()
    largest = max(g.abs().max().item() for g in b[1].values())
    for name in b[1]:
        torch.testing.assert_close(a[1][name], b[1][name], rtol=1e-9, atol=1e-11 * largest, msg=name)


# layers


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_layers_are_transformers_hidden_states(folders, kind):
    model = fresh(folders, kind)
    (one,) = features(model, QUERIES)
    got = layer_vectors(model, one, range(DEPTH + 1))
    states = model[0].model(**one, output_hidden_states=True).hidden_states
    mask = one["attention_mask"][..., None].double()
    want = torch.stack([(state * mask).sum(1) / mask.sum(1) for state in states], 1)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got[:, -1], model(dict(one))["sentence_embedding"], rtol=1e-12, atol=1e-14)


def test_layer_k_is_the_model_of_k_blocks(bert):
    (one,) = features(bert, QUERIES)
    got = layer_vectors(bert, one, [1, 2])
    for k in (1, 2):
        shallow = copy.deepcopy(bert)
        shallow[0].model.encoder.layer = shallow[0].model.encoder.layer[:k]
        shallow[0].model.config.num_hidden_layers = k
        torch.testing.assert_close(got[:, k - 1], shallow(dict(one))["sentence_embedding"], rtol=1e-12, atol=1e-14)


def test_the_final_norm_is_given_to_states_between_and_once_to_the_last(folders):
    model = fresh(folders, "llama")
    (one,) = features(model, QUERIES)
    norm = model[0].model.norm
    torch.nn.init.uniform_(norm.weight)
    plain, normed = (layer_vectors(model, one, [1, DEPTH], final_norm=name) for name in (None, "norm"))
    states = model[0].model(**one, output_hidden_states=True).hidden_states
    mask = one["attention_mask"][..., None].double()
    torch.testing.assert_close(normed[:, 0], (norm(states[1]) * mask).sum(1) / mask.sum(1), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(plain[:, 0], normed[:, 0])
    assert torch.equal(plain[:, 1], normed[:, 1])
    with pytest.raises(ValueError, match="no module 'gone'"):
        layer_vectors(model, one, [1], final_norm="gone")


def test_no_hook_is_left_behind(bert):
    (one,) = features(bert, QUERIES)
    layer_vectors(bert, one, [0, 1])
    with pytest.raises(ValueError, match=r"no layer \[9\]"):
        layer_vectors(bert, one, [9])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in bert[0].model.modules())


def test_models_without_layers_to_read_are_refused(folders):
    pooled = SentenceTransformer(
        modules=[Transformer(folders["bert"]), LayerPooling(MeanPool(DIM), SoftmaxMix(DIM, DEPTH + 1))], device="cpu"
    )
    (one,) = features(pooled, QUERIES)
    with pytest.raises(ValueError, match="pools over its layers itself"):
        layer_vectors(pooled, one, [1])
    with pytest.raises(TypeError, match="must be a SentenceTransformer"):
        parts(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="first module"):
        parts(torch.nn.Sequential(torch.nn.Linear(2, 2)))


# Starbucks and 2D Matryoshka


@pytest.mark.parametrize("agreement", [score_agreement, coordinate_agreement])
def test_starbucks_is_its_sum(bert, agreement):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    given = features(bert, QUERIES, ANSWERS, WRONG)
    vectors = [layer_vectors(bert, one, range(DEPTH + 1)) for one in given]
    peer = MultipleNegativesRankingLoss(bert)
    cut = [[v[:, layer, :dim] for v in vectors] for layer, dim in PAIRS]
    want = sum(peer.compute_loss_from_embeddings(part, None) for part in cut)
    want = want + 0.5 * sum(agreement(part, [x.detach() for x in cut[-1]]) for part in cut[:-1])
    for inner in (None, peer):
        loss = LOSSES["starbucks"](bert, inner, pairs=PAIRS, kl=0.5, agreement=agreement)
        assert loss(given).item() == pytest.approx(want.item(), rel=1e-12)


def test_one_layer_of_several_widths_is_matryoshka(bert):
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

    ours = LOSSES["starbucks"](bert, pairs=[(DEPTH, 4), (DEPTH, 8), (DEPTH, DIM)], kl=0.0)
    theirs = MatryoshkaLoss(bert, MultipleNegativesRankingLoss(bert), [DIM, 8, 4])
    mine = gradients(ours, bert, features(bert, QUERIES, ANSWERS), None)
    assert_same(mine, gradients(theirs, bert, features(bert, QUERIES, ANSWERS), None))


def test_the_last_pair_is_not_moved_by_agreement(bert):
    given = features(bert, QUERIES, ANSWERS)
    with_kl, without = (LOSSES["starbucks"](bert, pairs=[(1, 8), (DEPTH, DIM)], kl=kl) for kl in (3.0, 0.0))
    moved, plain = (gradients(loss, bert, given)[1] for loss in (with_kl, without))
    last = [name for name in plain if f"layer.{DEPTH - 1}." in name]
    assert last
    assert all(torch.equal(moved[name], plain[name]) for name in last)
    assert any(not torch.equal(moved[name], plain[name]) for name in plain if "layer.0." in name)


@pytest.mark.parametrize(
    ("pairs", "word"),
    [([], "list of"), ([(1,)], "list of"), ([(4, 8)], "0 .embeddings. to 3"), ([(1, 17)], "1 to 16"),
     ([(1, 8), (1, 8)], "stand once")],
)  # fmt: skip
def test_starbucks_refuses(bert, pairs, word):
    with pytest.raises(ValueError, match=word):
        LOSSES["starbucks"](bert, pairs=pairs)


def test_matryoshka_2d_draws_a_layer_and_a_width(bert):
    given = features(bert, QUERIES, ANSWERS)
    loss = LOSSES["matryoshka_2d"](bert, dims=[4, 8])
    vectors = [layer_vectors(bert, one, [1, 2, DEPTH]) for one in given]
    nce = InfoNCE(bert)
    wants = {}
    for at in (0, 1):
        for dim in (4, 8):
            last, early = [v[:, -1] for v in vectors], [v[:, at] for v in vectors]
            four = [last, early, [x[:, :dim] for x in last], [x[:, :dim] for x in early]]
            total = sum(nce.of(Batch(part)) for part in four) + coordinate_agreement(early, last)
            wants[at, dim] = round(total.item(), 9)
    torch.manual_seed(0)
    columns = [loss.embed(one) for one in given]
    seen = {round(loss.of(Batch(columns)).item(), 9) for _ in range(40)}
    assert seen == set(wants.values())
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("options", "word"),
    [({"dims": []}, "widths from 1 to 15"), ({"dims": [16]}, "widths from 1 to 15"),
     ({"dims": [4], "layers": [3]}, "some of 0 .. 2"), ({"dims": [4], "layers": []}, "some of 0 .. 2")],
)  # fmt: skip
def test_matryoshka_2d_refuses(bert, options, word):
    with pytest.raises(ValueError, match=word):
        LOSSES["matryoshka_2d"](bert, **options)


# GradCache


OPTIONS = {
    "in_batch_or_own": lambda _: {},
    "focal": lambda _: {"gamma": 1.0},
    "mixing": lambda _: {"hard": 3, "pairs": 2},
    "positive_aware": lambda _: {},
    "coupled": lambda folders: {"selector": fresh(folders)},
    "starbucks": lambda _: {"pairs": PAIRS},
    "matryoshka_2d": lambda _: {"dims": [4, 8]},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("mini_batch", [3, 100])
def test_cached_is_the_same_loss_and_gradient(bert, folders, name, mini_batch):
    inner = LOSSES[name](bert, **OPTIONS[name](folders))
    torch.manual_seed(0)
    whole = gradients(inner, bert, features(bert, QUERIES, ANSWERS, WRONG))
    torch.manual_seed(0)
    pieces = gradients(Cached(bert, inner, mini_batch=mini_batch), bert, features(bert, QUERIES, ANSWERS, WRONG))
    assert_same(pieces, whole)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("name", ["in_batch_or_own", "starbucks"])
def test_columns_in_one_pass_give_what_each_gives_in_its_own(folders, kind, name, monkeypatch):
    model, passes = fresh(folders, kind), []
    model.tokenizer.padding_side = "right"
    model[0].register_forward_pre_hook(lambda _module, args: passes.append(len(args[0]["input_ids"])))
    loss, texts = LOSSES[name](model, **OPTIONS[name](folders)), (QUERIES, ANSWERS, WRONG)
    one = gradients(loss, model, features(model, *texts))
    assert passes == [21]
    monkeypatch.setattr(contrast, "as_one", lambda _: None)
    each = gradients(loss, model, features(model, *texts))
    assert passes == [21, 7, 7, 7]
    assert_same(one, each)


def test_columns_that_are_better_apart_stay_apart(bert):
    short, other = features(bert, QUERIES, WRONG)
    long = dict(bert.preprocess([f"{text} " * 20 for text in ANSWERS]))
    assert contrast.as_one([short, other])["input_ids"].shape[0] == 14
    assert contrast.as_one([short]) is None
    assert contrast.as_one([short, long]) is None
    assert contrast.as_one([short, {key: value for key, value in other.items() if key != "token_type_ids"}]) is None
    assert contrast.as_one([short, other | {"modality": "image"}]) is None
    assert contrast.as_one([short | {"rows": torch.zeros(7)}, other | {"rows": torch.zeros(7)}]) is None
    assert contrast.as_one([{key: value.flatten() for key, value in one.items() if key != "modality"}
                            for one in (short, other)]) is None  # fmt: skip
    bert.tokenizer.padding_side = "left"
    assert contrast.as_one(features(bert, QUERIES, WRONG)) is None


def test_cached_over_layers_with_an_inner_loss_that_asks_aside(bert, folders):
    coupled = LOSSES["coupled"](bert, selector=fresh(folders))
    inner = LOSSES["starbucks"](bert, coupled, pairs=PAIRS)
    whole = gradients(inner, bert, features(bert, QUERIES, ANSWERS))
    assert_same(gradients(Cached(bert, inner, mini_batch=4), bert, features(bert, QUERIES, ANSWERS)), whole)


def test_cached_replays_dropout(folders):
    model = fresh(folders)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    loss = Cached(model, LOSSES["starbucks"](model, pairs=PAIRS), mini_batch=7)  # one piece: the same draws as without
    torch.manual_seed(3)
    pieces = gradients(loss, model, features(model, QUERIES, ANSWERS))
    torch.manual_seed(3)
    assert_same(pieces, gradients(loss.inner, model, features(model, QUERIES, ANSWERS)))


def test_cached_scales_with_the_trainer_and_reaches_the_losses_own_parameters(bert):
    inner = LOSSES["normalized_softmax"](bert, classes=3, dim=DIM).double()
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    found = []
    for loss in (inner, Cached(bert, inner, mini_batch=2)):
        inner.zero_grad()
        for _ in range(2):  # as gradient accumulation does
            (loss(features(bert, QUERIES), labels) / 2).backward()
        found.append((0.0, {name: p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}))
    assert "weight" in found[0][1]
    assert_same(found[1], found[0])


def test_cached_without_gradients_and_faults(bert):
    inner = InfoNCE(bert)
    loss = Cached(bert, inner, mini_batch=2)
    with torch.no_grad():
        given = features(bert, QUERIES, ANSWERS)
        assert loss(given).item() == pytest.approx(inner(given).item(), rel=1e-12)
    with pytest.raises(TypeError, match="a loss of lab"):
        Cached(bert, torch.nn.Identity())
    with pytest.raises(ValueError, match="at least 1"):
        Cached(bert, inner, mini_batch=0)


# the two that look beyond embeddings


def test_coupled_counts_what_the_selector_would_not_have_shown_less(bert, folders):
    selector = fresh(folders)
    loss = LOSSES["coupled"](bert, selector=selector)
    assert not any(p.requires_grad for p in selector.parameters())
    positive, negative = torch.full((8,), 0.5), torch.full((8, 8), 0.1)
    negative[:, 0] = 0.5  # as close as the positive, everywhere
    # the selector gives positives cosine 1 and all else 0
    far = loss.weights(positive, negative[:, :7], [torch.eye(8), torch.eye(8)])
    assert (far[:, 0] < 0.2).all()
    assert (far[:, 1:] > 0.9).all()
    value, grads = gradients(loss, bert, features(bert, QUERIES, ANSWERS))
    assert value < gradients(InfoNCE(bert), bert, features(bert, QUERIES, ANSWERS))[0]
    assert grads


def test_coupled_keeps_what_the_selector_would_have_shown_also_above_the_positive():
    """Nearer than the positive, a negative weighs by the selector's cosine, and is pushed away where it was shown."""
    B, D = 16, 40
    g = torch.Generator().manual_seed(0)
    query, positive, negative = (torch.randn(B, D, generator=g, dtype=torch.float64) for _ in range(3))
    positive = query + positive
    negative = query + 0.3 * negative  # nearer than the positive, in every row
    loss = LOSSES["coupled"](torch.nn.Identity(), selector=torch.nn.Identity(), in_batch=False)
    near = torch.nn.functional.cosine_similarity(query, negative)
    assert (near > torch.nn.functional.cosine_similarity(query, positive)).all()
    shown = torch.nn.functional.normalize(torch.randn(B, D, generator=g, dtype=torch.float64), dim=1)
    aside = torch.nn.functional.normalize(torch.randn(B, D, generator=g, dtype=torch.float64), dim=1)
    # of row 0 the selector puts the negative above every positive, of the others far below
    by_selector = [shown, shown + 0.7 * aside, torch.where(torch.arange(B)[:, None] == 0, shown, -shown)]
    found = {}
    for name, columns in {"shown": by_selector, "hidden": [shown, shown + 0.7 * aside, -shown]}.items():
        leaf = negative.clone().requires_grad_()
        loss.of(Batch([query, positive, leaf], aside={"shown": columns})).backward()
        weight = loss.weights(*contrast.similarities([query, positive, negative], in_batch=False), columns)[:, 0]
        found[name] = weight, leaf.grad.norm(dim=1)
    assert found["shown"][0][0] > 0.8
    assert (found["shown"][0][1:] < 0.2).all()
    assert (found["hidden"][0] < 0.2).all()
    for weight, gradient in found.values():
        assert (weight >= 0.1 - 1e-6).all()  # 1 - trust
        assert (gradient > 0).all()
    assert found["shown"][1][0] > found["hidden"][1][0]
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="trust must lie between 0 and 1"):
            LOSSES["coupled"](torch.nn.Identity(), selector=torch.nn.Identity(), trust=wrong)


def test_a_guide_that_masks_nothing_is_plain_infonce_and_one_that_sees_a_copy_masks_it(bert, folders):
    given = [QUERIES, ANSWERS[:6] + ANSWERS[:1]]  # the last answer is the first one's copy
    options = {"guide": fresh(folders), "contrast_anchors": False, "contrast_positives": False}
    plain = gradients(InfoNCE(bert), bert, features(bert, *given))
    assert_same(gradients(LOSSES["gist"](bert, margin=-10.0, **options), bert, features(bert, *given), None), plain)
    masked = gradients(LOSSES["gist"](bert, margin=1e-9, **options), bert, features(bert, *given), None)
    assert masked[0] < plain[0]


def test_agreement_asks_the_decoder(folders):
    model = fresh(folders, "llama")
    model[0].model.config.tie_word_embeddings = True
    loss = LOSSES["agreement"](model, weight=2.0)
    given = features(model, QUERIES, ANSWERS, WRONG)
    said = loss.aside(given)["said"]
    embed = model[0].model.get_input_embeddings().weight
    ids = model.tokenizer(QUERIES[0])["input_ids"], model.tokenizer(ANSWERS[0])["input_ids"]
    both = torch.tensor([ids[0] + ids[1]])
    logs = (model[0].model(input_ids=both).last_hidden_state @ embed.T).log_softmax(-1)[0]
    want = torch.stack([logs[t - 1, both[0, t]] for t in range(len(ids[0]), both.shape[1])]).mean()
    assert said.shape == (7, 2)
    assert said[0, 0].item() == pytest.approx(want.item(), rel=1e-5)  # log-probabilities are taken in float32
    whole = gradients(loss, model, features(model, QUERIES, ANSWERS, WRONG))
    assert whole[0] > InfoNCE(model)(given).item()
    assert_same(gradients(Cached(model, loss, mini_batch=2), model, features(model, QUERIES, ANSWERS, WRONG)), whole)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "gpt2", "gptneox"])
def test_agreement_trains_any_decoder_that_generates(name, tmp_path):
    """The same lines for each architecture; what is said is the whole language model's, loaded anew."""
    config, tokenizer = FAMILIES[name](), lab.models.tiny("llama", layers=1, dim=DIM, heads=2).tokenizer
    config.vocab_size, config.tie_word_embeddings, config.pad_token_id = len(tokenizer), True, 0
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = lab.training.embedder(tmp_path, "mean, causal", device="cpu")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    query, answer = ([*model.tokenizer(text)["input_ids"]] for text in (QUERIES[0], ANSWERS[0]))
    with torch.no_grad():
        logs = whole(input_ids=torch.tensor([query + answer])).logits[0].log_softmax(-1)
    want = torch.stack([logs[len(query) - 1 + i, token] for i, token in enumerate(answer)]).mean()
    asked, sought = features(model, QUERIES[:1], ANSWERS[:1])
    assert LOSSES["agreement"](model).said(asked, sought).item() == pytest.approx(want.item(), rel=1e-4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pairs = pd.DataFrame({"query": QUERIES, "positive": ANSWERS, "negative": WRONG})
    run = lab.training.contrastive(pairs, model, loss="agreement", steps=2, batch=4, rate=1e-2, progress=False)
    assert np.isfinite(run.curve.loss.values).all()
    assert any((value != before[key]).any() for key, value in model.state_dict().items())


def test_agreement_refuses(folders, bert):
    bert[0].model.config.tie_word_embeddings = True
    with pytest.raises(ValueError, match="looks both ways"):
        LOSSES["agreement"](bert)
    model = fresh(folders, "llama")
    model[0].model.config.tie_word_embeddings = False
    with pytest.raises(ValueError, match="give head"):
        LOSSES["agreement"](model)
    loss = LOSSES["agreement"](model, head=torch.nn.Linear(DIM, 10).double())
    with pytest.raises(ValueError, match="2 columns"):
        loss(features(model, QUERIES, ANSWERS))
    model[0].model.config.max_position_embeddings = 4
    with pytest.raises(ValueError, match="window 4"):
        loss(features(model, QUERIES, ANSWERS, WRONG))


def test_sentence_transformers_trainer_trains_them(folders, tmp_path):
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    model = fresh(folders).float()
    loss = LOSSES["in_mini_batches"](model, partial(LOSSES["starbucks"], pairs=PAIRS), mini_batch=2)
    before = copy.deepcopy(model.state_dict())
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True,
            save_strategy="no", disable_tqdm=True, learning_rate=1e-2,
        ),
        train_dataset=Dataset.from_dict({"query": QUERIES, "positive": ANSWERS}),
        loss=loss,
    )  # fmt: skip
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
