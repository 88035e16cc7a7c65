"""Tiny checkpoints of the families beside LLaVA: real classes and processors, random weights, words as tokens.

`tiny.py` has LLaVA's.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import tiny
import tiny_anyres

TEMPLATE = (
    "{% for message in messages %}USER {% for part in message.content %}{% if part.type == 'image' %}"
    "IMAGE"
    "{% elif part.type == 'video' %}"
    "VIDEO"
    "{% else %} {{ part.text }}{% endif %}{% endfor %}{% endfor %} ASSISTANT :"
)
QWEN = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}  # fmt: skip
INTERN = {
    "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>", "start_image_token": "<img>",
    "end_image_token": "</img>",
}  # fmt: skip


def words(special):
    """A vocabulary, special tokens first."""
    return (*tiny.SPECIAL[:4], *special.values(), *tiny.WORDS[len(tiny.SPECIAL) :])


def text_sizes(special):
    return {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(words(special)), "max_position_embeddings": 512,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip


def qwen_config():
    """Windows of 2 x 2 visual tokens of 8 x 8 pixels, whole attention in two of four layers."""
    from transformers import Qwen2_5_VLConfig

    vision = {
        "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4, "window_size": 16,
        "out_hidden_size": 64, "fullatt_block_indexes": [1, 3],
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    return Qwen2_5_VLConfig(
        vision_config=vision, text_config=text_sizes(QWEN) | {"rope_parameters": rope}, **qwen_ids()
    )


def qwen3_config():
    """Visual tokens of 8 x 8 pixels, deepstack features of three of five layers, learned places of 6 x 6 patches."""
    from transformers import Qwen3VLConfig

    vision = {
        "depth": 5, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4, "out_hidden_size": 64,
        "deepstack_visual_indexes": [0, 1, 3], "num_position_embeddings": 36,
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    return Qwen3VLConfig(
        vision_config=vision, text_config=text_sizes(QWEN) | {"head_dim": 16, "rope_parameters": rope}, **qwen_ids()
    )


def qwen_ids():
    ids = {name: words(QWEN).index(token) for name, token in QWEN.items()}
    return {
        "image_token_id": ids["image_token"], "video_token_id": ids["video_token"],
        "vision_start_token_id": ids["vision_bos_token"], "vision_end_token_id": ids["vision_eos_token"],
    }  # fmt: skip


def qwen_processor(name="Qwen2_5_VLProcessor", videos="Qwen2VLVideoProcessor", longest=20):
    """Of pictures of at most 20 visual tokens, and videos of frames of at most `longest`, or of that in all."""
    import transformers

    sizes = {"patch_size": 4, "size": {"shortest_edge": 8 * 64, "longest_edge": 20 * 64}}
    template = TEMPLATE
    for kind in ("image", "video"):
        template = template.replace(kind.upper(), f"<|vision_start|><|{kind}_pad|><|vision_end|>")
    return getattr(transformers, name)(
        transformers.Qwen2VLImageProcessor(**sizes), tiny.tokenizer(words(QWEN), QWEN),
        getattr(transformers, videos)(**sizes | {"size": sizes["size"] | {"longest_edge": longest * 64}}),
        chat_template=template,
    )  # fmt: skip


def qwen3_processor():
    return qwen_processor("Qwen3VLProcessor", "Qwen3VLVideoProcessor", longest=96)


def intern_config():
    """Tiles of 4 x 4 visual tokens of 8 x 8 pixels."""
    from transformers import InternVLConfig

    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4,
        "image_size": [32, 32], "patch_size": [4, 4],
    }  # fmt: skip
    return InternVLConfig(
        vision_config=vision, text_config=text_sizes(INTERN) | {"model_type": "qwen2"}, image_seq_length=16,
        image_token_id=words(INTERN).index("<IMG_CONTEXT>"), tie_word_embeddings=False,
    )  # fmt: skip


def intern_processor():
    """A tall or wide picture becomes two tiles and a whole, any other a single tile."""
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    sizes = {"size": {"height": 32, "width": 32}}
    return InternVLProcessor(
        GotOcr2ImageProcessor(**sizes, crop_to_patches=True, max_patches=2), tiny.tokenizer(words(INTERN), INTERN),
        InternVLVideoProcessor(**sizes), image_seq_length=16,
        chat_template=TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>").replace("VIDEO", "<video>"),
    )  # fmt: skip


def video_llava_config():
    """Two CLIP towers, 4 x 4 patches."""
    from transformers import VideoLlavaConfig

    base, vocabulary = tiny.llava_config(), tiny_anyres.words()
    return VideoLlavaConfig(
        vision_config=base.vision_config.to_dict(), image_token_index=vocabulary.index("<image>"),
        text_config=base.text_config.to_dict() | {"vocab_size": len(vocabulary)},
        video_token_index=vocabulary.index("<video>"), vision_feature_layer=-2, tie_word_embeddings=False,
        vision_feature_select_strategy="default", image_seq_length=16,
    )  # fmt: skip


def video_llava_processor():
    from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor, VideoLlavaVideoProcessor

    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return VideoLlavaProcessor(
        VideoLlavaImageProcessor(**sizes), VideoLlavaVideoProcessor(**sizes),
        tiny.tokenizer(tiny_anyres.words(), tiny_anyres.BOTH), patch_size=8,
    )  # fmt: skip


FAMILIES = {
    "qwen2_5_vl": (qwen_config, qwen_processor, QWEN),
    "qwen3_vl": (qwen3_config, qwen3_processor, QWEN),
    "internvl": (intern_config, intern_processor, INTERN),
    "llava_next": (tiny_anyres.next_config, tiny_anyres.next_processor, tiny_anyres.IMAGE),
    "llava_onevision": (tiny_anyres.onevision_config, tiny_anyres.onevision_processor, tiny_anyres.BOTH),
    "llava_next_video": (tiny_anyres.next_video_config, tiny_anyres.next_video_processor, tiny_anyres.BOTH),
    "video_llava": (video_llava_config, video_llava_processor, tiny_anyres.BOTH),
}


CLIPS = {
    "qwen2_5_vl": None,
    "qwen3_vl": None,
    "internvl": None,
    "llava_onevision": (partial(tiny_anyres.onevision_config, 7), partial(tiny_anyres.onevision_processor, 7)),
    "llava_next_video": (partial(tiny_anyres.next_video_config, 8), partial(tiny_anyres.next_video_processor, 8)),
    "video_llava": None,
}
"""Families that show clips as such; configuration and processor where the ones for pictures have too few tokens."""


WITH_ENCODER = ("llava", "llava_next_video-clip")
"""Families whose tower is that of `tiny.save_clip`, and which tests of all methods are given it with."""


def makers(name):
    """Configuration, processor and special tokens of a family, or of `family-clip`."""
    family = name.removesuffix("-clip")
    own = FAMILIES[family]
    return (*CLIPS[family], own[2]) if name != family and CLIPS[family] else own


@cache
def info(name):
    """Shape and abilities of a family's tiny configuration."""
    from toksweep.harness.models import describe

    return describe(tiny.llava_config() if name == "llava" else makers(name)[0]())


def save(folder: Path, name: str, seed: int = 0) -> Path:
    """Write a whole checkpoint of a family, or of `family-clip`."""
    import transformers

    make, processor, special = makers(name)
    folder.mkdir(parents=True, exist_ok=True)
    config = make()
    architecture = {
        "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
        "qwen3_vl": transformers.Qwen3VLForConditionalGeneration,
        "internvl": transformers.InternVLForConditionalGeneration,
        "llava_next": transformers.LlavaNextForConditionalGeneration,
        "llava_onevision": transformers.LlavaOnevisionForConditionalGeneration,
        "llava_next_video": transformers.LlavaNextVideoForConditionalGeneration,
        "video_llava": transformers.VideoLlavaForConditionalGeneration,
    }[name.removesuffix("-clip")]
    tiny.random_model(architecture, config, seed, specials=4 + len(special)).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
