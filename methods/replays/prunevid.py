"""Feeds reference cases of PruneVid to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..attention import attended
from ..compressors.prunevid import FEW, cluster
from ..frames import grouped
from ..windows import alike_windows


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A clip [frames, n, dim] with draws to merged tokens and sizes of groups, and attention to the tokens kept."""
    clip = torch.from_numpy(case["video_features"]).double()
    frames, n, _ = clip.shape
    tau, windows, share, alpha = (  # stored as float32
        round(float(case[name]), 6) for name in ("tau", "temporal_segment_ratio", "cluster_ratio", "alpha")
    )
    draws = (torch.from_numpy(case[f"density_noise_{i}"]) for i in range(len(case)))
    groups = alike_windows(clip, tau, int(frames * windows), next(draws))
    counts = [size if size <= FEW else int(size * share) for size in (len(places) for _, places in groups)]
    merged = grouped([cluster(clip, groups, counts, draws)])
    attention = torch.from_numpy(case["text_to_visual_attention"])[None]
    sizes = torch.tensor(counts)
    members = torch.repeat_interleave(torch.arange(len(counts)), sizes)
    shares = torch.tensor([int(alpha * count) for count in counts])
    kept = attended(attention, members[None], shares[None])[0].nonzero()[:, 0]
    lengths, static, other, at = [], [], [], 0
    while at < len(groups):
        length = groups[at][0].stop - groups[at][0].start
        lengths.append(length)
        static.append(counts[at])
        other.append(sum(counts[at + 1 : at + 1 + length]))
        at += 1 + length
    return {
        "output_features": merged.apply(clip.reshape(1, frames * n, -1))[0].numpy(),
        "window_sizes": np.asarray(lengths, dtype=np.int64),
        "static_sizes": np.asarray(static, dtype=np.int64),
        "dynamic_sizes": np.asarray(other, dtype=np.int64),
        "kept_indices": kept.numpy(),
    }
