"""Feeds reference cases of VisionDrop to our code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...harness.contracts import Compressor, ModelShape, Reduction, Stage, View
from ..compressors.visiondrop import VisionDrop
from .llama import attention, queries_and_keys


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hidden states [length, dim] and weights of the layer behind each cut to what each cut leaves."""
    hidden, start, n = torch.from_numpy(case["features"]), int(case["image_start"]), int(case["image_tokens"])
    full, found = n, {}
    for stage, (dominant, contextual) in enumerate(case["schedule_dominant_contextual"].tolist()):
        norm, wq, wk = (torch.from_numpy(case[f"stage{stage}/{name}"]) for name in ("norm_weight", "wq", "wk"))
        query, key = queries_and_keys(hidden, norm, wq, wk, int(case["num_heads"]), float(case["rope_theta"]))
        visual = slice(start, start + n)
        signals = {
            "next_visual_attention": attention(query, key)[None, :, visual, visual].mean(2),
            "next_keys": key[None, :, visual],
        }
        tokens = hidden[None, visual]
        view = View(tokens, (1, full), "decoder", signals=signals)
        n = dominant + contextual
        reduction = VisionDrop(contextual=contextual / n).reduce(view, n)
        if reduction.position != "renumber":
            raise ValueError("VisionDrop closes the prompt up behind the tokens that it keeps")
        hidden = torch.cat([hidden[:start], reduction.apply(tokens)[0], hidden[visual.stop :]])
        found[f"stage{stage}/output_features"] = hidden.numpy()
        found[f"stage{stage}/output_position_ids"] = np.arange(len(hidden))
    return found


def wired(case: Mapping[str, np.ndarray]) -> Compressor:
    """The method as a whole model's case asks for it: its own counts, merged ones among them, at every cut."""
    door, *inside = map(tuple, case["arg_stage_dominant_contextual"].tolist())
    if "arg_dominant" in case:
        door = (int(case["arg_dominant"]), int(case["arg_contextual"]))
    return Staged(tuple(case["arg_layer_list"].tolist()), (door, *inside))


@dataclass(frozen=True)
class Staged:
    """VisionDrop with pairs of counts (as they are, merged): in front of the LLM, then before each of `layers`."""

    layers: tuple[int, int, int]
    counts: tuple[tuple[int, int], ...]

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        cuts = VisionDrop(self.layers).stages(keep, shape)
        return tuple(replace(cut, keep=sum(counts)) for cut, counts in zip(cuts, self.counts, strict=True))

    def reduce(self, view: View, keep: int) -> Reduction:
        cut = 0 if view.layer is None else 1 + self.layers.index(view.layer)
        return VisionDrop(self.layers, contextual=self.counts[cut][1] / keep).reduce(view, keep)
