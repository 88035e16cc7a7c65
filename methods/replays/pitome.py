"""Feeds reference cases of PiToMe to our code."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor

import numpy as np
import torch

from ...harness.contracts import Reduction
from ..pairs import Form, pair_by_energy


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One round of merging: `metric`, `x`, `size`, the energy's margin and form, and how many tokens to merge."""
    metric, tokens, sizes = (torch.from_numpy(case[name]) for name in ("metric", "x", "size"))
    beside, margin = int(case["class_token"]), round(float(case["margin"]), 6)
    patches = metric.shape[1] - beside
    text = "use_bsm_pitome" not in case
    form: Form = "text" if text else "half" if case["use_bsm_pitome"] else "energy"
    # Ratios are stored as float32.
    merges = int(case["r"]) if "r" in case else floor(patches - patches * round(float(case["ratio"]), 6))
    alpha = float(case["alpha"]) if "alpha" in case else 1.0
    groups, anchor = pair_by_energy(metric[:, beside:], merges, margin, form, alpha)
    if beside:
        first = groups.new_zeros(len(groups), 1)
        groups, anchor = torch.cat([first, groups + 1], 1), torch.cat([first, anchor + 1], 1)
    plain = Reduction.merge(groups, anchor=anchor)
    sized = Reduction.merge(groups, sizes[..., 0], anchor=anchor)
    found = {
        "out_wavg": plain.apply(tokens),
        "size_wavg": plain.sizes(torch.ones_like(sizes[..., 0])),
        "source": groups,
    }
    found["size_wavg"] = found["size_wavg"][..., None]
    if not text:
        found |= {
            "out_mean": found["out_wavg"],
            "out_wavg_sized": sized.apply(tokens),
            "size_sized": sized.sizes(sizes[..., 0])[..., None],
        }
    return {name: tensor.numpy() for name, tensor in found.items()}
