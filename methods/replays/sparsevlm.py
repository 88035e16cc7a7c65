"""Feeds reference cases of SparseVLM to our code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from ...harness.contracts import Compressor, ModelShape, Reduction, Stage, View
from ..attention import find_raters, rate
from ..clustering import dpc_knn, recycle
from ..compressors.sparsevlm import SparseVLM
from ..counts import clustered
from ..ops import top
from .given import Given


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
            view = Given(tokens, (1, n), "decoder", draws=iter([draws]))
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


def wired(case: Mapping[str, np.ndarray]) -> Compressor:
    """The method as a whole model's case asks for it; its layers are those that have just run."""
    version = 2 if str(case["arg_version"]) == "2_0" else 1
    draws = [torch.from_numpy(case[name]) for name in sorted(case) if name.startswith("density_noise/")]
    layers = tuple(layer + 1 for layer in case["arg_pruning_layers"].tolist())
    return Scheduled(SparseVLM(version=version, layers=layers), tuple(case["arg_keep_schedule"].tolist()), iter(draws))


@dataclass(frozen=True)
class Scheduled:
    """SparseVLM with the number of tokens that each cut keeps as they are, and recorded draws."""

    method: SparseVLM
    whole: tuple[int, int, int]
    draws: Iterator[torch.Tensor]

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        n, found = shape.tokens, []
        for cut, whole in zip(self.method.stages(shape.tokens, shape), self.whole, strict=True):
            whole = min(whole, n - 1)
            n = whole + (clustered(n, whole)[1] if self.method.version == 1 else 0)
            found.append(replace(cut, keep=n))
        return tuple(found)

    def reduce(self, view: View, keep: int) -> Reduction:
        if self.method.version == 2:
            return self.method.reduce(view, keep)
        assert self.method.layers is not None
        whole = self.whole[self.method.layers.index(view.layer or 0)]
        scores = rate(view["text_attention"].float(), find_raters(view["entering"], view["text_embeddings"]))
        given = Given(**{f.name: getattr(view, f.name) for f in fields(view)}, draws=self.draws)
        return recycle(given, scores, min(whole, scores.shape[1] - 1), keep)


def told(
    case: Mapping[str, np.ndarray], found: object, calls: Sequence[tuple[View, Reduction]]
) -> dict[str, np.ndarray]:
    """Which words rate."""
    view = calls[0][0]
    return {"text_raters": find_raters(view["entering"], view["text_embeddings"])[0].nonzero()[:, 0].numpy()}
