"""LLaVA configurations that are small enough to run for real, with everything that a cost depends on made unequal."""

from toksweep.harness.contracts import ModelShape
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, Qwen2Config, SiglipVisionConfig

SHAPE = ModelShape("llava", tokens=16, grid=(4, 4), vision_layers=3, llm_layers=4, class_token=True, feature_layers=2)

_TOWER = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
_LLM = {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 99,
}  # fmt: skip


def small_config():
    """16 visual tokens from a CLIP tower; a Llama with grouped queries, whose heads are wider than hidden / heads."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**_TOWER), text_config=LlamaConfig(**_LLM, head_dim=12), image_token_index=98,
        image_seq_length=16,
    )  # fmt: skip


def small_siglip_config(*, head):
    """The same without class token, with or without SigLIP's pooling head, in front of a Qwen2."""
    return LlavaConfig(
        vision_config=SiglipVisionConfig(**_TOWER, vision_use_head=head), text_config=Qwen2Config(**_LLM),
        image_token_index=98, image_seq_length=16, vision_feature_select_strategy="full",
    )  # fmt: skip
