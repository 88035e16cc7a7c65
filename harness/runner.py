"""Runs a plan: samples outermost, cells innermost, so that what cells share is done once. A finished sample is never
computed again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from ..results.records import SampleRecord, Score
from ..results.store import FeatureWriter, LineWriter, ResultsFolder, new_writer_name, write_atomically
from .bench import Bench, Observation, Opened, failure
from .contracts import BorrowedMetric, Item, Memo, Metric, Output, Sample, SetMetric, UserError
from .plan import Group, Plan, PlannedCell
from .probing import LatencyProbe
from .reconstruction import ReconstructionBench
from .spec import SweepSpec

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("toksweep")


class Progress(Protocol):
    """How a sweep tells of its work; the command line draws it."""

    def start(self, what: str, total: int) -> None: ...

    def advance(self, steps: int = 1) -> None: ...


@dataclass
class Tally:
    """What a sweep did: records that stood already, were computed, only scored again, or failed."""

    stood: int = 0
    computed: int = 0
    scored_again: int = 0
    failed: int = 0
    bad_inputs: int = 0


def run(plan: Plan, folder: ResultsFolder, progress: Progress) -> Tally:
    """Compute every record of the plan that is missing, then what the latency probe lacks."""
    tally = Tally()
    name = new_writer_name()
    for group in plan.groups:
        _GroupRun(group, plan.spec, folder, progress, tally, name).run()
    return tally


def open_sample(sample: Sample) -> Opened:
    """Decode a sample's pictures once: whoever loads them from the opened sample gets the decoded ones, and a method
    sees them in the sample's framing."""
    sample = sample.opens() if sample.opens else sample
    images = tuple(load() for load in sample.images)
    shown = tuple(map(sample.framing.show, images)) if sample.framing else images
    return Opened(replace(sample, images=tuple(partial(_same, image) for image in images)), shown)


def _same(image: Image) -> Image:
    return image


def open_bench(group: Group, spec: SweepSpec) -> Bench:
    """What runs the cells of a group."""
    if group.model is None:
        return ReconstructionBench(spec.device, spec.dtype)
    from .answering import AnsweringBench

    return AnsweringBench(group.model, spec, group.pixels)


