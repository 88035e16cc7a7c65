"""Runs compressors in a model: preprocess once, encode once, then one answer per cell."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from ..results.records import SampleRecord
from .bench import Bench, Observation, Opened, failure, record_of
from .contracts import Compressor, Generation, Memo, Output, Refusal
from .cost.closed_form import flops_to_first_token
from .cost.compressor import reads_text, selector_flops
from .cost.flops import FlopCounter
from .cost.latency import Case
from .models import ModelInfo, open_model
from .models.base import Answer, Batch, Encoded
from .models.calls import BudgetKind
from .models.published import load_config
from .plan import PlannedCell
from .schedule import Schedule, untouched
from .spec import SweepSpec
from .timing import Runner, timed_answer

log = logging.getLogger("toksweep")


class AnsweringBench(Bench):
    """Holds one model for all cells of a group."""

    def __init__(self, model: ModelInfo, spec: SweepSpec, pixels: tuple[int, int] | None = None) -> None:
        self.spec = spec
        self.batch_size = spec.batch_size
        self.model = open_model(
            model.ref, device=spec.device, dtype=spec.dtype, attention=spec.attention,
            text_encoder=model.text_encoder.ref if model.text_encoder else None,
        )  # fmt: skip
        if pixels is not None:
            self.model.limit_pixels(*pixels)
        self.config = load_config(model.ref)
        self.encoder = model.text_encoder.config if model.text_encoder else None
        self._selector: dict[object, int] = {}
        # The closed form of every record is held against the real class once: a gap is an error before any sample.
        FlopCounter(self.config).count(untouched(model.shape), 64)

    def __exit__(self, *exception: object) -> None:
        del self.model

    def observe(
        self, opened: Sequence[Opened], cells: Sequence[PlannedCell]
    ) -> Iterator[tuple[PlannedCell, Opened, Observation]]:
        if not opened or not cells:
            return
        if len(asked := dict.fromkeys(o.sample.generation for o in opened)) > 1:
            for generation in asked:
                yield from self.observe([o for o in opened if o.sample.generation == generation], cells)
            return
        try:
            batch = self.model.prepare([o.sample for o in opened], [o.images for o in opened])
        except Exception as error:
            if len(opened) == 1:
                yield from ((c, opened[0], Observation(failure(opened[0].sample, error, "bad_input"))) for c in cells)
            else:
                for item in opened:
                    yield from self.observe([item], cells)
            return
        shared = self._encode(batch, [c for c in cells if not _changes_encoding(c)])
        for _, budgets in groupby(cells, lambda c: c.cell.label):  # the plan lists those of a method together
            memos: defaultdict[int, Memo] = defaultdict(Memo)
            for cell in budgets:
                answers = self._answer_all(cell, batch, shared, memos[cell.cell.seed], *asked)
                alone = self._alone(cell, opened, *asked)
                for item, answer, single in zip(opened, answers, alone, strict=True):
                    seen = self._seen(cell, item, answer)
                    yield cell, item, replace(seen, record=replace(seen.record, alone=single))

    def _alone(
        self, cell: PlannedCell, opened: Sequence[Opened], generation: Generation | None
    ) -> Sequence[str | None]:
        """The untouched model's answers one by one, where a dtype does not promise that a batch changes nothing."""
        if len(opened) < 2 or self.spec.dtype == "float32" or cell.entry.kind != "untouched":
            return [None] * len(opened)
        single = (self.model.prepare([o.sample], [o.images]) for o in opened)
        found = (self._answer_all(cell, batch, None, Memo(), generation)[0] for batch in single)
        return [None if isinstance(answer, Exception) else answer.text for answer in found]

    def _encode(self, batch: Batch, cells: Sequence[PlannedCell]) -> Encoded | None:
        """The vision pass that cells share; None where there is none, or where it failed and each cell tries alone."""
        if not cells:
            return None
        try:
            return self.model.encode(batch, _reads(cells))
        except Exception as error:
            log.warning("encoding a batch of %d failed (%s); each cell tries alone", len(batch.sample_ids), error)
            _free_memory()
            return None

    def restore(self, cell: PlannedCell, opened: Opened, record: SampleRecord, outputs: Path) -> Output | None:
        return None if record.prediction is None else Output(text=record.prediction, evidence=record.evidence or ())

    def timed(self, opened: Opened, cells: Sequence[PlannedCell]) -> Mapping[str, Case]:
        batch = self.model.prepare([opened.sample], [opened.images])
        runners = {c.cell.work_id: Runner(_compressor(c), _schedule(c), c.cell.seed, _budget_kind(c)) for c in cells}
        return {work_id: timed_answer(self.model, batch, runner) for work_id, runner in runners.items()}

    def _answer_all(
        self, cell: PlannedCell, batch: Batch, shared: Encoded | None, memo: Memo, generation: Generation | None
    ) -> list[Answer | Exception]:
        """A batch that fails is run again sample by sample, so that one bad sample costs only itself.

        `memo` is shared by the budgets of one method and seed on this batch; what a failure left half done is dropped.
        """
        count = len(batch.sample_ids)
        try:
            return [*self._answer(cell, batch, shared, memo, generation)]
        except Exception as error:
            memo.forget()
            _free_memory()
            if count == 1:
                return [error]
        singles = [self.model.single(batch, shared, i) for i in range(count)]
        return [
            answer for one, encoded in singles for answer in self._answer_all(cell, one, encoded, Memo(), generation)
        ]

    def _answer(
        self, cell: PlannedCell, batch: Batch, shared: Encoded | None, memo: Memo, generation: Generation | None
    ) -> list[Answer]:
        return self.model.answer(
            batch,
            None if _changes_encoding(cell) else shared,
            _compressor(cell),
            _schedule(cell),
            seed=cell.cell.seed,
            max_new_tokens=generation.max_new_tokens if generation else self.spec.max_new_tokens,
            tokenizer_end=bool(generation and generation.tokenizer_end),
            budget_kind=_budget_kind(cell),
            memo=memo,
        )

    def _seen(self, cell: PlannedCell, opened: Opened, answer: Answer | Exception) -> Observation:
        if isinstance(answer, Refusal):  # its pictures cannot be cut that way
            return Observation(failure(opened.sample, answer, "infeasible"))
        if isinstance(answer, Exception):
            return Observation(failure(opened.sample, answer))
        shapes: dict[str, Any] = {
            "images": answer.grids, "behind": answer.text_behind, "segments": answer.segments,
            "encoder": self.encoder,
        }  # fmt: skip
        record = replace(
            record_of(opened.sample, "ok"),
            prediction=answer.text,
            tokens_full=answer.tokens_full,
            tokens_per_layer=answer.visual_tokens,
            tokens_kv=sum(answer.kv_tokens) / len(answer.kv_tokens),
            text_tokens=answer.text_tokens,
            kv_bytes=answer.kv_bytes,
            kept_indices=answer.kept_indices,
            evidence=answer.evidence or None,
            flops=flops_to_first_token(
                self.config,
                _schedule(cell),
                answer.text_tokens,
                answer.visual_tokens,
                selector=self._selector_flops(cell, answer.text_tokens, shapes),
                **shapes,
            ),
        )
        return Observation(record, Output(text=answer.text, evidence=answer.evidence))

    def _selector_flops(self, cell: PlannedCell, text_tokens: int, shapes: Mapping[str, Any]) -> int:
        """Counted once per cell and grids of images, and number of text tokens where the method reads text."""
        compressor, schedule = _compressor(cell), _schedule(cell)
        if compressor is None or not schedule.stages:
            return 0
        text = (text_tokens, shapes["behind"], shapes["segments"]) if reads_text(schedule) else ()
        key = (cell.cell.work_id, shapes["images"], text)
        if key not in self._selector:
            self._selector[key] = selector_flops(self.config, schedule, compressor, text_tokens=text_tokens, **shapes)
        return self._selector[key]


def _free_memory() -> None:
    """After a failure that may have been one of memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _compressor(cell: PlannedCell) -> Compressor | None:
    assert cell.method is None or isinstance(cell.method, Compressor)
    return cell.method


def _schedule(cell: PlannedCell) -> Schedule:
    assert cell.schedule
    return cell.schedule


def _budget_kind(cell: PlannedCell) -> BudgetKind:
    kind: BudgetKind = cell.entry.meta.get("budget_kind", "exact")  # type: ignore[assignment]
    return kind


def _changes_encoding(cell: PlannedCell) -> bool:
    return any(s.place in ("pixel", "encoder") for s in _schedule(cell).stages)


def _reads(cells: Sequence[PlannedCell]) -> frozenset[str]:
    """What the shared vision pass must yield for all cells that use it."""
    at_projector = (s for c in cells for s in _schedule(c).stages if s.place == "projector")
    return frozenset(name for stage in at_projector for name in stage.reads)
