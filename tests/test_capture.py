"""lab.capture: equality with transformers' own hidden states, pooled on the fly; hooks that cannot leak."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import lab
from lab.capture.batches import Plan, Tokens, tokenize
from lab.pooling import POOLS
from lab.pooling.functional import segment_stats

PLAIN = ["first", "last", "mean", "max", "min", "sqrt_mean", "position_mean"]  # those without weights to draw
TEXTS = ["a singular value decomposition", "", "hello", "mean of the tokens " * 9, "x", "the last of them is here"]


@pytest.fixture(scope="module", params=["minilm", "llama", "gpt2", "bert"])
def model(request, minilm):
    return minilm if request.param == "minilm" else lab.models.tiny(request.param, layers=3, dim=16, heads=2)


def hooks_of(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def one_by_one(model, text, pool):
    """The states of one text by transformers' output_hidden_states, pooled afterwards: [layer, dim]."""
    encoded = model.tokenizer(text, return_tensors="pt", return_token_type_ids=False)  # GPT-2 would add them
    with torch.inference_mode():
        hidden = model.model(**encoded, output_hidden_states=True).hidden_states
    return torch.cat([POOLS[pool](model.dim)(h, encoded["attention_mask"].bool()) for h in hidden]).numpy()


def test_equals_output_hidden_states_for_every_layer_and_pool(model):
    got = lab.capture.states(model, TEXTS, pools=PLAIN, batch_tokens=40)
    assert got.h.dims == ("layer", "pool", "example", "dim")
    assert got.layer.values.tolist() == list(range(model.depth + 1))
    for pool in PLAIN:
        for i, text in enumerate(TEXTS):
            np.testing.assert_allclose(got.h.sel(pool=pool)[:, i], one_by_one(model, text, pool), rtol=1e-4, atol=1e-4)
    assert tuple(got.normed.values) == model.normed
    assert got.tokens.values.tolist() == [len(model.tokenizer(text)["input_ids"]) for text in TEXTS]


@pytest.mark.parametrize("packed", [False, True])
def test_four_pools_come_from_one_read_where_kernels_run(packed, monkeypatch):
    """In the interpreter, as on a GPU; and the same numbers as pool by pool."""
    from lab.capture import reduction

    model = lab.models.tiny("llama", layers=2, dim=16, heads=2)
    reads = []
    counted = lambda *args: reads.append(1) or segment_stats(*args)  # noqa: E731
    monkeypatch.setattr(reduction, "segment_stats", counted)
    monkeypatch.setattr(reduction, "by_kernel", lambda _: True)
    got = lab.capture.states(model, TEXTS, pools=("max", "first", "mean", "last"), packed=packed, batch_tokens=999)
    assert len(reads) == 3  # one batch, three layers
    monkeypatch.setattr(reduction, "by_kernel", lambda _: False)
    want = lab.capture.states(model, TEXTS, pools=("max", "first", "mean", "last"), packed=packed, batch_tokens=999)
    np.testing.assert_allclose(got.h, want.h, rtol=1e-4, atol=1e-5)
    assert len(reads) == 3


