"""Is an answer right: exact match after folding, and word overlap for answers that are sentences."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Mapping

from ..harness.contracts import Item, Memo, Output, Sample
from ..harness.registry import metric

_ASCII = frozenset(string.punctuation)


def words(text: str) -> list[str]:
    """Lower-case words (NFKC, case-folded) without punctuation, which also separates: `Num1 > num2.` is two words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(" " if c in _ASCII or unicodedata.category(c)[0] in "PZ" else c for c in folded).split()


def fold(text: str) -> str:
    """Lower-case text without spaces and punctuation; text that is nothing else is only stripped."""
    return "".join(words(text)) or text.strip()


@metric("vqa_match", family="vqa", unit="", higher_is_better=True)
class VqaMatch:
    """1 where the answer equals any reference after lower-casing and removing spaces and punctuation, else 0.

    It is exact match: an answer in a whole sentence is wrong, and numerals are not spelled out. It is not the VQA
    challenge's accuracy over ten annotators. Source: none.
    """

    name = "vqa_match"
    unit = ""
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = ""

    def protocol(self) -> str:
        return "exact;nfkc-casefold-nopunct-nospace;any"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item. Raises ValueError for an output without text."""
        said = fold(_text(output))
        return [Item(float(any(said == fold(a) for a in sample.answers)), sample.slices)]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [sample.slices]


@metric("answer_f1", family="vqa", unit="", higher_is_better=True)
class AnswerF1:
    """Harmonic mean of precision and recall of the answer's words, against the best reference (as SQuAD counts it).

    Rajpurkar et al., arXiv 1606.05250; unlike there, articles count as words.
    """

    name = "answer_f1"
    unit = ""
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = ""

    def protocol(self) -> str:
        return "word-f1;nfkc-casefold-nopunct;best"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item. Raises ValueError for an output without text."""
        said = _text(output)
        return [Item(max(_f1(said, a) for a in sample.answers), sample.slices)]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [sample.slices]


def _text(output: Output) -> str:
    if output.text is None:
        raise ValueError("an answer is scored by its text, and this output has none")
    return output.text


def _f1(said: str, wanted: str) -> float:
    ours, theirs = Counter(words(said) or [said.strip()]), Counter(words(wanted) or [wanted.strip()])
    common = sum((ours & theirs).values())
    return 2 * common / (sum(ours.values()) + sum(theirs.values()))
