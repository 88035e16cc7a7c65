"""Whether a short answer is right, for questions that have exactly one."""

from __future__ import annotations

from collections.abc import Mapping

from ..harness.contracts import Item, Memo, Output, Sample
from ..harness.registry import metric


@metric("accuracy", family="vqa", unit="", higher_is_better=True)
class Accuracy:
    """1 where the answer equals one of the right ones but for case, outer space and a full stop at the end, else 0."""

    name = "accuracy"
    unit = ""
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = ""

    def protocol(self) -> str:
        """The rule of comparison."""
        return "exact,casefold,strip"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item for the sample's question. Raises ValueError for an output without text."""
        if output.text is None:
            raise ValueError("accuracy scores answers, and this output has no text")
        right = {_fold(answer) for answer in sample.answers}
        return [Item(float(_fold(output.text) in right), slices) for slices in self.items(sample)]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        """One item, with the sample's slices."""
        return [dict(sample.slices)]


def _fold(answer: str) -> str:
    return answer.strip().removesuffix(".").strip().casefold()