def test_matches_sentence_transformers(minilm):
    """The last layer's mean, scaled to length one, is what the model's authors call its embedding."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(minilm.source, device="cpu")
    want = peer.encode(TEXTS)
    got = lab.capture.states(minilm, TEXTS, layers=[-1]).h[0, 0].values
    np.testing.assert_allclose(got / np.linalg.norm(got, axis=1, keepdims=True), want, atol=2e-6)


@pytest.mark.parametrize("budget", [1, 7, 64, 10_000])
def test_batching_changes_nothing(budget):
    model = lab.models.tiny("bert", layers=1, dim=16, heads=2)
    want = lab.capture.states(model, TEXTS, pools=("mean", "max"))
    got = lab.capture.states(model, TEXTS, pools=("mean", "max"), batch_tokens=budget)
    np.testing.assert_allclose(got.h, want.h, rtol=1e-5, atol=1e-6)


def test_a_text_without_any_token_is_a_zero_vector(model):
    bare = lab.capture.states(model, TEXTS, pools=PLAIN)
    empty = model.tokenizer
    model_without = replace(
        model, tokenizer=lambda texts, **_: {"input_ids": [[] if t == "" else empty(t)["input_ids"] for t in texts]}
    )
    got = lab.capture.states(model_without, TEXTS, pools=PLAIN)
    assert not got.h[:, :, 1].any()
    np.testing.assert_allclose(got.h.drop_isel(example=1), bare.h.drop_isel(example=1), rtol=1e-4, atol=1e-4)


def test_long_texts_are_cut_and_counted(minilm):
    long = "word " * 400
    got = lab.capture.states(minilm, ["short", long, long], layers=[6])
    assert got.truncated.values.tolist() == [False, True, True]
    assert (got.attrs["n_truncated"], got.attrs["max_length"]) == (2, 256)
    assert got.tokens.values.tolist() == [3, 256, 256]
    cut = lab.capture.states(minilm, ["one two three four"], pools=("last",), max_length=4)
    assert (cut.attrs["n_truncated"], cut.tokens.item()) == (1, 4)
    # the closing special token stays
    closed = lab.capture.states(minilm, ["one two"], pools=("last",))
    np.testing.assert_allclose(cut.h, closed.h, rtol=1e-4, atol=1e-5)


def test_layers_and_pools_are_selected_in_the_order_asked_for():
    model = lab.models.tiny("gpt2", layers=2, dim=16, heads=2)
    whole = lab.capture.states(model, TEXTS, pools=("first", "max"))
    some = lab.capture.states(model, TEXTS, pools=("max", "first"), layers=[-1, 0])
    assert some.layer.values.tolist() == [2, 0]
    xr.testing.assert_allclose(some.h, whole.h.sel(layer=[2, 0], pool=["max", "first"]))


@pytest.mark.usefixtures("plain_torch")
def test_every_registered_pool_is_taken_on_the_way():
    """As by itself from the raw states; but for the one that needs attention, which a pass does not hand out."""
    model = lab.models.tiny("llama", layers=2, dim=16, heads=2)
    raw = lab.capture.tokens(model, TEXTS)
    lengths = torch.from_numpy(np.bincount(raw.example.values, minlength=len(TEXTS)))
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    for name in POOLS:
        if name == "received_attention":
            with pytest.raises(ValueError, match="received is missing"):
                lab.capture.states(model, TEXTS, pools=(name,))
            continue
        torch.manual_seed(0)
        pool = POOLS[name](16).eval()
        with torch.no_grad():
            want = np.stack([pool(torch.from_numpy(h), offsets).numpy() for h in raw.h.values])
        for pools in ((name,), {name: pool}):
            got = lab.capture.states(model, TEXTS, pools=pools, progress=False).h[:, 0]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_module_of_ones_own_is_a_pool_and_its_mode_and_the_models_are_restored():
    class Noisy(torch.nn.Dropout):
        def forward(self, x, mask):
            return super().forward(POOLS["mean"](3)(x, mask))

    model, noisy = lab.models.tiny("bert", layers=1, dim=16, heads=2), Noisy(0.9)
    want = lab.capture.states(model, TEXTS)
    model.model.train()
    model.model.pooler.eval()
    got = lab.capture.states(model, TEXTS, pools={"noisy": noisy, "mean": POOLS["mean"]()})
    for pool in ("noisy", "mean"):  # no dropout: neither ours nor BERT's
        np.testing.assert_allclose(got.h.sel(pool=pool), want.h.sel(pool="mean"), rtol=1e-5, atol=1e-6)
    assert noisy.training
    assert model.model.training
    assert not model.model.pooler.training
    wide = {"wide": lambda x, _: torch.cat([x, x], -1)[:, 0]}  # any callable is a pool, of any width
    assert lab.capture.states(model, TEXTS, pools=wide).sizes["dim"] == 32
    for pools, says in {
        "vectors of one width, .* got {'mean': 16, 'wide': 32}": {"mean": POOLS["mean"]()} | wide,
        r"pool 'none' turns \[2, 4, 16\] into \[2, 4, 16\]": {"none": lambda x, _: x},
        r"pool 'all' turns \[2, 4, 16\] into \[1, 16\], expected \[2, width\]": {"all": lambda x, _: x[:1, 0]},
        "pool 'one' cannot be called as pool": {"one": lambda x: x},
    }.items():
        with pytest.raises(ValueError, match=pools):
            lab.capture.states(model, TEXTS, pools=says)


def lambda_module(function):
    module = torch.nn.Module()
    module.forward = function
    return module


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"texts": []}, ValueError, "texts is empty"),
        ({"texts": ["a", 3, None]}, TypeError, r"2 are not.*\(1, 'int'\), \(2, 'NoneType'\)"),
        ({"texts": "a"}, TypeError, "one string: put it in a list"),
        ({"pools": ("meen",)}, ValueError, r"no pool \['meen'\]; there are \['first'"),
        ({"pools": ()}, ValueError, "no pool was named"),
        ({"pools": ("mean", "mean")}, ValueError, "must differ"),
        ({"layers": [0, 3]}, ValueError, r"no layer \[3\]; there are 0 \(embeddings\) to 2"),
        ({"layers": "last"}, TypeError, "must be 'all' or a list of whole numbers"),
        ({"layers": [1, -2]}, ValueError, "at least one and differ"),
        ({"layers": []}, ValueError, "at least one and differ"),
        ({"max_length": 0}, ValueError, "max_length must be at least 1"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens must be at least 1"),
        ({"texts": {"text": ["a"]}}, TypeError, "got a dict: pass one of its columns"),  # its keys would be read
        ({"texts": pd.DataFrame({"text": ["a"]})}, TypeError, "got a DataFrame: pass one of its columns"),
        ({"texts": None}, TypeError, "must be a list of strings; got None"),
        ({"texts": ["a", "b\ud800"]}, ValueError, r"1 have lone surrogates, the first at \[1\]: mend them"),
        ({"texts": np.array([1, 2])}, TypeError, "reads texts; got an array of int64: pass a list of strings"),
        ({"pools": 3}, TypeError, "must be names of lab.pooling.POOLS, or {name: pool}; got 3"),
        ({"pools": {"mean": "mean"}}, TypeError, "called as pool.*got {'mean': 'str'}"),
        ({"layers": 1}, TypeError, "'all' or a list of whole numbers from 0 to 2; got 1"),
        ({"layers": [1.5]}, TypeError, r"whole numbers from 0 to 2; got \[1.5\]"),  # would have been layer 1
        ({"layers": [True]}, TypeError, r"whole numbers from 0 to 2; got \[True\]"),
        ({"max_length": 2.5}, TypeError, "max_length must be a whole number, at least 1; got 2.5"),
        ({"batch_tokens": "9"}, TypeError, "batch_tokens must be a whole number, at least 1; got '9'"),
        ({"autocast": torch.float32}, ValueError, "must be torch.bfloat16, torch.float16 or None; got torch.float32"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(arguments, error, says, monkeypatch):
    model = lab.models.tiny("bert", layers=2, dim=16, heads=2)
    monkeypatch.setattr(model.model, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(error, match=says):
        lab.capture.states(model, **{"texts": TEXTS, **arguments})


def test_texts_come_in_any_container_and_in_its_order():
    model = lab.models.tiny("bert", layers=1, dim=16, heads=2)
    want = lab.capture.states(model, TEXTS).h
    odd = pd.Series(TEXTS, index=[9, 3, "x", 3, 0, 1])
    for texts in (np.array(TEXTS), np.array(TEXTS, dtype=object), odd, tuple(TEXTS), (text for text in TEXTS)):
        np.testing.assert_array_equal(lab.capture.states(model, texts).h, want)


def test_what_is_no_model_is_refused_everywhere():
    module = lab.models.tiny("bert", layers=1, dim=16, heads=2).model
    with pytest.raises(TypeError, match=r"must come from lab.models.load, tiny or wrap; got BertModel"):
        lab.capture.blocks(module)
    with pytest.raises(TypeError, match=r"must come from lab.models.load, tiny or wrap; got BertModel"):
        lab.models.bidirectional(module).__enter__()
    with pytest.raises(TypeError, match=r"or an nn.Module; got str"):
        lab.capture.tap("minilm", ["layer.1"]).__enter__()
    for names in ("layer.1", [1]):
        with pytest.raises(TypeError, match=r"must be a list of strings, such as \[\"layer.3\"\]; got"):
            lab.capture.tap(module, names).__enter__()


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"has no tokenizer; it reads pixel_values"):
        lab.capture.states(lab.models.tiny("vit", layers=1, dim=16, heads=2), TEXTS)


def test_tap_gives_raw_states_and_leaves_no_hook(model):
    encoded = model.tokenizer("a few tokens", return_tensors="pt")
    before = hooks_of(model.model)
    inner = model.blocks[1]
    with torch.inference_mode(), lab.capture.tap(model, ["layer.0", "layer.1", f"layer.{model.depth}", inner]) as seen:
        assert seen == {}
        model.model(**encoded)
        first = dict(seen)
        want = model.model(**encoded, output_hidden_states=True).hidden_states
    for name, state in {
        "layer.0": want[0],
        "layer.1": want[1],
        f"layer.{model.depth}": want[-1],
        inner: want[2],
    }.items():
        torch.testing.assert_close(first[name], state)
    kept = hooks_of(model.model)  # transformers leaves its own, once
    with lab.capture.tap(model, ["layer.1"]):
        pass
    assert hooks_of(model.model) == kept >= before


def test_no_hook_survives_an_exception_or_a_wrong_name():
    model = lab.models.tiny("bert", layers=2, dim=16, heads=2)
    assert hooks_of(model.model) == 0
    with pytest.raises(ZeroDivisionError), lab.capture.tap(model, ["layer.1", "pooler"]):
        1 / hooks_of(model.model).__rsub__(3)  # all hooks are there, one of them tells passes apart: 3 - 3
    assert hooks_of(model.model) == 0
    for wrong, says in {
        "layer.9": r"no site 'layer' .* in layer \[9\]; in \[0, 1, 2\] it has",
        "router.1": r"no site 'router' .* in layer \[1\]; in \[\] it has",
        "layers.1": r"no layer or submodule \['layers.1'\]; there are layer.0 .. layer.2, submodules",
    }.items():
        with pytest.raises(ValueError, match=says):
            lab.capture.tap(model, ["layer.1", wrong]).__enter__()
    lab.capture.tap(model, ["layer.1"])  # never entered
    assert hooks_of(model.model) == 0

    def broken(x, mask):
        if x.shape[1] > 2:  # past the trial on two tokens
            raise RuntimeError("broken pool")
        return x[:, 0]

    with pytest.raises(RuntimeError, match="broken pool"):
        lab.capture.states(model, TEXTS, pools={"broken": lambda_module(broken)})
    assert hooks_of(model.model) == 0


def test_outputs_are_the_same_bits_with_and_without_a_tap(model):
    encoded = model.tokenizer("a few tokens", return_tensors="pt")
    with torch.inference_mode():
        plain = model.model(**encoded).last_hidden_state
        with lab.capture.tap(model, ["layer.0", "layer.1"]):
            tapped = model.model(**encoded).last_hidden_state
    assert torch.equal(plain, tapped)


def test_tap_works_on_images_and_plain_modules():
    vit = lab.models.tiny("vit", layers=2, dim=16, heads=2)
    with lab.capture.tap(vit, ["layer.2"]) as seen:
        out = vit.model(pixel_values=torch.zeros(3, 1, 8, 8)).last_hidden_state
    assert torch.equal(seen["layer.2"], out.detach())
    assert not seen["layer.2"].requires_grad
    plain = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    with lab.capture.tap(plain, ["0"]) as seen:
        plain(torch.ones(4, 2))
    assert seen["0"].shape == (4, 3)


def test_blocks_shows_where_each_layer_is_taken(minilm):
    table = lab.capture.blocks(minilm)
    assert table["module"].tolist()[1:-1] == list(minilm.blocks[:-1])
    assert table["normed"].all()
    assert len(table) == minilm.depth + 1


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    budget=st.integers(1, 100),
    layout=st.sampled_from(["padded", "equal", "packed"]),
)
def test_batches_hold_every_text_once_within_the_budget(lengths, budget, layout):
    tokens = Tokens([list(range(1, n + 1)) for n in lengths], np.zeros(len(lengths), bool), layout=layout)
    made = [tokens.batch(index) for index in Plan(tokens.lengths, budget, equal=layout == "equal")]
    assert sorted(np.concatenate([batch.index for batch in made]).tolist()) == list(range(len(lengths)))
    longest = [max(lengths[i] for i in batch.index) for batch in made]
    assert longest == sorted(longest, reverse=True)
    for batch in made:
        ids = batch.inputs["input_ids"]
        assert ids.numel() <= budget or len(batch.index) == 1
        if layout == "packed":
            rows = ids[0].split(batch.segments.diff().tolist())
            assert batch.inputs["position_ids"][0].tolist() == [t for i in batch.index for t in range(lengths[i])]
        else:
            rows = [row[real] for row, real in zip(ids, batch.segments, strict=True)]
        assert layout != "equal" or len({lengths[i] for i in batch.index}) == 1
        for row, i in zip(rows, batch.index, strict=True):
            assert row.tolist() == tokens.ids[i]


def test_the_window_cuts_only_what_is_longer(minilm):
    tokens = tokenize(minilm.tokenizer, ["one", "one two three"], 4)
    assert tokens.truncated.tolist() == [False, True]
    assert [len(row) for row in tokens.ids] == [3, 4]
    assert tokens.ids[1][-1] == minilm.tokenizer.sep_token_id
