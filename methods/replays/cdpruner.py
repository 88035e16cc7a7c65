"""Feeds reference cases of CDPruner to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.cdpruner import cdpruner
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Projected `features` [n, d], CLIP embeddings of patches and text, and `k` to the kept tokens."""
    features = torch.from_numpy(case["features"])[None]
    signals = {
        "clip_patches": torch.from_numpy(case["image_embeds"])[None],
        "clip_text": torch.from_numpy(case["text_embeds"])[None],
    }
    view = View(features, (1, features.shape[1]), "projector", signals=signals)
    reduction = cdpruner(view, int(case["k"]))
    kept = np.asarray(reduction.describe(0), dtype=np.int64)
    return {"kept_indices": kept, "output_features": reduction.apply(features)[0].numpy()}


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it: `arg_k` tokens."""
    return Fixed.of("cdpruner", int(case["arg_k"]))
