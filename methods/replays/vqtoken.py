"""Feeds reference cases of VQToken to our code: k-means from a given start, and the elbow of a list."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..clustering import elbow, k_means


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`x` [n, d] and the start's indices to labels and centres, or `distortions` to the number of clusters."""
    if "distortions" in case:
        return {"elbow": np.asarray(elbow(case["distortions"].tolist()), dtype=np.int64)}
    points, first = torch.from_numpy(case["x"])[None], torch.from_numpy(case["init_index"])[None]
    tolerance = round(float(case["tol"]), 6)  # stored as float32
    labels, centres = k_means(points, first, most=int(case["max_iteration"]), tolerance=tolerance)
    return {"labels": labels[0].numpy(), "centroids": centres[0].numpy()}
