"""Feeds reference cases of HoliTom to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..compressors.holitom import HoliTom
from ..frames import grouped
from ..ops import fold
from ..windows import find_windows, left_in, stands_still, still_windows


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A clip's `video_features` [frames, n, dim] to what enters the LLM; or a cut of `hidden_states` [length, dim]."""
    if "hidden_states" in case:
        return _inner(case)
    clip, attention = torch.from_numpy(case["video_features"]), torch.from_numpy(case["frame_attention"])
    tau, beta, ratio = (round(float(case[name]), 6) for name in ("tau", "beta", "retain_ratio"))
    if case["contextual_share"] > 0:
        raise ValueError("clusters within a frame are not offered: the released code fails on them")
    windows, saved = find_windows(stands_still(clip, tau))
    total = clip.shape[0] * clip.shape[1]
    share = min(ratio / ((total - saved) / total), 1)
    groups, noise = still_windows(clip, tau), torch.zeros(clip.shape[:2])
    draws = (torch.from_numpy(case[f"density_noise_{number}"])[0] for number in range(len(windows)))
    for window, places in groups:
        if window.stop - window.start > 1 and left_in((window, places), share):
            noise[window.start, : len(places)] = next(draws)
    method = HoliTom(tau=tau, beta=beta, neighbours=int(case["knn"]))
    reduction = grouped([method.merge(clip, attention, groups, share, noise)])
    return {
        "windows": np.asarray(windows, dtype=np.int64),
        "output_features": reduction.apply(clip.flatten(0, 1)[None])[0].numpy(),
    }


def _inner(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    hidden, start, n = (
        torch.from_numpy(case["hidden_states"])[None],
        int(case["image_start"]),
        int(case["image_tokens"]),
    )
    scores = torch.from_numpy(case["last_token_attention"])[None, :, start : start + n].mean(1)
    tokens = hidden[:, start : start + n]
    reduction = fold(tokens, scores, round(n * (1 - round(float(case["drop_ratio"]), 6))))
    if reduction.position != "keep":
        raise ValueError("HoliTom keeps the positions of the tokens that it keeps")
    kept = reduction.anchor[0].numpy()
    after = np.arange(start + n, hidden.shape[1])
    return {
        "kept_indices": kept,
        "position_ids": np.concatenate([np.arange(start), start + kept, after]),
        "output_hidden": torch.cat([hidden[0, :start], reduction.apply(tokens)[0], hidden[0, start + n :]]).numpy(),
    }
