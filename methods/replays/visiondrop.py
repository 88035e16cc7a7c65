"""Feeds reference cases of VisionDrop to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.visiondrop import VisionDrop
from .llama import attention, queries_and_keys


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hidden states [length, dim] and weights of the layer behind each cut to what each cut leaves."""
    hidden, start, n = torch.from_numpy(case["features"]), int(case["image_start"]), int(case["image_tokens"])
    full, found = n, {}
    for stage, (dominant, contextual) in enumerate(case["schedule_dominant_contextual"].tolist()):
        norm, wq, wk = (torch.from_numpy(case[f"stage{stage}/{name}"]) for name in ("norm_weight", "wq", "wk"))
        query, key = queries_and_keys(hidden, norm, wq, wk, int(case["num_heads"]), float(case["rope_theta"]))
        visual = slice(start, start + n)
        signals = {
            "next_visual_attention": attention(query, key)[None, :, visual, visual].mean(2),
            "next_keys": key[None, :, visual],
        }
        tokens = hidden[None, visual]
        view = View(tokens, (1, full), "decoder", signals=signals)
        n = dominant + contextual
        reduction = VisionDrop(contextual=contextual / n).reduce(view, n)
        if reduction.position != "renumber":
            raise ValueError("VisionDrop closes the prompt up behind the tokens that it keeps")
        hidden = torch.cat([hidden[:start], reduction.apply(tokens)[0], hidden[visual.stop :]])
        found[f"stage{stage}/output_features"] = hidden.numpy()
        found[f"stage{stage}/output_position_ids"] = np.arange(len(hidden))
    return found
