"""Feeds whole models' cases of PruMerge+ to our code; cases of its function alone are in the file of `prumerge`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .given import Fixed
from .prumerge import replay, told, wired_as

__all__ = ["replay", "told", "wired"]


def wired(case: Mapping[str, np.ndarray]) -> Fixed:
    """The method as a whole model's case asks for it."""
    return wired_as("prumerge_plus", case)
