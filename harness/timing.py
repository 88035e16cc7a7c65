"""What the latency probe runs of a model: whole answers, and apart from them the phases up to the first token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def races(model: VisionLanguageModel, batch: Batch, runners: Mapping[str, Runner]) -> Sequence[Mapping[str, Case]]:
    """First the whole (`latency` to the first token, `tpot` per output token behind it), then the phases.

    Nothing is kept from round to round: each holds the cache of one runner only, so that peaks of memory are its own.
    """

    def first(runner: Runner) -> Decoding:
        return model.time_first_token(
            batch, runner.compressor, runner.schedule, runner.seed, budget_kind=runner.budget_kind
        )

    def whole(runner: Runner) -> Case:
        def case(watch: Stopwatch) -> None:
            with watch.phase("latency"):
                state = first(runner)
            with watch.phase("tpot", DECODED):
                model.time_decoding(state, DECODED)

        return case

    def phases(runner: Runner) -> Case:
        def case(watch: Stopwatch) -> None:
            with model.watched(watch):
                first(runner)

        return case

    return [{name: make(runner) for name, runner in runners.items()} for make in (whole, phases)]
