"""Feeds reference cases of FastV to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.fastv import FastV


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
