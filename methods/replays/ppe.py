"""Feeds reference cases of PPE to our code: clusters with the positions that they keep, and rotary embedding."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import numpy as np
import torch

from ...harness.models.holding import held_places, turns
from ..compressors.ppe import PPE
from ..ops import rotate
from .given import Given


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`features` [n, d] and drawn noise to clusters, means and positions, or queries and keys to turned ones."""
    if "q" in case:
        return _turned(case)
    features = torch.from_numpy(case["features"]).double()[None]
    n, ratio = features.shape[1], round(float(case["ratio"]), 6)  # stored as float32
    draws = iter([torch.from_numpy(case["density_noise"])])
    merged = PPE().reduce(Given(features, (1, n), "projector", draws=draws), ceil(n * ratio))
    members = [row if isinstance(row, list) else [row] for row in merged.describe(0)]
    places = held_places(members, max(int(case["ppe_k"]), 1))
    ids = torch.from_numpy(case["position_ids"])[:, places].transpose(1, 2).flatten(0, 1)
    groups = merged.dense()[0].argmax(0)
    found = {"cluster_of_token": groups, "output_features": merged.apply(features)[0], "output_position_ids": ids}
    return {name: tensor.numpy() for name, tensor in found.items()}


def _turned(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Queries and keys of tokens at several places, by the engine's own tables; `position_ids` are by number first."""
    given, sections = torch.from_numpy(case["position_ids"]), case["mrope_section"].tolist()
    half, theta = sum(sections), float(case["rope_theta"])
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)

    def rotary(tokens: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = (position_ids[0, ..., None] * frequency).repeat(1, 1, 2)  # all three numbers are the same
        return angles.cos().float(), angles.sin().float()

    held = given.view(3, -1, 1, given.shape[-1]).transpose(0, 1)
    cosines, sines = turns(rotary, torch.zeros(0), held, {"mrope_section": sections})
    return {f"{name}_out": rotate(torch.from_numpy(case[name]), cosines[0], sines[0]).numpy() for name in "qk"}
