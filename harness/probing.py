"""Runs the latency probe for the cells of a group, and writes what it found, or why it found nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice

from ..results.store import ResultsFolder
from .bench import Bench, Opened
from .contracts import Sample
from .cost.latency import Race, race
from .plan import Group, PlannedCell
from .spec import SweepSpec

log = logging.getLogger("toksweep")

SAMPLES = 2
ROUNDS = 5
HEAT = 8
"""Cells that run in turn with one baseline: rounds of a hundred cells would put minutes between a cell and it."""

Lines = dict[str, list[dict[str, object]]]


class LatencyProbe:
    """Of one group of cells; `succeeded` says which cells have an answer to a sample, since no other can be timed."""

    def __init__(
        self, group: Group, spec: SweepSpec, folder: ResultsFolder, name: str,
        succeeded: Callable[[PlannedCell, Sample], bool],
    ) -> None:  # fmt: skip
        self.group, self.spec, self.folder, self.name, self.succeeded = group, spec, folder, name, succeeded
        self.device = (group.cells[0].cell.device if group.cells else None) or "cpu"

    def untimed(self) -> list[PlannedCell]:
        """Cells that are not timed yet; pictures are timed unless told otherwise, models only when asked. A cell that
        could not be timed counts as timed, as a failed sample counts as computed."""
        wanted = self.spec.latency if self.spec.latency is not None else self.group.model is None
        if not wanted:
            return []
        once = {c.cell.work_id: c for c in self.group.cells}.values()
        able = [c for c in once if self.group.model or c.entry.kind != "untouched"]
        return [c for c in able if not self._is_timed(c)]

    def _is_timed(self, cell: PlannedCell) -> bool:
        lines = self.folder.latencies(cell.cell.work_id)
        return any("error" not in line for line in lines) or (bool(lines) and not self.spec.retry_failed)

    def heats(self, cells: Sequence[PlannedCell]) -> list[list[PlannedCell]]:
        """The cells in groups that run in turn; where a model is asked, with full tokens among each."""
        baseline = [c for c in self.group.cells if c.entry.kind == "untouched"][:1] if self.group.model else []
        others = [c for c in cells if c not in baseline]
        chunks = [others[i : i + HEAT] for i in range(0, len(others), HEAT)] or [[]]
        return [[*baseline, *chunk] for chunk in chunks]

    def samples(self, cells: Sequence[PlannedCell]) -> list[Sample]:
        """Those that are asked: the first that some cell has answered."""
        return list(islice((s for s in self.group.samples if any(self.succeeded(c, s) for c in cells)), SAMPLES))

    def run(self, bench: Bench, heat: Sequence[PlannedCell], sample: Sample, open_it: Callable[[], Opened]) -> None:
        """Time one heat on one sample. Whatever is raised is recorded: a probe that fails must not cost the report."""
        able = [c for c in heat if self.succeeded(c, sample)]
        try:
            lines = self._lines(bench, able, sample, open_it)
        except Exception as error:
            log.warning("latency of %d cells cannot be measured on %s: %s", len(able), sample.id, error)
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
            lines = {c.cell.work_id: [self._failure(sample, told)] for c in able}
        name = f"{self.name}-{sample.fingerprint[:8]}-{heat[-1].cell.work_id}"
        for work_id, own in lines.items():
            writer = self.folder.latency_writer(work_id, name)
            for line in own:
                writer.append(line)
            writer.close()

    def _lines(self, bench: Bench, able: Sequence[PlannedCell], sample: Sample, open_it: Callable[[], Opened]) -> Lines:
        baseline = next((c.cell.work_id for c in able if c.entry.kind == "untouched"), None)
        kernel, dtype = (self.spec.attention, self.spec.dtype) if self.group.model else (None, None)
        cases = bench.timed(open_it(), able)
        found = race(cases, baseline, rounds=ROUNDS, device=self.device, kernel=kernel, dtype=dtype)
        lines: Lines = {}
        for work_id, line in self._told(found, sample):
            lines.setdefault(work_id, []).append(line)
        return lines

    def _told(self, found: Race, sample: Sample) -> Iterator[tuple[str, dict[str, object]]]:
        answer = {"answer_tokens": self.spec.max_new_tokens} if self.group.model else {}
        for work_id, phases in found.timings.items():
            for quantity, timing in phases.items():
                yield work_id, {"sample_id": sample.id, "quantity": quantity, **asdict(timing), **answer}
        for work_id, reason in found.failures.items():
            log.warning("latency of %s cannot be measured on %s: %s", self._label(work_id), sample.id, reason)
            yield work_id, self._failure(sample, reason)

    def _label(self, work_id: str) -> str:
        return next(c.cell.label for c in self.group.cells if c.cell.work_id == work_id)

    @staticmethod
    def _failure(sample: Sample, reason: str) -> dict[str, object]:
        return {"sample_id": sample.id, "quantity": "latency", "error": reason}
