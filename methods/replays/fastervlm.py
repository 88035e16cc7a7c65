"""Feeds reference cases of FasterVLM to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.fastervlm import fastervlm
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`features` [n, d], `cls_attention` [heads, n] and `k` to the kept tokens."""
    features = torch.from_numpy(case["features"])[None]
    signals = {"class_attention@-2": torch.from_numpy(case["cls_attention"])[None]}
    reduction = fastervlm(View(features, (1, features.shape[1]), "projector", signals=signals), int(case["k"]))
    kept = np.asarray(reduction.describe(0), dtype=np.int64)
    return {"kept_indices": kept, "output_features": reduction.apply(features)[0].numpy()}


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it: `arg_k` tokens."""
    return Fixed.of("fastervlm", int(case["arg_k"]))
