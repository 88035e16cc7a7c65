"""A LLaVA of the real classes with random weights, small enough for every test."""

from __future__ import annotations

from pathlib import Path

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
SPOKEN = "what colour is the ball how many dogs are there red green blue one two three yes no a an on of in left right"
WORDS = (*SPECIAL, "USER", "ASSISTANT", ":", "?", *dict.fromkeys(SPOKEN.split()))


def llava_config(
    *,
    grid: int = 4,
    vision_layers: int = 5,
    llm_layers: int = 6,
    hidden: int = 64,
    tower: str = "clip",
    llm: str = "llama",
):
    """Configuration of a tiny LLaVA: by default a CLIP tower with a class token, grouped-query attention in a Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, MistralConfig, Qwen2Config, SiglipVisionConfig

    vision = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}[tower](
        hidden_size=32, intermediate_size=64, num_hidden_layers=vision_layers, num_attention_heads=4, patch_size=8,
        image_size=8 * grid,
    )  # fmt: skip
    windowless = {"sliding_window": None} if llm == "mistral" else {}
    text = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}[llm](
        hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=llm_layers, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=len(WORDS), max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, **windowless,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=WORDS.index("<image>"), vision_feature_layer=-2,
        vision_feature_select_strategy="default" if tower == "clip" else "full", image_seq_length=grid * grid,
    )  # fmt: skip


def llava_model(config, seed: int = 0):
    """A LLaVA with random weights."""
    from transformers import LlavaForConditionalGeneration

    return random_model(LlavaForConditionalGeneration, config, seed)


def random_model(architecture, config, seed: int = 0, *, specials: int = len(SPECIAL)):
    """A model with random weights that never says a special token, so that answers have words."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
            model.lm_head.weight[:specials] = 0
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    return model.eval()


def tokenizer(words=WORDS, special=None):
    """One token per word, the begin token in front; `special` names the special tokens of a processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=special or {"image_token": "<image>"},
    )  # fmt: skip


def processor(grid: int = 4):
    """A word-level tokenizer and CLIP's preprocessing."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = 8 * grid
    pictures = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip


def save_llava(folder: Path, seed: int = 0, **shape) -> Path:
    """Write a whole checkpoint that `from_pretrained` loads; the same seed writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    llava_model(llava_config(**shape), seed).save_pretrained(folder)
    processor(shape.get("grid", 4)).save_pretrained(folder)
    return folder


def save_clip(folder: Path, *, vision_layers: int = 5, grid: int = 4) -> Path:
    """A tiny CLIP whose projection takes features of the tower of `save_llava`, with texts of at most 16 tokens."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor

    tower = llava_config(vision_layers=vision_layers, grid=grid).vision_config.to_dict()
    text = {
        "vocab_size": len(WORDS), "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 3,
        "pad_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=tower, projection_dim=20))
    model.save_pretrained(folder)
    whole = processor(grid)
    CLIPProcessor(image_processor=whole.image_processor, tokenizer=whole.tokenizer).save_pretrained(folder)
    return folder


def picture(seed: int, size: tuple[int, int] = (48, 40)):
    """A random picture with some structure, so that patches differ."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def save_questions(folder: Path, pictures: int = 3) -> Path:
    """Pictures with questions, in the layout that the task `images_qa` reads."""
    import json

    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(pictures):
        picture(i).save(folder / "images" / f"{i}.png")
        for question, answer in (("what colour is the ball?", "red"), ("how many dogs are there?", "two")):
            lines.append({"file": f"images/{i}.png", "question": question, "answers": [answer]})
    (folder / "annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


if __name__ == "__main__":
    import sys

    save_llava(Path(sys.argv[1]) / "model")
    save_questions(Path(sys.argv[1]) / "data")
