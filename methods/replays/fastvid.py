"""Feeds reference cases of FastVID to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..compressors.fastvid import FastVID
from ..counts import strided
from ..frames import mixed
from ..windows import segments


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A clip [frames, n, dim], pooled features, scores and draws to what is kept and how it is mixed."""
    tau, contextual, beta, ratio = (  # stored as float32
        round(float(case[name]), 6) for name in ("dyseg_tau", "stprune_d", "dtm_beta", "retention_ratio")
    )
    method = FastVID(int(case["dyseg_c"]), tau, contextual, int(case["dtm_p"]), beta)
    clip, features, attention, noise = (
        torch.from_numpy(case[name]).double()
        for name in ("video_features", "global_features", "frame_attention", "density_noise")
    )
    frames, n, _ = clip.shape
    each = int(n * ratio)
    reduction = mixed([method.clip(clip, features, attention, noise, each)])
    lengths = segments(features, method.segments, method.tau)
    shared = int(each * contextual)
    counts = [count for length in lengths for count in strided(length, shared, n - each + shared, method.stride)]
    return {
        "kept_indices": reduction.anchor[0].numpy(),
        "output_features": reduction.apply(clip.reshape(1, frames * n, -1))[0].numpy(),
        "segment_sizes": np.asarray(lengths, dtype=np.int64),
        "contextual_per_frame": np.asarray(counts, dtype=np.int64),
    }
