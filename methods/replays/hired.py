"""Feeds reference cases of HiRED to our code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...harness.contracts import Reduction, View
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
    """The method as a whole model's case asks for it: `arg_k` tokens, or a share of those of all crops of a LLaVA-NeXT.

    None where these do not form a square: there the released code swaps rows and columns, and loses tokens.
    """
    if "grid_rows_columns" not in case:
        return Fixed.of("hired", int(case["arg_k"]))
    rows, columns = case["grid_rows_columns"].tolist()
    rate, alpha = (round(float(case[name]), 6) for name in ("arg_budget_rate", "arg_alpha"))  # stored as float32
    return Shared(HiRED(alpha), 1, rate=rate) if rows == columns else None


@dataclass(frozen=True)
class Shared(Fixed):
    """HiRED, whose whole count is a share of all tokens, and need not be a number for each crop."""

    rate: float = 1.0

    def reduce(self, view: View, keep: int) -> Reduction:
        return self.method.reduce(view, int(view.tokens.shape[1] * self.rate))


def told(
    case: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], calls: Sequence[tuple[View, Reduction]]
) -> dict[str, np.ndarray]:
    """Of a LLaVA-NeXT, which tokens of every crop were selected, and in which order they enter the LLM."""
    if "grid_rows_columns" not in case:
        return {}
    ((_, reduction),) = calls
    crops = case["pixel_values"].shape[1]
    kept = reduction.dense()[0].sum(0).long().view(crops, -1)
    left = [iter(row.nonzero()[:, 0].tolist()) for row in kept]
    order = [(crop, next(left[crop])) for crop in found["visual_images"].tolist()]
    return {"selected_mask": kept.numpy(), "token_order": np.asarray(order)}
