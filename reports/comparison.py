"""Two cells of one folder, paired on the same samples."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..harness.contracts import Budget, UserError
from ..metrics.statistics import Interval
from ..results.records import ILLUSTRATIVE_BELOW
from ..results.sets import is_set
from ..results.store import Cell, MetricInfo, ResultsFolder
from .flips import Flips, find_flips
from .pairing import pair
from .scores import scored

PLACE = ("task", "model", "model_revision", "dtype", "attention", "device")
"""What two cells must have in common to be compared."""
ANSWERED = ("vqa", "video_qa")
Places = dict[tuple[object, ...], list[Cell]]
"""Cells by what `PLACE` names; several of one place are seeds."""


@dataclass(frozen=True)
class Comparison:
    """b - a under one metric of one task; `difference` is None where the two cannot be compared, and `note` says why.

    `verdict` is `a is better`, `b is better`, `tie` (the interval holds 0), `illustrative` (fewer than 30 clusters) or
    `not comparable`. `flips` are there for answers, of methods without several seeds.
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
    flips: Flips | None = None

    def row(self) -> dict[str, object]:
        """A JSON-ready mapping; what is not known is None."""
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
            "mcnemar": asdict(self.flips.mcnemar) if self.flips and self.flips.mcnemar else None,
            "flips": self.flips.to_json() if self.flips else None,
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
        raise UserError(f"{a} and {b} have no task, model and setting in common: {_apart(a, left, b, right)}.")
    return [c for place in places for c in _compare(folder, left[place], right[place])]


def _apart(a: str, left: Places, b: str, right: Places) -> str:
    """What keeps two selections apart: the tasks, or where these agree the fields that differ."""
    tasks = [list(dict.fromkeys(place[0] for place in side)) for side in (left, right)]
    if not set(tasks[0]) & set(tasks[1]):
        there, here = (", ".join(map(str, side)) for side in tasks)
        return f"{a} ran on {there}, {b} on {here}"
    nearest = min(
        ((p, q) for p in left for q in right), key=lambda pair: sum(x != y for x, y in zip(*pair, strict=True))
    )
    fields = [(name, x, y) for name, x, y in zip(PLACE, *nearest, strict=True) if x != y]
    return "; ".join(f"{name} is {x} of {a} and {y} of {b}" for name, x, y in fields)


def _select(folder: ResultsFolder, selector: str) -> Places:
    """The cells of a selector by task, model and setting."""
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
    places: Places = {}
    for c in found:
        places.setdefault(tuple(getattr(c, name) for name in PLACE), []).append(c)
    return places


def _parse(selector: str) -> tuple[str, Budget | None]:
    label, at, budget = selector.strip().rpartition("@")
    return (label, Budget.parse(budget)) if at else (selector.strip(), None)


def _compare(folder: ResultsFolder, a: Sequence[Cell], b: Sequence[Cell]) -> list[Comparison]:
    ours, theirs = ({m.name: m for m in side[0].metrics} for side in (a, b))
    shared = [name for name in ours if name in theirs]
    if not shared:
        names = " and ".join(", ".join(metrics) for metrics in (ours, theirs))
        about = a[0].task, a[0].model, names, None, "", True
        return [_not_comparable(about, f"the metrics differ: {names}; sweep both cells again")]
    return [_one(folder, a, b, ours[name], theirs[name]) for name in shared]


def _one(
    folder: ResultsFolder, a: Sequence[Cell], b: Sequence[Cell], ours: MetricInfo, theirs: MetricInfo
) -> Comparison:
    protocol = ours.protocol if ours.protocol == theirs.protocol else None
    about = a[0].task, a[0].model, ours.name, protocol, ours.unit, ours.higher_is_better
    if protocol is None:
        return _not_comparable(about, f"{_protocols(ours.protocol, theirs.protocol)}; sweep both cells again")
    if is_set(ours):
        return _not_comparable(about, "one figure of the set, of which samples have no part: see both in the report")
    stored = [[folder.records(c.work_id) for c in side] for side in (a, b)]
    left, right = ([scored(c, ours, r) for c, r in zip(*s, strict=True)] for s in zip((a, b), stored, strict=True))
    got, note = pair(left, right), _samples(a, b)
    other = sum(i in right[0] and s.source != right[0][i].source for i, s in left[0].items())
    changed = f"{other} samples hold other data in the two cells under the same id" if other else ""
    if got is None:
        return _not_comparable(about, "; ".join(filter(None, ["no sample is scored in both", note, changed])))
    d = got.difference
    asked = {i for c in (*a, *b) for i in c.sample_ids}
    if got.n_samples < len(asked):
        few = f"{got.n_samples} of {len(asked)} samples are scored in both"
        note = "; ".join(filter(None, [few, note, changed]))
    if got.n_clusters < ILLUSTRATIVE_BELOW:
        verdict = "illustrative"
    elif d.low <= 0 <= d.high:
        verdict = "tie"
    else:
        verdict = "b is better" if (d.low > 0) == ours.higher_is_better else "a is better"
    flips = None
    if a[0].family in ANSWERED and ours.family != "evidence":
        if len(a) == len(b) == 1:
            records = stored[0][0], stored[1][0]
            flips = find_flips(left[0], right[0], records, higher_is_better=ours.higher_is_better)
        else:
            note = "; ".join(filter(None, [note, "seeds are averaged, so no sample flips"]))
    return Comparison(*about, got.a, got.b, d, got.n_samples, got.n_clusters, verdict, note, flips)


def _not_comparable(about: tuple[str, str | None, str, str | None, str, bool], note: str) -> Comparison:
    return Comparison(*about, None, None, None, 0, 0, "not comparable", note)


def _protocols(a: str, b: str) -> str:
    """Two protocol ids, and the parts of them that differ."""
    left, right = ([p.strip() for p in re.split(r"[,;/]", side)] for side in (a, b))
    parts = [", ".join(p for p in one if p not in other) or "nothing" for one, other in ((left, right), (right, left))]
    return f"the protocols differ in {parts[0]} against {parts[1]}: {a!r} and {b!r}"


def _samples(a: Sequence[Cell], b: Sequence[Cell]) -> str:
    """That the two were asked different subsets; empty where they were not."""
    subsets = ["+".join(sorted({c.subset for c in side})) for side in (a, b)]
    return f"the subsets differ: {subsets[0]} and {subsets[1]}" if subsets[0] != subsets[1] else ""
