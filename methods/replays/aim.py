"""Feeds reference cases of AIM to our code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...harness.contracts import Reduction, View
from ..attention import page_rank, standing, walk
from ..ops import top
from ..pairs import merge_rounds
from .given import Fixed


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
        left = start + visible[:, start:end].nonzero()[:, 1][None]
        ahead = standing(page_rank(query, key, visible), left, visible)
        visible = visible.clone()
        visible[:, start:end] = False
        visible[:, left[0, top(-ahead, counts[layer])[0]]] = True
        found[f"layer{layer}/keep_mask_after"] = visible[0].long().numpy()
    return found


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it, which prunes without merging and masks what it drops."""
    falling = np.flatnonzero(np.diff(case["arg_retain_rate"])) + 1  # after these layers
    n = int(case["visual_end"]) - int(case["visual_start"])
    return Fixed.of("aim", n, mask=True, layers=tuple(int(layer) + 1 for layer in falling))


def told(
    case: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], calls: Sequence[tuple[View, Reduction]]
) -> dict[str, np.ndarray]:
    """Which visual tokens every layer attends to."""
    n = int(case["visual_end"]) - int(case["visual_start"])
    visible = np.ones((len(found["layer_input_length"]), n), dtype=np.int64)
    for cut in range(len(calls)):
        first = int(found[f"cut{cut}/first_shortened_layer"])
        visible[first:] = 0
        visible[first:, found[f"cut{cut}/kept_visual"]] = 1
    return {"visual_key_visible": visible, "visible_visual_count": visible.sum(1)}
