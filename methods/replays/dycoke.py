"""Feeds reference cases of DyCoke to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.dycoke import DyCoke, references


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`features` [frames, n, dim] and the share removed from a pruned frame to what is kept.

    The last frame of an odd clip is left out of the answer, as the authors' code loses it.
    """
    clip = torch.from_numpy(case["features"])
    frames, n, dim = clip.shape
    each = int((1 - round(float(case["merging_ratio"]), 6)) * n)
    keep = sum(n if other is None else each for other in references(frames, complete=False))
    tokens = clip.view(1, frames * n, dim)
    view = View(tokens, (1, n), "projector", image=torch.arange(frames).repeat_interleave(n)[None])
    reduction = DyCoke().reduce(view, keep)
    kept = reduction.anchor[0]
    there = kept < (frames - frames % 2) * n
    return {"kept_indices_in_order": kept[there].numpy(), "output_features": reduction.apply(tokens)[0, there].numpy()}
