"""Feeds reference cases of TinyChart to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import View
from ..compressors.tinychart import TinyChart


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One round of merging `r` tokens: `metric`, `x` and `size` to merged tokens, sizes and everyone's output row."""
    metric, tokens, sizes = (torch.from_numpy(case[name]) for name in ("metric", "x", "size"))
    n = tokens.shape[1]
    view = View(tokens, (1, n), "encoder", 0, sizes[..., 0], signals={"keys": metric[:, None]})
    reduction = TinyChart().reduce(view, n - int(case["r"]))
    found = {
        "out_wavg": reduction.apply(tokens),
        "size_out": reduction.sizes(sizes[..., 0])[..., None],
        "source": reduction.dense().argmax(1),
    }
    return {name: tensor.numpy() for name, tensor in found.items()}