class _GroupRun:
    """One group of cells on one results folder."""

    def __init__(
        self, group: Group, spec: SweepSpec, folder: ResultsFolder, progress: Progress, tally: Tally, name: str
    ) -> None:
        self.group, self.spec, self.folder, self.progress, self.tally = group, spec, folder, progress, tally
        self.name = name
        self.infos = group.cells[0].cell.metrics if group.cells else ()
        self.writers: dict[str, LineWriter] = {}
        self.features: dict[tuple[str, str], FeatureWriter] = {}
        self.stored = {c.cell.work_id: folder.records(c.cell.work_id) for c in group.cells}

    def run(self) -> None:
        missing = {s.id: [c for c in self.group.cells if self._is_missing(c, s)] for s in self.group.samples}
        total = sum(map(len, missing.values()))
        self.tally.stood += len(self.group.samples) * len(self.group.cells) - total
        probe = LatencyProbe(self.group, self.spec, self.folder, self.name, self._succeeded)
        timed = probe.untimed()
        if not total and not timed:
            return
        model = f" with {self.group.model.ref}" if self.group.model else ""
        self.progress.start(f"{self.group.task}{model}", total)
        try:
            with open_bench(self.group, self.spec) as bench:
                waiting = (s for s in self.group.samples if missing[s.id])
                while batch := list(islice(waiting, bench.batch_size)):
                    self._observe(bench, batch, missing)
                if timed:
                    self._probe(probe, bench, timed)
        finally:
            for lines in self.writers.values():
                lines.close()
            for features in self.features.values():
                features.close()

    # --------------------------------------------------------------------------------------------------------- records

    def _is_missing(self, cell: PlannedCell, sample: Sample) -> bool:
        record = self.stored[cell.cell.work_id].get(sample.id)
        if record is None or record.fingerprint != sample.fingerprint:
            return True
        if record.status == "bad_input" or (record.status == "failed" and self.spec.retry_failed):
            return True
        return not self._is_scored(record)

    def _is_scored(self, record: SampleRecord) -> bool:
        for info in self.infos:
            score = record.scores.get(info.name)
            if score is None and record.status == "failed" and info.worst is None:
                continue
            if score is None or (score.protocol, score.code) != (info.protocol, info.code):
                return False
        return True

    def _observe(self, bench: Bench, samples: Sequence[Sample], missing: dict[str, list[PlannedCell]]) -> None:
        opened = [o for s in samples if (o := self._open(s, missing[s.id])) is not None]
        todo: dict[str, set[str]] = {}
        for item in opened:
            for cell in missing[item.sample.id]:
                if not self._score_again(bench, cell, item):
                    todo.setdefault(cell.cell.work_id, set()).add(item.sample.id)
        cells = [c for c in self.group.cells if c.cell.work_id in todo]
        for cell, item, seen in bench.observe(opened, cells):
            if item.sample.id in todo[cell.cell.work_id]:
                self._write(cell, self._finished(cell, item.sample, seen))
                self.tally.computed += 1

    def _open(self, sample: Sample, cells: Sequence[PlannedCell]) -> Opened | None:
        """Decode a sample; one that cannot be decoded is recorded so in every cell alike, before any method."""
        try:
            return open_sample(sample)
        except UserError:
            raise
        except Exception as error:
            record = failure(sample, error, "bad_input")
            self.tally.bad_inputs += 1
            for cell in cells:
                if self.stored[cell.cell.work_id].get(sample.id) == record:
                    self.progress.advance()  # looked at in every run, since the file may have been mended
                else:
                    self._write(cell, record)
            return None

    def _finished(self, cell: PlannedCell, sample: Sample, seen: Observation) -> SampleRecord:
        """The record with its scores, once its output is kept."""
        record = seen.record
        if record.status == "bad_input":
            self.tally.bad_inputs += 1
            return record
        if seen.stream and self.spec.keep_outputs:
            file = quote(sample.id, safe="") + seen.stream[1]
            write_atomically(self.folder.output(cell.cell.work_id, file), seen.stream[0])
            record = replace(record, prediction=file)
        return self._scored(cell, record, sample, seen.output)

    def _score_again(self, bench: Bench, cell: PlannedCell, opened: Opened) -> bool:
        """Score a finished record whose metrics changed from what was kept of it; False where that cannot be."""
        record = self.stored[cell.cell.work_id].get(opened.sample.id)
        if record is None or record.fingerprint != opened.sample.fingerprint or record.status == "bad_input":
            return False
        if record.status == "failed" and self.spec.retry_failed:
            return False
        output = None
        if record.status != "failed":
            output = bench.restore(cell, opened, record, self.folder.output(cell.cell.work_id, ""))
            if output is None:
                return False
        self._write(cell, self._scored(cell, record, opened.sample, output))
        self.tally.scored_again += 1
        return True

    def _scored(self, cell: PlannedCell, record: SampleRecord, sample: Sample, output: Output | None) -> SampleRecord:
        """The record with the scores of its output, or with the worst ones where there is none."""
        if output is not None:
            memo = Memo()
            try:
                items = [m.score(output, sample, memo) for m in self.group.metrics]
                return replace(record, scores=self._scores(cell, items, output, sample, memo))
            except UserError:
                raise
            except Exception as error:
                text = " ".join(str(error).split())
                record = replace(record, status="failed", error=f"scoring, {type(error).__name__}: {text}"[:500])
        memo = Memo()
        worst = [_worst(m, sample, memo) for m in self.group.metrics]
        return replace(record, scores=self._scores(cell, worst, None, sample, memo))

    def _scores(
        self,
        cell: PlannedCell,
        items: Sequence[list[Item] | None],
        output: Output | None,
        sample: Sample,
        memo: Memo,
    ) -> dict[str, Score]:
        """`output` is what the items are of, None that of a sample whose method failed."""
        scores = {}
        for info, metric, found in zip(self.infos, self.group.metrics, items, strict=True):
            if found is None:
                continue
            raw: tuple[object, ...] = ()
            if isinstance(metric, BorrowedMetric) and info.aggregation:
                raw = metric.values(output.text if output else None, sample, memo)
            elif isinstance(metric, SetMetric) and output is not None:
                raw = self._kept(cell.cell.work_id, metric, output, sample, memo)
            scores[info.name] = Score(info.protocol, info.code, tuple((i.value, dict(i.slices)) for i in found), raw)
        return scores

    def _kept(self, work_id: str, metric: SetMetric, output: Output, sample: Sample, memo: Memo) -> tuple[object, ...]:
        """Where the features of an output are kept: once for all metrics of one space."""

        def keep() -> tuple[object, ...]:
            place = work_id, metric.space
            if place not in self.features:
                self.features[place] = self.folder.feature_writer(work_id, self.name, metric.space)
            return self.features[place].append(metric.features(output, sample, memo))

        return memo.once(("kept", metric.space), keep)

    def _write(self, cell: PlannedCell, record: SampleRecord) -> None:
        work_id = cell.cell.work_id
        if work_id not in self.writers:
            self.writers[work_id] = self.folder.sample_writer(work_id, self.name)
        self.writers[work_id].append(record.to_json())
        self.stored[work_id][record.sample_id] = record
        if record.status == "failed":
            self.tally.failed += 1
            log.debug("%s failed on %s: %s", cell.cell.label, record.sample_id, record.error)
        self.progress.advance()

    # --------------------------------------------------------------------------------------------------------- latency

    def _probe(self, probe: LatencyProbe, bench: Bench, cells: Sequence[PlannedCell]) -> None:
        heats, chosen = probe.heats(cells), probe.samples(cells)
        self.progress.start(f"latency of {self.group.task}", len(heats) * len(chosen))
        for sample in chosen:
            for heat in heats:
                probe.run(bench, heat, sample, partial(open_sample, sample))
                self.progress.advance()

    def _succeeded(self, cell: PlannedCell, sample: Sample) -> bool:
        record = self.stored[cell.cell.work_id].get(sample.id)
        return record is not None and record.status in ("ok", "infeasible") and record.error is None


def _worst(metric: Metric, sample: Sample, memo: Memo) -> list[Item] | None:
    if metric.worst is None:
        return None
    if isinstance(metric, BorrowedMetric):
        return metric.failed(sample, memo)
    return [Item(metric.worst, slices) for slices in metric.items(sample)]
