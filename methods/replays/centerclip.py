"""Feeds reference cases of CenterCLIP to our code, and states what its layer can do beside clustering."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..clustering import affinity, k_medoids, spectrum
from ..compressors.centerclip import CenterCLIP


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Uniform places, a graph, a clustering of `x` [batch, n, dim], or a layer, which the case's name tells apart."""
    kind = str(case["case"]).split("_")[0]
    if kind == "sparse":
        return {"index": _sampled(int(case["target"]), int(case["total"])).numpy()}
    if kind == "layer":
        return {"out": _layer(case).numpy()}
    points = torch.from_numpy(case["x"]).double()
    if kind == "graph":
        return {
            "W": affinity(points, float(case["sigma"]), int(case["knn_k"]) if case["knn"] else None).float().numpy()
        }
    clusters = int(case["K"])
    if kind == "spectral":
        medoids, assigned = k_medoids(spectrum(affinity(points, float(case["sigma"])), clusters), clusters)
    else:
        points = torch.nn.functional.normalize(points, dim=-1) if case["pre_norm"] else points
        medoids, assigned = k_medoids(points, clusters, cosine=bool(case["cosine"]), rounds=int(case["iter_limit"]))
    return {"medoids": medoids.numpy(), "assign": assigned.numpy()}


def _layer(case: Mapping[str, np.ndarray]) -> torch.Tensor:
    """Class and patch tokens [1 + n, videos * frames, dim] to those of fewer segments, or with channels shifted."""
    videos, frames, segments = (int(case[n]) for n in ("batch", "before_block_frames", "after_block_frames"))
    given = torch.tensor(case["x"])  # shifting writes to it
    tokens = given.view(len(given), videos, segments, frames // segments, -1)
    kind, count = str(case["case"]).split("_")[1:3], int(case["cluster_num"])
    if kind[-1] == "shift":
        place = slice(0, 1) if kind[0] == "token" else slice(1, None)
        tokens[place] = _shift(tokens[place].flatten(2, 3)).view_as(tokens[place])
        return tokens.flatten(1, 3)
    patches = tokens[1:].movedim(0, 3)  # [videos, segments, frames, patches, dim]
    if kind[0] == "pooling":
        kept = patches.mean(2)
    elif kind[0] == "sparse":
        kept = patches.flatten(2, 3)[:, :, _sampled(count, patches.shape[2] * patches.shape[3])]
    else:
        method = CenterCLIP(frames=frames // segments, mean=bool(case["aggregate_mean"]))
        flat = patches.flatten(1, 3)
        image = torch.arange(frames).repeat_interleave(patches.shape[3]).expand(videos, -1)
        view = View(flat, (1, patches.shape[3]), "projector", image=image)
        kept = method.reduce(view, count * segments).apply(flat).view(videos, segments, count, -1)
    return torch.cat([tokens[:1].mean(3).flatten(1, 2), kept.movedim(2, 0).flatten(1, 2)])


def _shift(tokens: torch.Tensor) -> torch.Tensor:
    """[..., frames, dim] with an eighth of the channels of the next frame, an eighth of the last, or zeros."""
    part, moved = tokens.shape[-1] // 8, tokens.clone()
    moved[..., : 2 * part] = 0
    moved[..., :-1, :part] = tokens[..., 1:, :part]
    moved[..., 1:, part : 2 * part] = tokens[..., :-1, part : 2 * part]
    return moved


def _sampled(count: int, total: int) -> torch.Tensor:
    """Middles of `count` equal parts of `total` places."""
    if count >= total:
        return torch.arange(count)
    return torch.tensor([int(total / count / 2 + total / count * part) for part in range(count)])
