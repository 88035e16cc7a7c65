"""Feeds reference cases of DivPrune to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.divprune import divprune
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`features` [n, d] and `k` to `kept_indices` [k]."""
    features = torch.from_numpy(case["features"])[None]
    view = View(features, (1, features.shape[1]), "projector")
    kept = divprune(view, int(case["k"]))
    return {"kept_indices": np.asarray(kept.describe(0), dtype=np.int64)}


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it: `arg_k` tokens."""
    return Fixed.of("divprune", int(case["arg_k"]))
