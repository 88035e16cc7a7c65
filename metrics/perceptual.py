"""How different a picture looks from the original to a network that was taught people's judgements: LPIPS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..harness.contracts import Item, Memo, Output, Sample
from ..harness.registry import metric
from .backends import lpips
from .fidelity import aligned, mean_of_frames

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

LEAST_SIDE = {"alex": 63, "vgg": 16}
"""Pixels below which a layer of the network has nothing left to see."""


@metric("lpips", family="reconstruction", unit="", higher_is_better=False)
class Lpips:
    """LPIPS 0.1 (Zhang et al. 2018, arXiv:1801.03924), by torchmetrics, at the picture's own size; lower is better.

    A picture with a side too small for the network is not scored. There is no worst value: distances have no bound.
    """

    unit = ""
    higher_is_better = False
    worst: float | None = None
    mean_over = ""

    def __init__(self, net: str = "alex") -> None:
        """Raises `UserError` for a network that is unknown, or whose weights are missing or damaged."""
        lpips.check(net)
        self.net = net
        self.name = f"lpips[{net}:{lpips.BACKBONES[net][1]}]"

    def protocol(self) -> str:
        """Version, weights and input."""
        return f"lpips-0.1;{lpips.identity(self.net)};full size;min-side={LEAST_SIDE[self.net]}"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item per picture, or per clip the mean over its frames.

        Raises:
            ValueError: the output lacks a picture, or its size differs from the original's.
        """
        import torch

        if output.frames:
            return mean_of_frames(self, output, sample, memo)
        ours, original = aligned(output, sample, memo)
        if min(original.shape[:2]) < LEAST_SIDE[self.net]:
            return []
        with torch.inference_mode():
            return [Item(float(lpips.load(self.net)(_signed(ours), _signed(original))))]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [{}] if min(sample.images[0]().size) >= LEAST_SIDE[self.net] else []


def _signed(picture: NDArray[np.uint8]) -> torch.Tensor:
    """[1, 3, height, width] in [-1, 1]."""
    import torch

    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
