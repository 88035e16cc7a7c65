"""Feeds reference cases of DUET-VLM's two stages to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.duet_vlm import DuetVLM
from .given import Fixed
from .llama import attention, queries_and_keys
from .visionzip import describe, vision_view


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A case of the first stage holds `dominant`, one of the second hidden states and weights."""
    return _vision(case) if "dominant" in case else _language(case)


def _vision(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    dominant, contextual = int(case["dominant"]), int(case["contextual"])
    view, keep = vision_view(case), dominant + contextual
    reduction = DuetVLM(contextual / keep, int(case["cluster_width"])).reduce(view, keep)
    return describe(view, reduction.apply(view.tokens)[0], reduction.anchor[0, :dominant])


def _language(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    hidden, start = torch.from_numpy(case["features"]), int(case["image_start"])
    full = n = int(case["image_tokens"])
    found: dict[str, np.ndarray] = {}
    layers = tuple(case["layer_list"].tolist())
    shares = tuple(round(share, 6) for share in case["image_token_ratio_list"].tolist()[1:])  # stored as float32
    method = DuetVLM(layers=layers, shares=shares)
    for stage, share in enumerate(shares):
        norm, wq, wk = (torch.from_numpy(case[f"stage{stage}/{name}"]) for name in ("norm_weight", "wq", "wk"))
        query, key = queries_and_keys(hidden, norm, wq, wk, int(case["num_heads"]), float(case["rope_theta"]))
        rows = attention(query, key)[None, :, start + n :, start : start + n]
        tokens = hidden[None, start : start + n]
        view = View(tokens, (1, full), "decoder", signals={"next_text_attention": rows})
        reduction = method.reduce(view, int(full * share))
        hidden = torch.cat([hidden[:start], reduction.apply(tokens)[0], hidden[start + n :]])
        n = int(reduction.counts[0])
        found[f"stage{stage}/kept_indices"] = np.asarray(reduction.describe(0))
        found[f"stage{stage}/output_features"] = hidden.numpy()
        found[f"stage{stage}/output_position_ids"] = np.arange(len(hidden))
    return found


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it, in front of the LLM too where it has a tower."""
    layers = tuple(case["arg_layer_list"].tolist())
    shares = tuple(round(share, 6) for share in case["arg_image_token_ratio_list"].tolist()[1:])  # stored as float32
    if "arg_dominant" not in case:
        full = int(case["visual_end"]) - int(case["visual_start"])
        return Fixed.of("duet_vlm", full, layers=layers, shares=shares)
    contextual = int(case["arg_contextual"])
    keep, width = int(case["arg_dominant"]) + contextual, int(case["arg_cluster_width"])
    return Fixed.of("duet_vlm", keep, contextual=contextual / keep, width=width, layers=layers, shares=shares)
