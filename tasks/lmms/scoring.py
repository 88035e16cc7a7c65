"""Metrics of one lmms-eval task: what its `process_results` says of an answer, kept for its aggregation."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...harness.contracts import BorrowedMetric, Item, Memo, Output, Sample
from . import library
from .values import decode, encode

log = logging.getLogger("toksweep")
Scores = Mapping[tuple[str, str], object]
FAILED = ""
"""The answer of a sample whose method failed, so that ratios and pairs keep their denominators."""
PROBES = 24


@dataclass(frozen=True)
class Judge:
    """Scores answers of a task. `numbers` are those of its documents, by sample id."""

    task: Any
    numbers: Mapping[str, int]

    def __call__(self, sample_id: str, text: str) -> Scores:
        return library.score(self.task, self.numbers[sample_id], text, zlib.crc32(sample_id.encode()))


@dataclass(frozen=True)
class LmmsMetric(BorrowedMetric):
    """One metric of a task under one of its filters; `name` is lmms-eval's, with the filter where there are several."""

    name: str
    key: tuple[str, str]
    higher_is_better: bool
    stamp: str
    code: str
    aggregation: str | None
    whole_set: bool
    judge: Judge
    score_key: str = "score"
    unit: str = ""
    mean_over: str = ""

    @property
    def worst(self) -> float | None:  # type: ignore[override]
        """0 where higher is better; where lower is, nothing says how bad a score can be."""
        return 0.0 if self.higher_is_better else None

    def protocol(self) -> str:
        return self.stamp

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        value = self._value(output.text or "", sample, memo)
        found = number(value, self.score_key)
        return [] if found is None else [Item(found, sample.slices)]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [sample.slices]

    def failed(self, sample: Sample, memo: Memo) -> list[Item]:
        assert self.worst is not None
        found = number(self._value(FAILED, sample, memo), self.score_key)
        return [] if found is None else [Item(self.worst, sample.slices)]

    def values(self, text: str | None, sample: Sample, memo: Memo) -> tuple[object, ...]:
        value = self._value(FAILED if text is None else text, sample, memo)
        if value is None:
            return ()
        if text is None and isinstance(value, bool | int | float | np.number):
            value = self.worst
        return (encode(value),)

    def _value(self, text: str, sample: Sample, memo: Memo) -> object:
        scores: Scores = memo.once(("lmms", text), lambda: self.judge(sample.id, text))
        return scores.get(self.key)


def number(value: object, score_key: str) -> float | None:
    """The number that lmms-eval's own standard errors take for a sample's score; None where there is none."""
    if isinstance(value, Mapping):
        value = value.get(score_key)
    return float(value) if isinstance(value, bool | int | float | np.number) else None


def holds_on_subsets(
    figure: Callable[[Sequence[object]], float], answers: Sequence[Sequence[object]], score_key: str
) -> bool:
    """Is an aggregation seen to be one that a subset estimates, as ratios and means are, and sums are not?

    It is tried on scores of right and empty answers: every set must give a figure within the range of its samples' own
    numbers (or 100 times that), and the same figure for the set laid twice. What fails, or has nothing to show, counts
    as defined on the whole set only.

    Args:
        answers: sets of raw values.
    """
    seen: set[float] = set()
    for values in answers:
        numbers = [n for v in values if (n := number(v, score_key)) is not None]
        if not numbers or len(numbers) < len(values):
            return False
        try:
            once, twice = figure(values), figure([*values, *values])
        except Exception:
            return False
        low, high = min(*numbers, 0.0), max(*numbers, 0.0)
        inside = any(low * k - 1e-9 <= once <= high * k + 1e-9 for k in (1, 100))
        if not inside or abs(once - twice) > 1e-9 * max(1.0, abs(once)):
            return False
        seen |= {once}
    return len(seen) > 1


def probes(
    judge: Judge, ids: Sequence[str], keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], list[list[object]]]:
    """For every metric, raw values of right answers, of empty ones, and of halves of both, on a few documents; nothing
    where the task's own code fails on them."""
    if not keys:
        return {}
    step = max(1, len(ids) // PROBES)
    chosen = ids[::step][:PROBES]
    try:
        right = [judge(i, _target(judge, i)) for i in chosen]
        empty = [judge(i, FAILED) for i in chosen]
    except Exception as error:
        log.debug("a task's own scoring fails on its targets: %s: %s", type(error).__name__, error)
        return {}
    mixed = [a if n % 2 else b for n, (a, b) in enumerate(zip(right, empty, strict=True))]
    sets = (right, empty, mixed, mixed[: max(1, len(mixed) // 2)])
    return {key: [[decode(encode(s[key])) for s in scores if key in s] for scores in sets] for key in keys}


def _target(judge: Judge, sample_id: str) -> str:
    """A right answer as a text, as far as the task's target is one."""
    target = judge.task.doc_to_target(judge.task.eval_docs_no_media[judge.numbers[sample_id]])
    while isinstance(target, list | tuple) and target:
        target = target[0]
    return str(target)
