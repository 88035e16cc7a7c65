"""Checkpoints of any size with random weights and a processor of their own: for times, which do not hang on weights.

Words are tokens, in a vocabulary whose special tokens have the numbers that the configuration gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from families import QWEN, TEMPLATE

SPOKEN = (
    "what which how many is are the a of in left right above below colour shape red green blue yellow circle square"
)


def tokenizer(special: Mapping[str, str], numbers: Mapping[str, int]):
    """One token per word.

    Args:
        special: the processor's tokens by name; numbers: of some of them, by token, which others make way for.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    free = (n for n in range(1000) if n not in numbers.values())
    words = ["<pad>", "<s>", "</s>", "<unk>", *special.values(), "USER", "ASSISTANT", ":", "?", *SPOKEN.split()]
    vocabulary = {word: numbers[word] if word in numbers else next(free) for word in dict.fromkeys(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    begin = ("<s>", vocabulary["<s>"])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=dict(special),
    )  # fmt: skip


def llava_processor(config):
    """Pictures cut to the square that the tower sees."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side, image = config.vision_config.image_size, "<image>"
    pictures = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer({"image_token": image}, {image: config.image_token_id}),
        patch_size=config.vision_config.patch_size, image_token=image, num_additional_image_tokens=1,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    )  # fmt: skip


def qwen_processor(config):
    """Every square picture has 24 x 24 visual tokens, as in LLaVA-1.5."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    vision = config.vision_config
    area = (24 * vision.patch_size * vision.spatial_merge_size) ** 2
    sizes = {
        "patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size, "size": {"shortest_edge": area, "longest_edge": area},
    }  # fmt: skip
    numbers = {
        QWEN["image_token"]: config.image_token_id, QWEN["video_token"]: config.video_token_id,
        QWEN["vision_bos_token"]: config.vision_start_token_id,
    }  # fmt: skip
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**sizes), tokenizer(QWEN, numbers), Qwen2VLVideoProcessor(**sizes),
        chat_template=template,
    )  # fmt: skip


PROCESSORS = {"llava": llava_processor, "qwen2_5_vl": qwen_processor}


def save(folder: Path, config, *, device: str = "cpu", dtype: str = "float32") -> Path:
    """Write a whole checkpoint that `from_pretrained` loads, its weights drawn on a device.

    Raises:
        KeyError: of another family than those of `PROCESSORS`.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    processor = PROCESSORS[config.model_type](config)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_text_encoder(folder: Path, config) -> Path | None:
    """A CLIP around the tower of a LLaVA, with CLIP-L's text model; None for other towers."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor

    if config.model_type != "llava" or config.vision_config.model_type != "clip_vision_model":
        return None
    text = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "projection_dim": 768,
    }  # fmt: skip
    whole = CLIPConfig(text_config=text, vision_config=config.vision_config.to_dict(), projection_dim=768)
    CLIPModel(whole).save_pretrained(folder)
    own = llava_processor(config)
    words = tokenizer({}, {"<s>": whole.text_config.bos_token_id, "</s>": whole.text_config.eos_token_id})
    CLIPProcessor(image_processor=own.image_processor, tokenizer=words).save_pretrained(folder)
    return folder
