"""The decoder that is trained here: every switch does what its formula says, and every measurement can see it."""

import itertools

import pytest
import torch
from test_attention_calls import textbook

from lab.attention.calls import attending
from lab.models import describe
from lab.training.decoder import BIASES, NORMS, POSITIONS, Decoder, DecoderConfig


def drawn(**switches):
    torch.manual_seed(0)
    net = Decoder(DecoderConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, **switches)).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn_like(weight) * (0.5 if weight.ndim > 1 else 0.2) + (weight.ndim == 1))
    return net


def definition(net, ids, mask):
    """The formulas in float64, one head and one query after another."""
    c = net.config
    weights = {name: value.double() for name, value in net.state_dict().items()}
    x = weights["embed.weight"][ids]
    B, T, _ = x.shape
    H, D = c.num_attention_heads, c.hidden_size // c.num_attention_heads
    if c.position == "learned":
        x = x + weights["places.weight"][:T]

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name]

    def rotated(v, t):
        if c.position != "rope":
            return v
        out = v.clone()
        for i in range(D // 2):
            angle = torch.tensor(t * 10_000.0 ** (-2 * i / D), dtype=torch.float64)
            a, b = v[i], v[i + D // 2]
            out[i], out[i + D // 2] = a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()
        return out

    def attend(x, block):
        q, k, v = (x @ weights[f"{block}.attention.{part}.weight"].T for part in ("query", "key", "value"))
        out = torch.zeros_like(x)
        for b, h, t in itertools.product(range(B), range(H), range(T)):
            part = slice(h * D, (h + 1) * D)
            sees = [s for s in range(t + 1) if mask[b, s] and (c.window is None or t - s < c.window)]
            keys = [rotated(k[b, s, part], s) for s in sees]
            values = [v[b, s, part] for s in sees]
            if c.bias in ("key", "key_value"):
                keys.append(weights[f"{block}.attention.bias_key"][h])
                values.append(weights[f"{block}.attention.bias_value"][h])
            if keys:
                scores = torch.stack(keys) @ rotated(q[b, t, part], t) / D**0.5
                out[b, t, part] = scores.softmax(0) @ torch.stack(values)
            if c.bias == "value":
                out[b, t, part] += weights[f"{block}.attention.bias_out"][h]
        return out @ weights[f"{block}.attention.out.weight"].T

    def mlp(x, block):
        gate, up = (x @ weights[f"{block}.{part}.weight"].T for part in ("gate", "up"))
        return (gate * gate.sigmoid() * up) @ weights[f"{block}.down.weight"].T

    for i in range(c.num_hidden_layers):
        block = f"blocks.{i}"
        for j, f in enumerate((attend, mlp)):
            n = f"{block}.norms.{j}.weight"
            if c.norm == "pre":
                x = x + f(norm(x, n), block)
            elif c.norm == "post":
                x = norm(x + f(x, block), n)
            else:
                x = x + norm(f(norm(x, n), block), f"{block}.norms.{j + 2}.weight")
    return x if c.norm == "post" else norm(x, "norm.weight")


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("norm", "position"), [*zip(NORMS, POSITIONS, strict=True), ("pre", "none"), ("peri", "rope")])
def test_matches_its_formulas(norm, position, bias, window):
    net = drawn(norm=norm, position=position, bias=bias, bias_norm=1.5, window=window)
    ids, mask = torch.randint(0, 50, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
    mask[0, :2] = False
    got = net(input_ids=ids, attention_mask=mask).last_hidden_state
    want = definition(net, ids, mask)
    torch.testing.assert_close(got[mask].double(), want[mask], rtol=1e-4, atol=1e-4)
    whole = net(input_ids=ids).last_hidden_state
    torch.testing.assert_close(whole.double(), definition(net, ids, mask | True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("window", [None, 3])
def test_its_attention_can_be_asked_for_and_is_causal(bias, window):
    net = drawn(bias=bias, window=window)
    model = describe("decoder", "drawn", net, None, None)
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        want = net(input_ids=ids).last_hidden_state
        with attending(model, textbook):
            got = net(input_ids=ids).last_hidden_state
        with attending(model, lambda call: call.own()):
            own = net(input_ids=ids).last_hidden_state
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert torch.equal(own, want)
    assert model.causal


def test_eager_is_sdpa():
    net = drawn(bias="key")
    ids = torch.randint(0, 50, (2, 7))
    want = net(input_ids=ids).last_hidden_state
    net.config._attn_implementation = "eager"
    torch.testing.assert_close(net(input_ids=ids).last_hidden_state, want, rtol=1e-5, atol=1e-5)


def test_it_is_saved_and_loaded_as_transformers_models_are(tmp_path):
    from transformers import AutoModel

    net = drawn(norm="peri", bias="key", bias_norm=2.0)
    net.save_pretrained(tmp_path)
    ids = torch.randint(0, 50, (1, 4))
    again = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(again(input_ids=ids).last_hidden_state, net(input_ids=ids).last_hidden_state)


@pytest.mark.parametrize(
    "wrong", [{"norm": "mid"}, {"position": "alibi"}, {"bias": "query"}, {"hidden_size": 6}, {"window": 0}]
)
def test_what_it_does_not_have_is_refused(wrong):
    with pytest.raises(ValueError, match="got|there are"):  # noqa: RUF043
        DecoderConfig(**wrong)
