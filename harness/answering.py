"""Runs compressors in a model: preprocess once, encode once, then one answer per cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..results.records import SampleRecord
from .bench import Bench, Observation, Opened, Quantity, failure
from .contracts import Compressor, Output, Sample
from .models import ModelInfo, open_model
from .plan import PlannedCell
from .spec import SweepSpec

if TYPE_CHECKING:
    from .models.base import Answer, Batch, Encoded


class AnsweringBench(Bench):
    """Holds one model for all cells of a group."""

    def __init__(self, model: ModelInfo, spec: SweepSpec) -> None:
        self.spec = spec
        self.batch_size = spec.batch_size
        self.model = open_model(model.ref, device=spec.device, dtype=spec.dtype, attention=spec.attention)
        self._stack = ExitStack()

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def observe(
        self, opened: Sequence[Opened], cells: Sequence[PlannedCell]
    ) -> Iterator[tuple[PlannedCell, Sample, Observation]]:
        if not opened:
            return
        samples = [o.sample for o in opened]
        batch = self.model.prepare(samples, [o.images for o in opened])
        shared: Encoded | None = None
        for cell in cells:
            if shared is None and not _changes_encoding(cell):
                shared = self.model.encode(batch, _reads(cells))
            for sample, seen in zip(samples, self._answer_all(cell, batch, shared), strict=True):
                yield cell, sample, seen

    def restore(self, cell: PlannedCell, opened: Opened, record: SampleRecord, outputs: Path) -> Output | None:
        return None if record.prediction is None else Output(text=record.prediction)

    def timed(
        self, opened: Opened, cells: Sequence[PlannedCell]
    ) -> Mapping[Quantity, Mapping[str, Callable[[], object]]]:
        batch = self.model.prepare([opened.sample], [opened.images])

        def first_token(cell: PlannedCell) -> Callable[[], object]:
            return lambda: self.model.first_token(batch, _compressor(cell), cell.schedule, seed=cell.cell.seed)

        def next_token(cell: PlannedCell) -> Callable[[], object]:
            state = first_token(cell)()
            return lambda: self.model.next_token(state)

        return {
            "latency": {c.cell.work_id: first_token(c) for c in cells},
            "tpot": {c.cell.work_id: next_token(c) for c in cells},
        }

    def _answer_all(self, cell: PlannedCell, batch: Batch, shared: Encoded | None) -> list[Observation]:
        """A batch that fails is run again sample by sample, so that one bad sample costs only itself."""
        try:
            return [self._seen(cell, a) for a in self._answer(cell, batch, shared)]
        except Exception as error:  # noqa: BLE001
            self.model.recover()
            if len(batch) == 1:
                return [failure(error)]
        return [
            seen
            for i in range(len(batch))
            for seen in self._answer_all(cell, *self.model.single(batch, shared, i))
        ]  # fmt: skip

    def _answer(self, cell: PlannedCell, batch: Batch, shared: Encoded | None) -> list[Answer]:
        assert cell.schedule
        encoded = None if _changes_encoding(cell) else shared
        return self.model.answer(
            batch, encoded, _compressor(cell), cell.schedule, seed=cell.cell.seed, max_new_tokens=self.spec.max_new_tokens
        )

    def _seen(self, cell: PlannedCell, answer: Answer) -> Observation:
        return Observation(
            "ok",
            Output(text=answer.text),
            prediction=answer.text,
            tokens_full=answer.tokens_full,
            tokens_per_layer=answer.visual_tokens,
            tokens_kv=sum(answer.kv_tokens) / len(answer.kv_tokens),
            text_tokens=answer.text_tokens,
            kept_indices=answer.kept_indices,
            flops=None,
        )


def _compressor(cell: PlannedCell) -> Compressor | None:
    assert cell.method is None or isinstance(cell.method, Compressor)
    return cell.method


def _changes_encoding(cell: PlannedCell) -> bool:
    assert cell.schedule
    return any(s.place in ("pixel", "encoder") for s in cell.schedule.stages)


def _reads(cells: Sequence[PlannedCell]) -> frozenset[str]:
    return frozenset(r for c in cells if c.schedule for s in c.schedule.stages for r in s.reads)
