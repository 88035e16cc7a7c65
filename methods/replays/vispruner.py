"""Feeds reference cases of VisPruner to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.vispruner import VisPruner
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`features` [n, d], `cls_attention` [heads, n], `k` and a share to the kept tokens."""
    features = torch.from_numpy(case["features"])[None]
    signals = {"class_attention@-2": torch.from_numpy(case["cls_attention"])[None], "features": features}
    view = View(features, (1, features.shape[1]), "projector", signals=signals)
    share = round(float(case["important_ratio"]), 6)  # stored as float32
    reduction = VisPruner(share).reduce(view, int(case["k"]))
    kept = np.asarray(reduction.describe(0), dtype=np.int64)
    return {"kept_indices": kept, "output_features": reduction.apply(features)[0].numpy()}


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it; shares are stored as float32."""
    return Fixed.of("vispruner", int(case["arg_k"]), important=round(float(case["arg_important_ratio"]), 6))
