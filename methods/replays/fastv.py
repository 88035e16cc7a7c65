"""Feeds reference cases of FastV to our code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...harness.contracts import Reduction, View
from ..compressors.fastv import FastV
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`last_token_attention` [heads, length] and a count to the kept indices, in the picture and in the sequence."""
    start, n = int(case["sys_length"]), int(case["image_length"])
    attention = torch.from_numpy(case["last_token_attention"])
    if "attention_rank" in case:
        keep = int(case["attention_rank"])
    else:  # ratios are stored as float32
        keep = round(n * (1 - round(float(case["drop_ratio"]), 6)))
    signals = {"last_attention": attention[None, :, start : start + n]}
    view = View(torch.zeros(1, n, 1), (1, n), "decoder", signals=signals)
    reduction = FastV().reduce(view, keep)
    if reduction.position != "keep":
        raise ValueError("FastV keeps the positions of the tokens that it keeps")
    kept = np.asarray(reduction.describe(0), dtype=np.int64)
    sequence = np.concatenate([np.arange(start), start + kept, np.arange(start + n, attention.shape[1])])
    return {"kept_indices": kept, "kept_sequence_indices": sequence, "position_ids": sequence.copy()}


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it."""
    return Fixed.of("fastv", int(case["arg_k"]), layer=int(case["arg_K"]))


def told(
    case: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], calls: Sequence[tuple[View, Reduction]]
) -> dict[str, np.ndarray]:
    """What the authors' mode that masks keys and shortens nothing says of the same cut."""
    if str(case["arg_mode"]) != "mask":
        return {}
    layers, full = len(found["layer_input_length"]), int(found["layer_input_length"][0])
    n = int(case["visual_end"]) - int(case["visual_start"])
    return {
        "layer_input_length": np.full(layers, full),
        "length_after_layer": np.full(layers, full),
        "position_ids": np.tile(np.arange(full), (layers, 1)),
        "num_cuts": np.asarray(0),
        "masked_visual": np.setdiff1d(np.arange(n), found["cut0/kept_visual"]),
        "layers_masked": (np.arange(layers) >= int(case["arg_K"])).astype(np.int64),
    }
