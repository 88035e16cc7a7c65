"""What a clip shows from frame to frame: is the change the original's, and is there any that the original lacks?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..harness.contracts import Item, Memo, Output, Sample
from ..harness.registry import metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Change = NDArray[np.int16]


class _TemporalMetric(ABC):
    """One item per clip of at least two frames: the mean over pairs of frames that follow each other."""

    unit = "levels"
    higher_is_better = False
    mean_over = ""

    def protocol(self) -> str:
        """Pixel format and mean."""
        return "rgb8;mean-over-pairs"

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [{}] if len(sample.images) > 1 else []

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """Compare the changes.

        Raises:
            ValueError: the output has other frames than the original.
        """
        import numpy as np

        if len(sample.images) < 2:
            return []
        original = memo.once("original changes", lambda: _changes([load() for load in sample.images]))
        ours = memo.once("changes", lambda: _changes(output.frames))
        if ours.shape != original.shape:
            raise ValueError(f"the clip's changes have the shape {ours.shape}, the original's {original.shape}")
        return [Item(float(np.mean([self.compare(o, w) for o, w in zip(ours, original, strict=True)])))]

    @abstractmethod
    def compare(self, ours: Change, original: Change) -> float:
        """The score of a pair of frames: their differences [height, width, 3], of the output and of the original."""


@metric("frame_difference", family="reconstruction", unit="levels", higher_is_better=False)
class FrameDifference(_TemporalMetric):
    """Frame-difference error: root mean square of (change of the output - change of the original), in levels of 255.

    The change is that of a pixel from a frame to the next, over all pixels and channels: dtSSD (Erofeev et al., BMVC
    2015, section 4), of colours in place of alpha, and per pixel. Its worst value, 510, is the formula's bound.
    """

    name = "frame_difference"
    worst: float | None = 510.0

    def compare(self, ours: Change, original: Change) -> float:
        import numpy as np

        return float(np.sqrt(np.mean((ours - original).astype(np.float64) ** 2)))


@metric("flicker", family="reconstruction", unit="levels", higher_is_better=False)
class Flicker(_TemporalMetric):
    """Change that the original does not have: mean of max(0, |change of the output| - |of the original|), in levels.

    After the flicker of intra-coded video (Fan et al., JVT-E070, 2002), which takes the blocks that stand still in the
    original: here every pixel counts, and movement of the original is taken off. A picture that freezes has none. Its
    worst value, 255, is black and white in turns.
    """

    name = "flicker"
    worst: float | None = 255.0

    def compare(self, ours: Change, original: Change) -> float:
        import numpy as np

        return float(np.maximum(0, np.abs(ours) - np.abs(original)).mean())


def _changes(frames: tuple[Image, ...] | list[Image]) -> Change:
    """[frames - 1, height, width, 3] differences of 8-bit RGB."""
    import numpy as np

    levels = np.stack([np.asarray(frame.convert("RGB")).astype(np.int16) for frame in frames])
    changes: Change = np.diff(levels, axis=0)
    return changes
