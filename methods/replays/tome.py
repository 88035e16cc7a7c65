"""Feeds reference cases of ToMe to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import Reduction
from ..pairs import merge_schedule, pair_alike


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A schedule case (`layers`, `r`, `inflect`), or one round of merging (`metric`, `x`, `size`, `r`)."""
    if "layers" in case:
        merges = case["r"].tolist() if case["is_list"] else int(case["r"][0])
        plan = merge_schedule(int(case["layers"]), merges, float(case["inflect"]))
        return {"schedule": np.asarray(plan, dtype=np.int64)}
    metric, tokens, sizes = (torch.from_numpy(case[name]) for name in ("metric", "x", "size"))
    groups, anchor = pair_alike(metric, int(case["r"]), int(case["class_token"]) + int(case["distill_token"]))
    ones = torch.ones_like(sizes[..., 0])
    plain = Reduction.merge(groups, anchor=anchor)
    sized = Reduction.merge(groups, sizes[..., 0], anchor=anchor)
    merged = plain.apply(tokens)
    found = {
        "out_mean": merged,
        "out_wavg": merged,
        "size_wavg": plain.sizes(ones)[..., None],
        "out_wavg_sized": sized.apply(tokens),
        "size_sized": sized.sizes(sizes[..., 0])[..., None],
        "source": groups,
        "unmerged": merged.gather(1, groups[..., None].expand(-1, -1, merged.shape[-1])),
    }
    return {name: tensor.numpy() for name, tensor in found.items()}
