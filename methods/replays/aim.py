"""Feeds reference cases of AIM to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..compressors.aim import merge_rounds, page_rank, walk
from ..ops import top


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merging of `features` [frames, n, dim], PageRank of `logits` [heads, n, n], or pruning by layers that mask."""
    if "logits" in case:
        ranks = walk(torch.from_numpy(case["logits"]))
        return {"importance": ranks.square().mean(0).sqrt().numpy()}
    if "boundaries" in case:
        return _prune(case)
    tokens = torch.from_numpy(case["features"])
    n = tokens.shape[1]
    if "r" in case:
        return {"output_features": merge_rounds(tokens, n - min(int(case["r"]), n // 2)).apply(tokens).numpy()}
    found = {}
    for number in (1, 2):
        left = tokens.shape[1]
        tokens = merge_rounds(tokens, left - min(int(case[f"r{number}"]), left // 2)).apply(tokens)
        found[f"output_round{number}"] = tokens.numpy()
    return found


def _prune(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start, end, length = case["boundaries"].tolist()
    counts = [int((end - start) * round(rate, 6)) for rate in case["retain_rate"].tolist()]
    visible = torch.ones(1, length, dtype=torch.bool)
    found = {"visual_kept_after_layer_12_to_23": np.asarray(counts[12:24])}
    for layer in sorted(int(name[5:-2]) for name in case if name.endswith("/q")):
        query, key = (torch.from_numpy(case[f"layer{layer}/{name}"])[None] for name in "qk")
        rank = page_rank(query, key, visible).masked_fill(~visible, -1)[:, start:end]
        visible = visible.clone()
        visible[:, start:end] = False
        visible[:, start + top(rank, counts[layer])[0]] = True
        found[f"layer{layer}/keep_mask_after"] = visible[0].long().numpy()
    return found
