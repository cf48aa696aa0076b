"""The language model around a loaded body: the same logits, the same body, none where there is none."""

import pytest
import torch
import transformers as tf

from lab import models
from lab.attention import without_keys


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_says_what_was_saved_through_the_loaded_body(kind, tmp_path):
    small = models.tiny(kind, layers=2, dim=16, heads=2)
    torch.manual_seed(3)
    config = small.model.config
    config.tie_word_embeddings = kind == "gpt2"
    whole = tf.AutoModelForCausalLM.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    small.tokenizer.save_pretrained(tmp_path)
    loaded = models.load(str(tmp_path), device="cpu")
    found, ids = models.speaking(loaded), torch.randint(5, 90, (2, 9))
    assert found.base_model is loaded.model
    with torch.no_grad():
        plain = found(input_ids=ids).logits
        torch.testing.assert_close(plain, whole(input_ids=ids).logits)
        with without_keys(loaded, (1,)):
            assert (found(input_ids=ids).logits - plain).abs().max() > 1e-4
        assert torch.equal(found(input_ids=ids).logits, plain)


def test_none_speaks_that_was_not_saved_as_one(tmp_path, minilm):
    assert models.speaking(minilm) is None
    small = models.tiny("gpt2", layers=1, dim=16, heads=2)
    assert models.speaking(small) is None
    small.model.save_pretrained(tmp_path)  # a body without its head
    small.tokenizer.save_pretrained(tmp_path)
    assert models.speaking(models.load(str(tmp_path), device="cpu")) is None
