"""Tiny LLaVA-NeXT and LLaVA-OneVision: real classes and processors, random weights, tiles of 4 x 4 tokens."""

from __future__ import annotations

import tiny

IMAGE = {"image_token": "<image>"}
BOTH = {"image_token": "<image>", "video_token": "<video>"}
SIDE = 32
PINPOINTS = [[32, 64], [64, 32], [64, 64]]


def next_video_config(grid=4):
    """As LLaVA-NeXT, with a clip's frames of half as many rows and columns."""
    from transformers import LlavaNextVideoConfig

    base = tiny.llava_config(grid=grid)
    text = base.text_config.to_dict() | {"vocab_size": len(words())}
    return LlavaNextVideoConfig(
        vision_config=base.vision_config.to_dict(), text_config=text, image_token_index=words().index("<image>"),
        video_token_index=words().index("<video>"), vision_feature_layer=-2, vision_feature_select_strategy="default",
        image_grid_pinpoints=[[8 * grid * rows, 8 * grid * columns] for rows, columns in ((1, 2), (2, 1), (2, 2))],
        image_seq_length=grid**2, tie_word_embeddings=False,
    )  # fmt: skip


def next_video_processor(grid=4):
    from transformers import LlavaNextImageProcessor, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    side = 8 * grid
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    points = [[side * rows, side * columns] for rows, columns in ((1, 2), (2, 1), (2, 2))]
    return LlavaNextVideoProcessor(
        LlavaNextVideoVideoProcessor(**sizes), LlavaNextImageProcessor(**sizes, image_grid_pinpoints=points),
        tiny.tokenizer(words(), BOTH), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


def many(grid):
    """Up to 3 x 3 tiles."""
    return [[8 * grid * rows, 8 * grid * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]


def next_config():
    """A CLIP tower with a class token; a picture has two tiles or four."""
    from transformers import LlavaNextConfig

    base = tiny.llava_config()
    return LlavaNextConfig(
        vision_config=base.vision_config.to_dict(), text_config=base.text_config.to_dict(),
        image_token_index=base.image_token_index, vision_feature_layer=-2, vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS, image_seq_length=16, tie_word_embeddings=False,
    )  # fmt: skip


def next_processor():
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PINPOINTS
    )
    return LlavaNextProcessor(
        pictures, tiny.tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


def words():
    """The vocabulary of `tiny`, with a second placeholder behind the first."""
    return (*tiny.SPECIAL, "<video>", *tiny.WORDS[len(tiny.SPECIAL) :])


def onevision_config(grid=4):
    """A SigLIP tower; rasters of more than about two tiles are made smaller."""
    from transformers import LlavaOnevisionConfig

    base = tiny.llava_config(grid=grid, tower="siglip", llm="qwen2")
    text = base.text_config.to_dict() | {"vocab_size": len(words())}
    return LlavaOnevisionConfig(
        vision_config=base.vision_config.to_dict() | {"vision_use_head": False}, text_config=text,
        image_token_index=words().index("<image>"), video_token_index=words().index("<video>"),
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_grid_pinpoints=many(grid),
        vision_aspect_ratio="anyres_max_2", tie_word_embeddings=False,
    )  # fmt: skip


def onevision_processor(grid=4):
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    sizes = {"size": {"height": 8 * grid, "width": 8 * grid}}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(**sizes, image_grid_pinpoints=many(grid)), tiny.tokenizer(words(), BOTH),
        LlavaOnevisionVideoProcessor(**sizes), num_image_tokens=grid**2, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2", chat_template=None,
    )  # fmt: skip
