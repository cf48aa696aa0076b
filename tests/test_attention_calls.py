"""Attention calls: what is asked for is enough to give the model's own answer, in every family that asks at all."""

import pytest
import torch
from families import FAMILIES, REFUSED, SEQ2SEQ, WINDOWED, family, random_model

import lab
from lab.attention.call import Call
from lab.attention.calls import attending
from lab.models.hooks import state_of
from lab.models.loaded import describe
from lab.models.wrap import half

ASKING = sorted(set(FAMILIES) - REFUSED)


def textbook(call: Call):
    """softmax of the scores where the mask lets them, the sink one more logit, empty rows zero."""
    mask = call.visible.rows(0, call.visible.queries)
    scores = call.scores().masked_fill(~mask, -torch.inf)
    if call.sink is not None:
        scores = torch.cat([scores, call.sink.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    weights = scores.softmax(-1).nan_to_num(0)[..., : mask.shape[-1]]
    value = call.value.repeat_interleave(call.query.shape[1] // call.value.shape[1], dim=1)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous()


def padded(model, side):
    """Twelve tokens, of which the first text has seven and the second ten."""
    ids = torch.randint(1, 90, (3, 12))
    mask = torch.ones(3, 12, dtype=torch.long)
    for row, real in ((0, 7), (1, 10)):
        mask[row, slice(real, None) if side == "right" else slice(None, 12 - real)] = 0
    return {model.reads: ids, "attention_mask": mask}


def state(model, inputs, mask=None):
    with torch.no_grad():
        out = state_of(model.model(**model.example | inputs))
    return out if mask is None else out[mask.bool()]


@pytest.mark.parametrize("name", [*ASKING, *WINDOWED])
def test_the_call_holds_all_that_the_answer_needs(name):
    model = family(name)
    cases = [{}]
    if model.reads_tokens:
        cases = [{model.reads: torch.randint(1, 90, (2, 12))}, padded(model, "left"), padded(model, "right")]
    for inputs in cases:
        want = state(model, inputs, inputs.get("attention_mask"))
        layers = []
        with attending(model, lambda call, layers=layers: layers.append(call.layer) or textbook(call)):
            got = state(model, inputs, inputs.get("attention_mask"))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert layers == list(range(1, model.depth + 1))


@pytest.mark.parametrize("name", [*ASKING, *WINDOWED])
def test_its_own_answer_is_bit_for_bit_the_models(name):
    model = family(name)
    inputs = padded(model, "left") if model.reads_tokens else {}
    want = state(model, inputs)
    with attending(model, lambda call: call.own()):
        assert torch.equal(state(model, inputs), want)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_model_that_goes_on_with_its_own_is_refused(name):
    model = family(name)
    before = dict(vars(model.model.config))
    with pytest.raises(ValueError, match="transformers"), attending(model, textbook):
        pass
    assert dict(vars(model.model.config)) == before


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_both_halves_of_an_encoder_decoder(name, part):
    module, blocks, example = half(random_model(name), part)
    model = describe(name, "random", module, None, None, blocks=blocks, example=example)
    want = state(model, {})
    crossed = []
    with attending(model, lambda call: crossed.append((call.layer, call.cross)) or textbook(call)):
        torch.testing.assert_close(state(model, {}), want, rtol=1e-4, atol=1e-5)
    turns = [False, True] if part == "decoder" else [False]
    inside = [(layer, cross) for layer in (1, 2, 3) for cross in turns]
    assert [pair for pair in crossed if pair[0] > 0][-len(inside) :] == inside


def kinds(model, inputs):
    seen = set()
    with attending(model, lambda call: seen.add((call.visible.kind, call.visible.pattern)) or call.own()):
        state(model, inputs)
    return seen


def test_what_the_mask_is_beside_its_padding():
    llama, bert, mistral = family("llama"), family("bert"), family("mistral")
    plain = torch.randint(1, 90, (2, 12))
    assert kinds(llama, {"input_ids": plain}) == {("causal", "causal")}
    assert kinds(llama, padded(llama, "left")) == {("pattern", "causal")}
    assert kinds(bert, {"input_ids": plain}) == {("full", "full")}
    assert kinds(bert, padded(bert, "right")) == {("pattern", "full")}
    assert kinds(mistral, {"input_ids": plain}) == {("pattern", None)}  # 12 tokens, a window of 4
    assert kinds(mistral, {"input_ids": plain[:, :3]}) == {("causal", "causal")}
    packed = {"input_ids": plain[:1], "position_ids": torch.arange(12)[None] % 5, "use_cache": False}
    assert kinds(llama, packed) == {("pattern", None)}
    with lab.models.bidirectional(llama) as both:
        assert kinds(both, {"input_ids": plain}) == {("full", "full")}


def test_a_generated_token_is_a_row_that_sees_all():
    model = lab.models.tiny("llama", layers=2, dim=32)
    seen = []
    with attending(model, lambda call: seen.append((call.visible.kind, *call.query.shape[2:3])) or textbook(call)):
        ids = torch.randint(1, 90, (1, 6))
        cached = model.model(input_ids=ids[:, :5], use_cache=True).past_key_values
        last = model.model(input_ids=ids[:, 5:], past_key_values=cached)[0]
        whole = model.model(input_ids=ids)[0]
    torch.testing.assert_close(last[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    assert seen[2:4] == [("full", 1)] * 2


@pytest.mark.parametrize("additive", [False, True])
def test_a_mask_of_the_users_own(additive):
    model = family("llama")
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    mask[0, :, 4, 1] = False
    given = mask if not additive else torch.zeros(2, 1, 6, 6).masked_fill(~mask, torch.finfo(torch.float32).min)
    if additive:
        given[1, :, 3, 2] = 0.7  # a bias, not a mask
    inputs = {"input_ids": torch.randint(1, 90, (2, 6)), "attention_mask": given}
    want = state(model, inputs)
    with attending(model, textbook):
        torch.testing.assert_close(state(model, inputs), want, rtol=1e-4, atol=1e-5)


def test_an_albert_block_that_runs_again_is_another_layer():
    layers = []
    model = family("albert")
    with attending(model, lambda call: layers.append(call.layer) or call.own()):
        state(model, {})
        state(model, {})
    assert layers == [1, 2, 3, 1, 2, 3]


def test_everything_is_as_before_however_the_block_is_left():
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    model = family("llama")

    def traces():
        hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.model.modules())
        tables = set(AttentionInterface._global_mapping), set(AttentionMaskInterface._global_mapping)
        return hooks, tables, model.model.config._attn_implementation

    before = traces()
    with pytest.raises(KeyboardInterrupt), attending(model, textbook):
        raise KeyboardInterrupt
    assert traces() == before

    def breaks(call):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), attending(model, breaks):
        state(model, {})
    assert traces() == before


def test_blocks_nest_and_the_outer_ones_own_is_the_inner():
    model = family("gpt2")
    order = []
    with (
        attending(model, lambda call: order.append("inner") or textbook(call)),
        attending(model, lambda call: order.append("outer") or call.own()),
    ):
        order.clear()
        state(model, {})
    assert order == ["outer", "inner"] * model.depth


def test_what_is_no_model_of_ours_is_refused():
    with pytest.raises(TypeError, match="from lab"), attending(torch.nn.Linear(2, 2), textbook):
        pass
    plain = lab.models.wrap(torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)]), torch.randn(1, 2, 4))
    with pytest.raises(ValueError, match="no transformers model"), attending(plain, textbook):
        pass


