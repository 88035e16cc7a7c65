"""How much of what an answer rests on a compressor leaves: a diagnostic, for samples that name their evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..harness.contracts import Item, Memo, Output, Sample
from ..harness.registry import metric

Where = Literal["entering", "last"]
MOST = 0.5
"""A patch is there while some token is at least this much of it."""


class _Evidence:
    """One item per sample that names evidence; none for others. Failed samples have lost all of theirs."""

    name: str
    where: Where
    whole: bool
    unit = ""
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = ""

    def protocol(self) -> str:
        """How much of a patch counts."""
        return f"every patch at {MOST}" if self.whole else "share of the area, by the largest weight"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """The share that is left; ValueError where evidence is named and none was tracked."""
        slices = self.items(sample)
        if not slices:
            return []
        if not output.evidence:
            raise ValueError("the sample names evidence, and none of it was tracked")
        left = [(patch.area, getattr(patch, self.where)) for patch in output.evidence]
        if self.whole:
            value = float(all(weight >= MOST for _, weight in left))
        else:
            value = sum(area * weight for area, weight in left) / sum(area for area, _ in left)
        return [Item(value, slices[0])]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        """The sample's slices, once, where it names evidence."""
        return [dict(sample.slices)] if sample.regions else []


@metric("evidence_recall", family="evidence", unit="", higher_is_better=True)
class EvidenceRecall(_Evidence):
    """Share of the evidence, by area, that enters the LLM."""

    name, where, whole = "evidence_recall", "entering", False


@metric("evidence_recall_last", family="evidence", unit="", higher_is_better=True)
class EvidenceRecallLast(_Evidence):
    """Share of the evidence, by area, that the LLM's last layer still sees."""

    name, where, whole = "evidence_recall_last", "last", False


@metric("evidence_intact", family="evidence", unit="", higher_is_better=True)
class EvidenceIntact(_Evidence):
    """1 for a question whose evidence enters the LLM with every patch, else 0. Of a clip, every frame's."""

    name, where, whole = "evidence_intact", "entering", True


@metric("evidence_intact_last", family="evidence", unit="", higher_is_better=True)
class EvidenceIntactLast(_Evidence):
    """1 for a question whose every patch of evidence the LLM's last layer still sees, else 0."""

    name, where, whole = "evidence_intact_last", "last", True
