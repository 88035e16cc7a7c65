"""Feeds reference cases of PruMerge and PruMerge+ to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.prumerge import PruMerge
from ..compressors.prumerge_plus import PruMergePlus, merge, spacing_of
from ..ops import one_head


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
