"""Feeds reference cases of DART to our code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..compressors.dart import strongest, unlike


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Normed hidden states [length, dim] and keys [heads, length, d] of a layer to the visual tokens kept behind it.

    The order in which pivots are visited is given; which tokens are pivots is found by our code.
    """
    start, n = int(case["image_start"]), int(case["image_tokens"])
    pivots, text_pivots = int(case["pivot_image"]), int(case["pivot_text"])
    hidden, keys = torch.from_numpy(case["normed_hidden"])[None], torch.from_numpy(case["keys"])[None]
    visual = strongest(keys[:, :, start : start + n], pivots)
    text = strongest(keys[:, :, start + n :], text_pivots)
    turn = {place: number for number, place in enumerate(case["pivot_iteration_order"].tolist())}
    found = [*(visual[0] + start).tolist(), *(text[0] + start + n).tolist()]
    if set(found) != set(turn):
        raise ValueError(f"the pivots are {sorted(found)}, and the case visits {sorted(turn)}")
    given = int(case["max_num_trunction"])
    budget = given if given >= 0 else n * (1 - round(float(case["reduction_ratio"]), 6))
    keep = pivots + len(found) * int(budget // len(found))
    visited = hidden[:, sorted(found, key=turn.__getitem__)]
    kept = unlike(hidden[:, start : start + n], visual, visited, keep)
    return {"kept_indices": kept[0].nonzero()[:, 0].numpy()}
