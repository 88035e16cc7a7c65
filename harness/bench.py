"""What the runner asks of a kind of task: turn opened samples into observations, one per cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ..results.records import SampleRecord, Status
from .contracts import Output, Sample
from .plan import PlannedCell

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image


Quantity = Literal["latency", "tpot"]
"""Milliseconds to the first token (encode plus decode for a tokenizer), and per output token."""


@dataclass(frozen=True)
class Opened:
    """A sample whose pictures could be decoded."""

    sample: Sample
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Observation:
    """What one cell did with one sample, before it is scored.

    `stream` is what `outputs/` keeps, with its suffix. `output` is None where the method failed; `error` says why.
    """

    status: Status
    output: Output | None = None
    prediction: str | None = None
    stream: tuple[bytes, str] | None = None
    error: str | None = None
    tokens_full: int | None = None
    tokens_per_layer: tuple[int, ...] | None = None
    tokens_kv: float | None = None
    text_tokens: int | None = None
    kept_indices: tuple[object, ...] | None = None
    bits: int | None = None
    pixels: int | None = None
    flops: float | None = None


class Bench(AbstractContextManager["Bench"], Protocol):
    """Opened once per group of cells, with what they share: a model, or nothing."""

    batch_size: int

    def observe(
        self, opened: Sequence[Opened], cells: Sequence[PlannedCell]
    ) -> Iterator[tuple[PlannedCell, Sample, Observation]]:
        """Run the cells on the samples. What a method raises is an observation; only `UserError` goes through."""

    def restore(self, cell: PlannedCell, opened: Opened, record: SampleRecord, outputs: Path) -> Output | None:
        """The output of a stored record, without the model; None where it was not kept."""

    def timed(
        self, opened: Opened, cells: Sequence[PlannedCell]
    ) -> Mapping[Quantity, Mapping[str, Callable[[], object]]]:
        """What the latency probe times on one sample: by quantity, then by work id."""


def failure(error: BaseException, **known: int | None) -> Observation:
    """A method that raised: the reason in one line, for the record."""
    text = " ".join(str(error).split()) or type(error).__name__
    return Observation("failed", error=f"{type(error).__name__}: {text}"[:500], **known)  # type: ignore[arg-type]
