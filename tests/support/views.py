"""Views of random numbers, of the shapes that `View` states, for compressors that are called without a model."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import islice

import torch
from toksweep.harness.contracts import ModelShape, View

FRAMES = 8
"""Images in the view of a joint stage."""
SHAPE = ModelShape("llava", 16, (4, 4), 5, 6, True, feature_layers=4)


@dataclass(frozen=True)
class Sizes:
    """Widths and heads of the model that views pretend to come from, and the text tokens of a prompt."""

    features: int = 12
    llm: int = 12
    common: int = 6
    vision_heads: int = 4
    llm_heads: int = 4
    vision_head: int = 8
    llm_head: int = 8
    text: int = 5


def images(stage):
    return FRAMES if stage.joint else 1


def picked(choice, keep):
    """What a greedy choice picks first, a list per image."""
    return torch.stack(list(islice(choice, keep)), 1).tolist()


def signal(name, stage, rows, n, seed, shape=SHAPE, sizes=Sizes()):
    """Random numbers of the shape that `View` states for a signal, over n visual tokens."""
    kind, vision = name.partition("@")[0], stage.place != "decoder"
    heads, head = (sizes.vision_heads, sizes.vision_head) if vision else (sizes.llm_heads, sizes.llm_head)
    text, width = sizes.text, sizes.llm
    wanted = {
        "class_token": (1, sizes.features), "class_query": (heads, head), "features": (n, sizes.features),
        "clip_patches": (n, sizes.common), "clip_text": (2, sizes.common), "text_embeddings": (text, width),
        "entering": (shape.tokens, width), "normed": (n, width), "text_normed": (text, width),
        "text_keys": (heads, text, head), "text_attention": (heads, text, n), "next_text_attention": (heads, text, n),
        "keys": (heads, n + int("@" in name), head), "next_keys": (heads, n, head), "evidence": (n,),
        "prompt_queries": (heads, n + text, head), "prompt_keys": (heads, n + text, head),
    }.get(kind, (heads, n))  # fmt: skip
    if kind == "places":  # behind two words
        return (torch.arange(n) + 2).expand(rows, -1)
    draws = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    draw = torch.rand if "attention" in kind else torch.randn
    return draw(rows, *wanted, generator=draws)


def view(stage, n, rows=3, seed=0, shape=SHAPE, sizes=Sizes()):
    """A view of random tokens of one image, or eight for a joint stage; with a class token where there is one."""
    total, inside, behind = images(stage) * n, int(stage.place == "encoder"), int("class_token" in stage.reads)
    length, width = inside + total + behind, sizes.features if inside or stage.features else sizes.llm
    origin = torch.cat([torch.full((inside,), -1), torch.arange(n).repeat(images(stage)), torch.full((behind,), -1)])
    return View(
        torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed)), shape.grid, stage.place,
        stage.layer, torch.ones(rows, length), origin.expand(rows, -1),
        {name: signal(name, stage, rows, total + inside, seed, shape, sizes) for name in stage.reads},
        tuple(torch.Generator().manual_seed(s) for s in range(rows)), 0 if inside else total if behind else None,
        torch.arange(images(stage)).repeat_interleave(n).expand(rows, -1) if stage.joint else None, shape,
    )  # fmt: skip
