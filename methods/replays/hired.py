"""Feeds reference cases of HiRED to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.hired import HiRED
from .given import Fixed


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Class-token attention of one picture [heads, n], or of its crops [crops, heads, n] and of the first layer."""
    late = torch.from_numpy(case["late_layer_cls_attention"])
    if "k" in case:
        signals = {"class_attention@-2": late[None]}
        view = View(torch.zeros(1, late.shape[-1], 1), (1, late.shape[-1]), "projector", signals=signals)
        return {"kept_indices": np.asarray(HiRED().reduce(view, int(case["k"])).describe(0), dtype=np.int64)}
    crops, heads, n = late.shape
    first = torch.from_numpy(case["first_layer_cls_attention"])
    rate, alpha = (round(float(case[name]), 6) for name in ("budget_rate", "alpha"))  # stored as float32
    layers = {"class_attention@-2": late, "class_attention@0": first}
    view = View(
        torch.zeros(1, crops * n, 1), (1, n), "projector",
        signals={name: rows.transpose(0, 1).reshape(1, heads, crops * n) for name, rows in layers.items()},
        image=torch.arange(crops).repeat_interleave(n)[None],
    )  # fmt: skip
    kept = HiRED(alpha).reduce(view, int(crops * n * rate)).dense().sum(1).long().view(crops, n)
    return {"kept_mask": kept.numpy(), "kept_per_partition": kept.sum(-1).numpy()}


def wired(case: Mapping[str, np.ndarray]) -> Fixed | None:
    """The method as a whole model's case asks for it: `arg_k` tokens. A LLaVA-NeXT, which has crops, is not rerun."""
    if "grid_rows_columns" in case:
        return None
    return Fixed.of("hired", int(case["arg_k"]))
