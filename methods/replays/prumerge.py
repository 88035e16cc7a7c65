"""Feeds reference cases of PruMerge and PruMerge+ to our code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...harness.contracts import Reduction, View
from ..attention import one_head
from ..compressors.prumerge import PruMerge
from ..compressors.prumerge_plus import PruMergePlus, merge
from ..counts import spacing_of
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features, queries and keys, the class token in front, and a count or none to the merged rows."""
    tokens, queries, keys = (torch.from_numpy(case[name])[None] for name in ("hidden_states", "queries", "keys"))
    signals = {"class_query@-1": queries[:, :1], "keys@-1": keys[:, None]}
    n = tokens.shape[1] - 1
    view = View(tokens[:, 1:], (1, n), "projector", signals=signals)
    if case["adaptive"]:
        reduction = (PruMergePlus if case["plus"] else PruMerge)(adaptive=True).reduce(view, n + 2)
    elif not case["plus"]:
        reduction = PruMerge().reduce(view, int(case["k"]) + 1)
    else:
        attention, metric = one_head(view)
        rank = attention.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
        share, exact = float(case["ratio_used"]), int(case["k"]) / n
        spacing = spacing_of(exact if abs(share - exact) < 5e-7 else round(share, 6))  # stored as float32
        reduction = merge(attention, metric, rank, torch.tensor([int(case["k"])]), torch.tensor([spacing]))
    return {
        "kept_indices_in_order": reduction.anchor[0, :-1].numpy(),
        "output_features": reduction.apply(view.tokens)[0].numpy(),
    }


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """PruMerge as a whole model's case asks for it: a count, which the extra row adds to, or none."""
    return wired_as("prumerge", case)


def wired_as(name: str, case: Mapping[str, np.ndarray]) -> Fixed:
    """PruMerge or PruMerge+ as a whole model's case asks for it."""
    if "arg_k" in case:
        return Fixed.of(name, int(case["arg_k"]) + 1)
    vision = json.loads(str(case["vision_config"]))
    return Fixed.of(name, (vision["image_size"] // vision["patch_size"]) ** 2, adaptive=True)


def told(
    case: Mapping[str, np.ndarray], found: object, calls: Sequence[tuple[View, Reduction]]
) -> dict[str, np.ndarray]:
    """The patch behind every row but the extra one."""
    return {"centre_indices": calls[0][1].anchor[0, :-1].numpy()}
