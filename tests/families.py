"""One small model of each family, with random weights, from transformers' own configurations."""

import torch
import transformers as tf

from lab.models.loaded import describe
from lab.models.wrap import half

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SHARED = {"num_key_value_heads": 2}  # queries share keys and values
HEAD = SHARED | {"head_dim": 8}
IMAGE = {"num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 8, "patch_size": 2, "num_channels": 1}
STAGES = {"num_channels": 1, "hidden_sizes": [8, 16, 32], "depths": [1, 1, 1]}
FAMILIES = {
    # encoders
    "bert": lambda: tf.BertConfig(**TEXT),
    "distilbert": lambda: tf.DistilBertConfig(dim=32, hidden_dim=64, n_layers=3, n_heads=4, vocab_size=99),
    "albert": lambda: tf.AlbertConfig(**TEXT, embedding_size=16),
    "deberta": lambda: tf.DebertaV2Config(**TEXT),
    "modernbert": lambda: tf.ModernBertConfig(
        **TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "mpnet": lambda: tf.MPNetConfig(**TEXT),
    # decoders
    "gpt2": lambda: tf.GPT2Config(
        n_embd=32, n_layer=3, n_head=4, vocab_size=99, n_positions=64, bos_token_id=None, eos_token_id=None
    ),
    "gptneox": lambda: tf.GPTNeoXConfig(**TEXT | ENDS),
    "opt": lambda: tf.OPTConfig(
        hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4, vocab_size=99,
        max_position_embeddings=64, word_embed_proj_dim=32,
    ),
    "bloom": lambda: tf.BloomConfig(hidden_size=32, n_layer=3, n_head=4, vocab_size=99),
    "falcon": lambda: tf.FalconConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, vocab_size=99),
    "llama": lambda: tf.LlamaConfig(**TEXT | ENDS, **SHARED),
    "qwen3": lambda: tf.Qwen3Config(**TEXT | ENDS, **HEAD),
    "gemma2": lambda: tf.Gemma2Config(**TEXT | ENDS, **HEAD),
    "phi3": lambda: tf.Phi3Config(**TEXT | ENDS, **SHARED),
    # mixtures of experts
    "mixtral": lambda: tf.MixtralConfig(**TEXT | ENDS, **SHARED, num_local_experts=4),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(
        **TEXT | ENDS, **HEAD, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "gpt_oss": lambda: tf.GptOssConfig(**TEXT | ENDS, **HEAD, num_local_experts=4, num_experts_per_tok=2),
    # state-space and recurrent
    "mamba": lambda: tf.MambaConfig(hidden_size=32, num_hidden_layers=3, vocab_size=99, state_size=8),
    "rwkv": lambda: tf.RwkvConfig(hidden_size=32, num_hidden_layers=3, vocab_size=99, context_length=64),
    # vision
    "vit": lambda: tf.ViTConfig(hidden_size=32, intermediate_size=64, **IMAGE),
    "dinov2": lambda: tf.Dinov2Config(hidden_size=32, **IMAGE),
    "clip": lambda: tf.CLIPVisionConfig(hidden_size=32, intermediate_size=64, **IMAGE),
    "swin": lambda: tf.SwinConfig(
        image_size=32, patch_size=2, num_channels=1, embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 4], window_size=4
    ),
    "resnet": lambda: tf.ResNetConfig(**STAGES, embedding_size=8, layer_type="basic"),
    "convnext": lambda: tf.ConvNextConfig(**STAGES, num_stages=3, image_size=32),
}  # fmt: skip
SEQ2SEQ = {
    "t5": lambda: tf.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, vocab_size=99, decoder_start_token_id=0
    ),
    "bart": lambda: tf.BartConfig(
        d_model=32, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=99, max_position_embeddings=64, decoder_start_token_id=2,
        forced_eos_token_id=None,
    ),
}  # fmt: skip

WINDOWED = {  # attention that the families above do not have: a window, and tokens that are no patches
    "mistral": lambda: tf.MistralConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=99, sliding_window=4,
    ),
    "registers": lambda: tf.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=8, patch_size=2, num_channels=1,
    ),
}  # fmt: skip
# those whose attention does not ask transformers' interface, or who have none
REFUSED = {"deberta", "mpnet", "bloom", "falcon", "mamba", "rwkv", "resnet", "convnext"}


def random_model(name):
    """Weights large enough that no layer is nearly the identity, so that a wrong one is seen."""
    torch.manual_seed(0)
    model = tf.AutoModel.from_config((FAMILIES | SEQ2SEQ)[name]()).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(3)
    return model


def family(name):
    """Such a model as the lab sees it: of t5 its encoder, of WINDOWED with the weights its family starts with."""
    if name == "t5":
        module, blocks, example = half(random_model(name), "encoder")
        return describe(name, "random", module, None, None, blocks=blocks, example=example)
    if name in WINDOWED:
        torch.manual_seed(0)
        return describe(name, "random", tf.AutoModel.from_config(WINDOWED[name]()).eval(), None, None)
    return describe(name, "random", random_model(name), None, None)


def reads_letters(texts, **_):
    """A tokenizer: a number for each letter, none of them special."""
    return {"input_ids": [[ord(letter) % 90 + 5 for letter in text][:60] for text in texts]}
