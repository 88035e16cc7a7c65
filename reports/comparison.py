"""Two cells of one folder, paired on the same samples."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..harness.contracts import Budget, UserError
from ..metrics.statistics import Interval
from ..results.records import ILLUSTRATIVE_BELOW
from ..results.store import Cell, MetricInfo, ResultsFolder
from .pairing import Scored, bins_of, pair


@dataclass(frozen=True)
class Comparison:
    """b - a under one metric of one task; `difference` is None where the two cannot be compared, and `note` says why.

    `verdict` is `a is better`, `b is better`, `tie` (the interval holds 0), `illustrative` (fewer than 30 clusters) or
    `not comparable`.
    """

    task: str
    model: str | None
    metric: str
    protocol: str | None
    unit: str
    higher_is_better: bool
    a: float | None
    b: float | None
    difference: Interval | None
    n_samples: int
    n_clusters: int
    verdict: str
    note: str = ""

    def row(self) -> dict[str, object]:
        """A flat, JSON-ready mapping; what is not known is None."""
        ends = self.difference or Interval(math.nan, math.nan, math.nan)
        numbers = {"a": self.a, "b": self.b, "difference": ends.value, "ci_low": ends.low, "ci_high": ends.high}
        return {
            "task": self.task,
            "model": self.model,
            "metric": self.metric,
            "protocol": self.protocol,
            "unit": self.unit,
            "better": "higher" if self.higher_is_better else "lower",
            **{k: None if v is None or math.isnan(v) else v for k, v in numbers.items()},
            "n": self.n_samples,
            "n_clusters": self.n_clusters,
            "verdict": self.verdict,
            "note": self.note or None,
        }


def compare(folder: ResultsFolder, a: str, b: str) -> list[dict[str, object]]:
    """What `compare_cells` found, as rows of a table or of JSON."""
    return [c.row() for c in compare_cells(folder, a, b)]


def compare_cells(folder: ResultsFolder, a: str, b: str) -> list[Comparison]:
    """Paired differences of two cells given as `fastv(layer=3)@64`, `jpeg@0.5bpp` or `none`, wherever both ran.

    Seeds of a stochastic method are averaged.

    Raises:
        UserError: a cell that the folder lacks (near names are listed), a selector that fits two budget conventions,
            or two cells that no task, model and setting have in common.
    """
    left, right = _select(folder, a), _select(folder, b)
    places = [p for p in left if p in right]
    if not places:
        there, here = (sorted({c.task for cells in side.values() for c in cells}) for side in (left, right))
        raise UserError(
            f"{a} and {b} have no task, model and setting in common: "
            f"{a} ran on {', '.join(there)}, {b} on {', '.join(here)}."
        )
    return [c for place in places for c in _compare(folder, left[place], right[place])]


def _select(folder: ResultsFolder, selector: str) -> dict[tuple[object, ...], list[Cell]]:
    """The cells of a selector by task, model and setting; several of one place are seeds."""
    cells = folder.cells()
    label, budget = _parse(selector)
    wanted = (budget.value, budget.unit) if budget else (None, None)
    found = [c for c in cells if c.label == label and (c.budget_value, c.budget_unit) == wanted]
    if not found:
        known = list(dict.fromkeys(c.label + (f"@{c.budget}" if c.budget else "") for c in cells))
        near = difflib.get_close_matches(selector, known, n=3, cutoff=0.4) or known[:6]
        raise UserError(f"There is no cell {selector!r} in {folder.path}; there are: {', '.join(near)}.")
    if len({c.budget_convention for c in found}) > 1:
        conventions = ", ".join(sorted(str(c.budget_convention) for c in found))
        raise UserError(f"{selector!r} fits several budget conventions ({conventions}): use two folders.")
    places: dict[tuple[object, ...], list[Cell]] = {}
    for c in found:
        places.setdefault((c.task, c.model, c.model_revision, c.dtype, c.attention, c.device), []).append(c)
    return places


def _parse(selector: str) -> tuple[str, Budget | None]:
    label, at, budget = selector.strip().rpartition("@")
    return (label, Budget.parse(budget)) if at else (selector.strip(), None)


def _compare(folder: ResultsFolder, a: Sequence[Cell], b: Sequence[Cell]) -> list[Comparison]:
    others = {m.name: m for m in b[0].metrics}
    return [_one(folder, a, b, m, others[m.name]) for m in a[0].metrics if m.name in others]


def _one(
    folder: ResultsFolder, a: Sequence[Cell], b: Sequence[Cell], ours: MetricInfo, theirs: MetricInfo
) -> Comparison:
    protocol = ours.protocol if ours.protocol == theirs.protocol else None
    about = a[0].task, a[0].model, ours.name, protocol, ours.unit, ours.higher_is_better
    if protocol is None:
        note = f"the protocols differ: {ours.protocol!r} and {theirs.protocol!r}; sweep both cells again"
        return Comparison(*about, None, None, None, 0, 0, "not comparable", note)
    left, right = ([_scored(folder, c, ours) for c in side] for side in (a, b))
    got = pair(left, right)
    if got is None:
        return Comparison(*about, None, None, None, 0, 0, "not comparable", "no sample is scored in both")
    d = got.difference
    asked = {i for c in (*a, *b) for i in c.sample_ids}
    note = f"{got.n_samples} of {len(asked)} samples are scored in both" if got.n_samples < len(asked) else ""
    if got.n_clusters < ILLUSTRATIVE_BELOW:
        verdict = "illustrative"
    elif d.low <= 0 <= d.high:
        verdict = "tie"
    else:
        verdict = "b is better" if (d.low > 0) == ours.higher_is_better else "a is better"
    return Comparison(*about, got.a, got.b, d, got.n_samples, got.n_clusters, verdict, note)


def _scored(folder: ResultsFolder, cell: Cell, metric: MetricInfo) -> dict[str, Scored]:
    stored = folder.records(cell.work_id)
    found = {}
    for i in cell.sample_ids:
        score = stored[i].scores.get(metric.name) if i in stored else None
        if score is not None and score.protocol == metric.protocol:
            items = [(v, dict(s)) for v, s in score.items]
            found[i] = Scored(stored[i].cluster_id, bins_of(items, metric.mean_over))
    return found
