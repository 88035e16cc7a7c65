"""Feeds reference cases of HiPrune to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.hiprune import HiPrune
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Attention received in two layers: of [crops, 576] patches that share `retention`, or of one grid and a ratio."""
    objects, deep = (torch.from_numpy(np.atleast_2d(case[f"{name}_received"])) for name in ("object", "deep"))
    crops, n = objects.shape
    if "retention" in case:
        keep, grid = int(case["retention"]) // crops, (24, 24)
    else:
        keep, grid = round(n * _decimal(case["retention_ratio"])), (int(case["grid"][0]), int(case["grid"][1]))
    layer = int(case["object_layer"])
    signals = {f"received_attention@{layer - 1}": objects[:, None], "received_attention@-2": deep[:, None]}
    view = View(torch.zeros(crops, n, 1), grid, "projector", signals=signals)
    reduction = HiPrune(_decimal(case["alpha"]), layer).reduce(view, keep)
    kept = [np.asarray(reduction.describe(crop), dtype=np.int64) for crop in range(crops)]
    mask = reduction.dense().sum(1).long().numpy()
    if "retention" in case:
        return {"kept_mask": mask} | {f"kept_indices_{crop}": indices for crop, indices in enumerate(kept)}
    text = np.ones(7, dtype=np.int64)  # three tokens of text in front of the picture, four behind it
    return {"kept_indices": kept[0], "sequence_keep_mask": np.concatenate([text[:3], mask[0], text[3:]])}


def _decimal(value: np.ndarray) -> float:
    """Ratios are stored as float32."""
    return round(float(value), 6)


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it; shares are stored as float32."""
    alpha, layer = round(float(case["arg_alpha"]), 6), int(case["arg_object_layer_1based"])
    return Fixed.of("hiprune", int(case["arg_k"]), alpha=alpha, object_layer=layer)
