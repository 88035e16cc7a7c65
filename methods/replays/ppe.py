"""Feeds reference cases of PPE to our code: clusters with the positions that they keep, and rotary embedding."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import numpy as np
import torch

from ..compressors.ppe import held_places, ppe, sectioned_turns
from ..ops import rotate
from .given import Given


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`features` [n, d] and drawn noise to clusters, means and positions, or queries and keys to turned ones."""
    if "q" in case:
        positions = torch.from_numpy(case["position_ids"])
        cos, sin = sectioned_turns(positions, case["split_section"].tolist(), float(case["rope_theta"]))
        return {f"{name}_out": rotate(torch.from_numpy(case[name]), cos, sin).numpy() for name in "qk"}
    features = torch.from_numpy(case["features"]).double()[None]
    n, ratio = features.shape[1], round(float(case["ratio"]), 6)  # stored as float32
    draws = iter([torch.from_numpy(case["density_noise"])])
    merged = ppe(Given(features, (1, n), "projector", draws=draws), ceil(n * ratio))
    places = held_places(merged, max(int(case["ppe_k"]), 1))[0]
    ids = torch.from_numpy(case["position_ids"])[:, places].transpose(1, 2).flatten(0, 1)
    groups = merged.dense()[0].argmax(0)
    found = {"cluster_of_token": groups, "output_features": merged.apply(features)[0], "output_position_ids": ids}
    return {name: tensor.numpy() for name, tensor in found.items()}
