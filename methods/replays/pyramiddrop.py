"""Feeds reference cases of PyramidDrop to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.pyramiddrop import PyramidDrop
from .given import Fixed
from .llama import attention, queries_and_keys


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hidden states [length, dim] and weights of the layer behind each cut to what each cut keeps."""
    hidden, start = torch.from_numpy(case["features"]), int(case["image_start"])
    full = n = int(case["image_tokens"])
    method, found = PyramidDrop(), {}
    for stage, share in enumerate(case["image_token_ratio_list"].tolist()[1:]):
        norm, wq, wk = (torch.from_numpy(case[f"stage{stage}/{name}"]) for name in ("norm_weight", "wq", "wk"))
        query, key = queries_and_keys(hidden, norm, wq, wk, int(case["num_heads"]), float(case["rope_theta"]))
        signals = {"next_last_attention": attention(query, key)[None, :, -1, start : start + n]}
        tokens = hidden[None, start : start + n]
        view = View(tokens, (1, full), "decoder", signals=signals)
        reduction = method.reduce(view, int(full * round(share, 6)))
        if reduction.position != "renumber":
            raise ValueError("PyramidDrop closes the prompt up behind the tokens that it keeps")
        hidden = torch.cat([hidden[:start], reduction.apply(tokens)[0], hidden[start + n :]])
        n = int(reduction.counts[0])
        found[f"stage{stage}/kept_indices"] = np.asarray(reduction.describe(0), dtype=np.int64)
        found[f"stage{stage}/output_features"] = hidden.numpy()
        found[f"stage{stage}/output_position_ids"] = np.arange(len(hidden))
    return found


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it; shares are stored as float32."""
    full = int(case["visual_end"]) - int(case["visual_start"])
    left = [int(full * round(share, 6)) for share in case["arg_image_token_ratio_list"].tolist()[1:]]
    return Fixed.of("pyramiddrop", left[-1], left, layers=tuple(case["arg_layer_list"].tolist()))
