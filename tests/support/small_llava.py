"""A LLaVA configuration that is small enough to run for real, with everything that a cost depends on made unequal."""

from toksweep.harness.contracts import ModelShape
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

SHAPE = ModelShape("llava", tokens=16, grid=(4, 4), vision_layers=3, llm_layers=4, class_token=True, feature_layers=2)


def small_config():
    """16 visual tokens; grouped-query attention whose heads are wider than hidden size / heads."""
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=7
    )
    text = LlamaConfig(
        hidden_size=32, intermediate_size=56, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=12, vocab_size=99,
    )  # fmt: skip
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=98, image_seq_length=16)
