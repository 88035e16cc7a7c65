"""Can the words still be read? TokBench's T-ACC and T-NED (arXiv:2505.18142, github.com/wjf5203/TokBench)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..harness.contracts import Item, Memo, Output, Region, Sample, UserError
from ..harness.registry import metric
from .backends import ocr

BATCH = 64
"""TokBench's, whose longest transcript it tells."""

if TYPE_CHECKING:
    from PIL.Image import Image


class _TextMetric(ABC):
    """Reads every scored word of the output and compares it with its transcript.

    As in TokBench, a word is cut out along its axis-aligned box, corners truncated to whole pixels, half-open, without
    a margin; the headline is the plain mean of the size bins' means, and words below the smallest bin are left out.
    Transcripts compare by the recogniser's rule: `exact` for docTR's PARSeq (TokBench's own), `alnum-lower` for the
    others, which read more signs and less case than the task asks for: NFKC, ASCII letters and digits only, lower case.
    A word of which nothing is left by that rule is not scored.

    TokBench tells PARSeq how long the longest transcript of a word's batch is: metrics of the plain names do so too,
    and leave out batches that TokBench leaves out; beside them stand those that tell nothing.
    """

    unit = ""
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = "size"
    name = ""
    tells = True

    def __init__(self, backend: str = "rapidocr") -> None:
        """Raises `UserError` for an unknown backend, or one that is not installed."""
        ocr.check(backend)
        self.backend = backend
        self.told = self.tells and backend == "doctr"
        if not self.told:
            self.name = f"{self.name}[{'doctr-untold' if backend == 'doctr' else backend}]"

    def protocol(self) -> str:
        """Crop, comparison, what is told, bins' mean, software and weights."""
        told = f"told the longest of {BATCH};" if self.told else "untold;" if self.backend == "doctr" else ""
        return f"truncated-box;{ocr.rule_of(self.backend)};{told}{ocr.reader(self.backend).identity()}"

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [region.slices for region in self._scored(sample)]

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item per word, in [0, 1].

        Raises:
            ValueError: the output has no picture, or a word lies outside it.
            UserError: the task does not say what the recogniser is told.
        """
        rule = ocr.rule_of(self.backend)
        regions = [r for r in sample.regions if r.slices and ocr.fold(r.text or "", rule)]
        if self.backend == "doctr":
            seen = memo.once("parseq", lambda: ocr.parseq().encode(_crops(output, regions)))
            told = [_longest(r) for r in regions] if self.told else None
            texts = memo.once(("readings", "doctr", self.told), lambda: ocr.parseq().decode(seen, told))
        else:
            texts = memo.once(
                ("readings", self.backend), lambda: ocr.reader(self.backend).read(_crops(output, regions))
            )
        return [
            Item(self.compare(ocr.fold(text, rule), ocr.fold(region.text or "", rule)), region.slices)
            for text, region in zip(texts, regions, strict=True)
            if self._counts(region)
        ]

    @abstractmethod
    def compare(self, reading: str, truth: str) -> float:
        """The score of a folded reading."""

    def _scored(self, sample: Sample) -> list[Region]:
        rule = ocr.rule_of(self.backend)
        return [r for r in sample.regions if r.slices and ocr.fold(r.text or "", rule) and self._counts(r)]

    def _counts(self, region: Region) -> bool:
        """Whether its batch is not left out."""
        return not self.told or region.longest != 0


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


@metric("t_acc_untold", family="reconstruction", unit="", higher_is_better=True, backend="ocr")
class UntoldTextAccuracy(TextAccuracy):
    """T-ACC of a recogniser that is told nothing; with backends that never are, the same as `t_acc`."""

    tells = False


@metric("t_ned_untold", family="reconstruction", unit="", higher_is_better=True, backend="ocr")
class UntoldTextSimilarity(TextSimilarity):
    """T-NED of a recogniser that is told nothing; with backends that never are, the same as `t_ned`."""

    tells = False


def similarity(first: str, second: str) -> float:
    """1 - Levenshtein distance / longer length; 1 for two empty strings."""
    distances = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, distances[0] = distances[0], i
        for j, b in enumerate(second, 1):
            diagonal, distances[j] = distances[j], min(distances[j] + 1, distances[j - 1] + 1, diagonal + (a != b))
    return 1.0 - distances[-1] / max(len(first), len(second), 1)


def _crops(output: Output, regions: Sequence[Region]) -> list[Image]:
    shown = {number: output.picture(number).convert("RGB") for number in sorted({r.image for r in regions})}
    return [_cut(shown[region.image], region) for region in regions]


def _cut(image: Image, region: Region) -> Image:
    x0, y0, x1, y1 = (int(edge) for edge in region.box)
    if not (0 <= x0 < x1 <= image.width and 0 <= y0 < y1 <= image.height):
        raise ValueError(f"the word at {(x0, y0, x1, y1)} lies outside the picture of {image.size} pixels")
    return image.crop((x0, y0, x1, y1))


def _longest(region: Region) -> int:
    if region.longest is None:
        raise UserError(
            "t_acc and t_ned tell the recogniser how long the longest transcript of a word's batch is, and the task "
            "does not say it: give its regions `longest`, or use t_acc_untold and t_ned_untold."
        )
    return region.longest
