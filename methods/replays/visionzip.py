"""Feeds reference cases of VisionZip to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.visionzip import VisionZip
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features and keys with the class token in front, its attention, and counts to what enters the projector."""
    dominant, contextual = int(case["dominant"]), int(case["contextual"])
    view = vision_view(case)
    reduction = VisionZip(contextual=contextual / (dominant + contextual)).reduce(view, dominant + contextual)
    return describe(view, reduction.apply(view.tokens)[0], reduction.anchor[0, :dominant])


def vision_view(case: Mapping[str, np.ndarray]) -> View:
    """The view in front of the projector: patches, then the class token."""
    tokens = torch.from_numpy(case["hidden_states"])[None].roll(-1, 1)
    signals = {
        "class_attention@-2": torch.from_numpy(case["cls_attention"])[None],
        "keys@-2": torch.from_numpy(case["metric"])[None, None],
    }
    patches = tokens.shape[1] - 1
    return View(tokens, (1, patches), "projector", signals=signals, class_index=patches)


def describe(view: View, rows: torch.Tensor, dominant: torch.Tensor) -> dict[str, np.ndarray]:
    """The arrays of a case: dominant tokens counted from the class token, and the rows."""
    places = (dominant + 1) % view.tokens.shape[1]
    return {"dominant_indices_with_cls": places.numpy(), "output_features": rows.numpy()}


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it."""
    contextual = int(case["arg_contextual"])
    keep = int(case["arg_dominant"]) + contextual
    return Fixed.of("visionzip", keep, contextual=contextual / keep)
