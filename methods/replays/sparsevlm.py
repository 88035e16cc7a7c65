"""Feeds reference cases of SparseVLM to our code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ...harness.contracts import Reduction, View
from ..compressors.sparsevlm import clustered, find_raters, rate, recycle
from ..ops import dpc_knn, top


@dataclass(frozen=True)
class Given(View):
    """A view whose random draws are those of the case."""

    draws: torch.Tensor | None = None

    def noise(self, *shape: int) -> torch.Tensor:
        assert self.draws is not None and self.draws.shape == shape
        return self.draws[None]


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A clustering (`features` [n, dim]), or a prompt's embeddings and three layers' outputs with words' attention."""
    if "features" in case:
        points, clusters = torch.from_numpy(case["features"])[None], int(case["cluster_num"])
        labels, _ = dpc_knn(points, clusters, clusters, torch.from_numpy(case["density_noise"])[None])
        return {"merged": Reduction.merge(labels).apply(points)[0].numpy()}
    embeddings, start, n = (
        torch.from_numpy(case["embeddings"])[None],
        int(case["image_start"]),
        int(case["image_tokens"]),
    )
    words = int(case["text_tokens"])
    raters = find_raters(embeddings[:, start : start + n], embeddings[:, start + n : start + n + words])
    found = {"rater_indices": raters[0].nonzero()[:, 0].numpy()}
    position = np.arange(embeddings.shape[1])
    for layer, scheduled in zip((2, 6, 15), case["keep_schedule"].tolist(), strict=True):
        hidden = torch.from_numpy(case[f"layer{layer}/layer_output"])[None]
        attention = torch.from_numpy(case[f"layer{layer}/text_to_seq_attention"])[None]
        scores, whole = rate(attention[..., start : start + n], raters), min(scheduled, n - 1)
        tokens = hidden[:, start : start + n]
        if case["version2"]:
            reduction = Reduction.keep(top(scores, whole), n)
        else:
            draws = torch.from_numpy(case[f"layer{layer}/density_noise"])
            view = Given(tokens, (1, n), "decoder", draws=draws)
            reduction = recycle(view, scores, whole, whole + clustered(n, whole)[1])
        mask = np.zeros(n, dtype=np.int64)
        mask[reduction.anchor[0, :whole].numpy()] = 1
        rows = reduction.apply(tokens)
        hidden = torch.cat([hidden[:, :start], rows, hidden[:, start + n :]], 1)
        if case["version2"]:
            position = np.concatenate([position[:start], position[start : start + n][mask == 1], position[start + n :]])
        else:
            found[f"layer{layer}/merged_tokens"] = rows[0, whole:].numpy()
            position = position[: hidden.shape[1]]
        n = rows.shape[1]
        found[f"layer{layer}/kept_visual_mask"] = mask
        found[f"layer{layer}/visual_tokens_after"] = np.asarray(n)
        found[f"layer{layer}/output"] = hidden[0].numpy()
        found[f"layer{layer}/position_ids"] = position
    return found
