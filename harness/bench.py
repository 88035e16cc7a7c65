"""What the runner asks of a kind of task: turn opened samples into observations, one per cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ..results.records import SampleRecord, Status
from .contracts import Output, Sample
from .plan import PlannedCell

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from .cost.latency import Case


@dataclass(frozen=True)
class Opened:
    """A sample whose pictures could be decoded; `images` are as methods see them, in the sample's framing."""

    sample: Sample
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Observation:
    """What one cell did with one sample: a record without scores, and what there is to score.

    `output` is None where the method failed; `stream` is what `outputs/` keeps, with its suffix.
    """

    record: SampleRecord
    output: Output | None = None
    stream: tuple[bytes, str] | None = None


class Bench(AbstractContextManager["Bench"], Protocol):
    """Opened once per group of cells, with what they share: a model, or nothing."""

    batch_size: int

    def observe(
        self, opened: Sequence[Opened], cells: Sequence[PlannedCell]
    ) -> Iterator[tuple[PlannedCell, Opened, Observation]]:
        """Run the cells on the samples. What a method raises is an observation; only `UserError` goes through."""

    def restore(self, cell: PlannedCell, opened: Opened, record: SampleRecord, outputs: Path) -> Output | None:
        """The output of a stored record, without the model; None where it was not kept."""

    def timed(self, opened: Opened, cells: Sequence[PlannedCell]) -> Mapping[str, Case]:
        """What the latency probe times on one sample, by work id.

        Phases are `latency` (milliseconds to the first token, or encode plus decode for a tokenizer), `tpot` (per
        output token) and those of `watching.PHASES`.
        """


def record_of(sample: Sample, status: Status) -> SampleRecord:
    """A record that says nothing yet but whose it is."""
    return SampleRecord(sample.id, sample.cluster_id, sample.fingerprint, status)


def failure(sample: Sample, error: BaseException, status: Status = "failed") -> SampleRecord:
    """The record of a sample that raised, with the reason in one line."""
    text = " ".join(str(error).split())
    return replace(record_of(sample, status), error=f"{type(error).__name__}: {text}"[:500])
