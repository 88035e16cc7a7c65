"""What the latency probe runs of a model: a whole answer, and apart from it the phases up to the first token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .contracts import Compressor
from .cost.latency import Case, Stopwatch
from .schedule import Schedule

if TYPE_CHECKING:
    from .models.base import Batch, Decoding, VisionLanguageModel
    from .models.calls import BudgetKind

DECODED = 3
"""Output tokens behind the first one whose mean time is a round's time per output token."""


@dataclass(frozen=True)
class Runner:
    """One method at one budget."""

    compressor: Compressor | None
    schedule: Schedule
    seed: int
    budget_kind: BudgetKind = "exact"


def timed_answer(model: VisionLanguageModel, batch: Batch, runner: Runner) -> Case:
    """First the whole (`latency` to the first token, `tpot` per output token behind it), then a second run by phases.

    Nothing is kept from round to round: each holds the cache of one run only, so that peaks of memory are its own.
    """

    def first() -> Decoding:
        return model.time_first_token(
            batch, runner.compressor, runner.schedule, runner.seed, budget_kind=runner.budget_kind
        )

    def whole(watch: Stopwatch) -> None:
        with watch.phase("latency"):
            state = first()
        with watch.phase("tpot", DECODED):
            model.time_decoding(state, DECODED)

    def case(watch: Stopwatch) -> None:
        whole(watch)
        with model.watched(watch):
            first()

    return case