def test_rows_are_the_whole_mask_in_parts():
    model = family("mistral")
    seen = []
    with attending(model, lambda call: seen.append(call) or call.own()):
        state(model, padded(model, "left"))
    visible = seen[-1].visible
    parts = torch.cat([visible.rows(i, min(i + 5, 12)) for i in range(0, 12, 5)], dim=2)
    assert torch.equal(parts, visible.rows(0, 12))
    assert parts.shape == (3, 1, 12, 12)
    assert not parts[0, 0, :, :5].any()
    assert torch.equal(visible.real(parts.device), seen[-1].visible.padding)
    scores = torch.cat([seen[-1].scores(i, i + 5) for i in range(0, 12, 5)], dim=2)
    torch.testing.assert_close(scores, seen[-1].scores())


def test_more_tokens_than_a_table_of_positions_are_refused_and_rotations_take_them():
    ids = torch.randint(5, 90, (1, 9))
    with lab.attention.watch(lab.models.tiny("llama", layers=1, dim=16, window=8)) as sinks, torch.no_grad():
        sinks.model.model(input_ids=ids)
    assert sinks.result().length.item() == 9
    model = lab.models.tiny("gpt2", layers=1, dim=16, window=8)
    for given in ((ids,), ()):
        with (
            lab.attention.watch(model),
            torch.no_grad(),
            pytest.raises(ValueError, match=r"table of 8 positions; got 9 tokens.*max_length=8"),
        ):
            model.model(*given, **({} if given else {"input_ids": ids}))
    with attending(model, lambda call: call.own()), torch.no_grad():
        assert model.model(ids[:, :8]).last_hidden_state.shape == (1, 8, 16)
