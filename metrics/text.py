"""Can the words still be read? TokBench's T-ACC and T-NED (arXiv:2505.18142, github.com/wjf5203/TokBench)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..harness.contracts import Item, Memo, Output, Region, Sample
from ..harness.registry import metric
from .backends import ocr

if TYPE_CHECKING:
    from PIL.Image import Image


class _TextMetric(ABC):
    """Reads every scored word of the output and compares it with its transcript.

    As in TokBench, a word is cut out along its axis-aligned box, corners truncated to whole pixels, half-open, without
    a margin; the headline is the plain mean of the size bins' means, and words below the smallest bin are left out.
    Transcripts compare by the recogniser's rule: `exact` for docTR's PARSeq (TokBench's own), `alnum-lower` for the
    others, which read more signs and less case than the task asks for: NFKC, ASCII letters and digits only, lower case.
    A word of which nothing is left by that rule is not scored.
    """

    unit = ""
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = "size"
    name = ""

    def __init__(self, backend: str = "rapidocr") -> None:
        """Raises `UserError` for an unknown backend, or one that is not installed."""
        ocr.check(backend)
        self.backend = backend
        self.name = f"{self.name}[{backend}]"

    def protocol(self) -> str:
        """Crop, comparison, bins' mean, software and weights."""
        return f"truncated-box;{ocr.rule_of(self.backend)};{ocr.reader(self.backend).identity()}"

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [region.slices for region in self._scored(sample)]

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item per word, in [0, 1].

        Raises:
            ValueError: the output has no picture, or a word lies outside it.
        """
        regions = self._scored(sample)
        readings = memo.once(("readings", self.backend), lambda: self._read(output, regions))
        rule = ocr.rule_of(self.backend)
        return [
            Item(self.compare(ocr.fold(reading, rule), ocr.fold(region.text or "", rule)), region.slices)
            for reading, region in zip(readings, regions, strict=True)
        ]

    @abstractmethod
    def compare(self, reading: str, truth: str) -> float:
        """The score of a folded reading."""

    def _scored(self, sample: Sample) -> list[Region]:
        rule = ocr.rule_of(self.backend)
        return [r for r in sample.regions if r.slices and ocr.fold(r.text or "", rule)]

    def _read(self, output: Output, regions: Sequence[Region]) -> list[str]:
        return ocr.reader(self.backend).read([_cut(output.picture(r.image), r) for r in regions])


@metric("t_acc", family="reconstruction", unit="", higher_is_better=True, backend="ocr")
class TextAccuracy(_TextMetric):
    """T-ACC: the share of words that are read without a mistake."""

    name = "t_acc"

    def compare(self, reading: str, truth: str) -> float:
        return float(reading == truth)


@metric("t_ned", family="reconstruction", unit="", higher_is_better=True, backend="ocr")
class TextSimilarity(_TextMetric):
    """T-NED: 1 minus the edit distance over the longer length, mean over words."""

    name = "t_ned"

    def compare(self, reading: str, truth: str) -> float:
        return similarity(reading, truth)


def similarity(first: str, second: str) -> float:
    """1 - Levenshtein distance / longer length; 1 for two empty strings."""
    distances = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, distances[0] = distances[0], i
        for j, b in enumerate(second, 1):
            diagonal, distances[j] = distances[j], min(distances[j] + 1, distances[j - 1] + 1, diagonal + (a != b))
    return 1.0 - distances[-1] / max(len(first), len(second), 1)


def _cut(image: Image, region: Region) -> Image:
    x0, y0, x1, y1 = (int(edge) for edge in region.box)
    if not (0 <= x0 < x1 <= image.width and 0 <= y0 < y1 <= image.height):
        raise ValueError(f"the word at {(x0, y0, x1, y1)} lies outside the picture of {image.size} pixels")
    return image.convert("RGB").crop((x0, y0, x1, y1))
