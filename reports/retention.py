"""How much of the score at full tokens each method retains: by task, and averaged over the tasks that all have.

Papers print a score as a share of that of the untouched model, and average the shares over tasks (the mean of ratios,
not the ratio of means: VisionZip, arXiv 2412.04467, table 1). Here both scores are recomputed from the same samples in
every resample of clusters, so that the interval is that of the ratio; nothing is read off a rounded table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.statistics import Interval, Resampled, combine
from .curves import tokdense
from .printed import Estimate, budget_text, setting_text, show, text
from .ranking import BUDGET, SERIES, SETTING, Key, as_rows, group, key_of, missing, number
from .retention_curves import Curves, curves
from .scores import Resamples, score_key
from .tables import notes

if TYPE_CHECKING:
    import pandas as pd

FAMILIES = ("vqa", "video_qa")
"""Where full tokens are a model's own score; a picture codec has no such thing."""
WHOLE = [*SETTING[2:], "family"]
"""What tasks must share to be averaged: the model and how it ran, and the kind of task."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """What one method retains at one budget, its seeds averaged.

    Attributes:
        tokens: mean over the LLM's layers and the samples; NaN where the method never came so far.
        retained: the score over that of full tokens on the same samples.
        score: of the method; an average over tasks has none (NaN).
        tokdense: see `curves.tokdense`; NaN where the score is no share of right answers.
        rank: 1 plus the number of methods at the same budget that retain more, by the interval of the paired
            difference; None where unranked, and `unranked` says why.
    """

    label: str
    floor: bool
    diagnostic: bool
    budget: Key
    budget_text: str
    tokens: float
    retained: Resampled
    scored: Resampled
    score: float
    tokdense: float
    n: int
    n_clusters: int
    n_seeds: int
    illustrative: bool
    status: str
    notes: tuple[str, ...] = ()
    rank: int | None = None
    tied: bool = False
    unranked: str = ""
    interval: Interval = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", self.retained.interval())

    @property
    def place(self) -> str:
        """`2`, or `=2` for a tie, or empty."""
        return "" if self.rank is None else f"={self.rank}" if self.tied else str(self.rank)


@dataclass(frozen=True)
class Scope:
    """One task, or the average over `tasks`, of which a figure and a table are made.

    Attributes:
        full: the score of full tokens; of an average 1, with no spread.
        full_tokens, full_tokdense: what belongs to it.
        remarks: what was left out of it and why.
    """

    name: str
    tasks: tuple[str, ...]
    subset: str
    metric: str
    protocol: str
    unit: str
    full: Resampled
    full_tokens: float
    full_tokdense: float
    points: tuple[Point, ...]
    curves: Curves
    remarks: tuple[str, ...]

    @property
    def is_average(self) -> bool:
        """Whether it is one over several tasks."""
        return len(self.tasks) > 1

    @property
    def budgets(self) -> list[Key]:
        """From the most tokens to the fewest."""
        tokens: dict[Key, list[float]] = {}
        for p in self.points:
            tokens.setdefault(p.budget, []).extend([] if math.isnan(p.tokens) else [p.tokens])
        return sorted(tokens, key=lambda budget: -fmean(tokens[budget] or [math.inf]))

    @property
    def labels(self) -> list[str]:
        """The largest area first, then floors, then diagnostics; by name where too few clusters tell."""
        first = {p.label: p for p in reversed(self.points)}
        untold = any(p.illustrative for p in self.points)

        def order(label: str) -> tuple[bool, bool, float, str]:
            curve = self.curves.by_label.get(label)
            known = curve is not None and not math.isnan(curve.area.value) and not untold
            return first[label].diagnostic, first[label].floor, -curve.area.value if known and curve else 0.0, label

        return sorted(first, key=order)

    def at(self, label: str, budget: Key) -> Point | None:
        """The point of a method at a budget, where there is one."""
        return next((p for p in self.points if (p.label, p.budget) == (label, budget)), None)


@dataclass(frozen=True)
class Retention:
    """All scopes of one model and family of tasks, the average first; `skipped` says which tasks have none and why."""

    model: str
    family: str
    setting: str
    identity: dict[str, str]
    scopes: tuple[Scope, ...]
    skipped: tuple[str, ...]

    @property
    def how(self) -> str:
        """The setting without the model's name."""
        return self.setting.removeprefix(f"{self.model}, ")


def measure(ranked: pd.DataFrame, resamples: Resamples) -> list[Retention]:
    """The retention of every model's cells under the headline metric of each task.

    Args:
        ranked: what `ranking.rank` returned.
    """
    rows = [r for r in as_rows(ranked) if r["family"] in FAMILIES and r["source"] == "measured"]
    headline = {key_of(r, SETTING): r["metric"] for r in reversed(rows)}
    rows = [r for r in rows if r["metric"] == headline[key_of(r, SETTING)]]
    return [found for part in group(rows, WHOLE).values() if (found := _of_model(part, resamples))]


def _of_model(rows: list[dict[str, Any]], resamples: Resamples) -> Retention | None:
    scopes, skipped = [], []
    for part in group(rows, SERIES).values():
        if all(r["kind"] == "untouched" for r in part):
            continue
        found = _of_task(part, resamples)
        if isinstance(found, str):
            skipped.append(found)
        else:
            scopes.append(found)
    if len(scopes) > 1:
        scopes.insert(0, _average(scopes))
    if not scopes and not skipped:
        return None
    first = rows[0]
    identity = {name: text(first[name]) for name in WHOLE}
    return Retention(
        text(first["model"]), first["family"], setting_text(first), identity, tuple(scopes), tuple(skipped)
    )


def _of_task(rows: list[dict[str, Any]], resamples: Resamples) -> Scope | str:
    """The scope of one task; or why there is none."""
    first = rows[0]
    name = f"{first['task']} ({first['subset']})"
    if not first["higher_is_better"]:
        return f"{name}: lower is better in {first['metric']}, and a share of an error says nothing"
    untouched = [r for r in rows if r["kind"] == "untouched" and score_key(r) in resamples]
    if not untouched:
        return f"{name}: full tokens were not measured, so there is nothing to retain"
    if other := [r["label"] for r in rows if score_key(r) in resamples and not _is_mean(r, resamples)]:
        return f"{name}: {first['metric']} of {other[0]} is no mean over samples, so that no resample has it"
    whole = resamples.of([[score_key(r) for r in untouched]])
    if whole is None or not whole.sides[0].value > 0 or whole.sides[0].interval().low <= 0:
        score = Estimate.of(untouched[0])
        return (
            f"{name}: full tokens score {show(score.value, score.unit)} ({score.interval}), which may be nothing, and "
            "a share of nothing says nothing"
        )
    kept = [r for r in rows if r["kind"] != "untouched" and score_key(r) in resamples]
    points = []
    for seeds in group(kept, ["label", *BUDGET]).values():
        point = _point(seeds, untouched, resamples)
        points += [point] if point else []
    full_tokens = fmean(number(r["tokens_mean"]) for r in untouched)
    points = ranked_points(points)
    made, remarks = curves(points, whole.sides[0], full_tokens)
    return Scope(
        first["task"], (first["task"],), first["subset"], first["metric"], first["protocol"], first["unit"] or "",
        whole.sides[0], full_tokens, _tokdense(untouched, whole.sides[0].value), tuple(points), made, remarks,
    )  # fmt: skip


def _is_mean(row: dict[str, Any], resamples: Resamples) -> bool:
    """Whether the cell's value is the mean of its samples' scores: some tasks aggregate in a way of their own."""
    found = resamples.of([[score_key(row)]])
    return missing(row["value"]) or (
        found is not None and math.isclose(found.sides[0].value, row["value"], abs_tol=1e-9)
    )


def _point(seeds: list[dict[str, Any]], untouched: list[dict[str, Any]], resamples: Resamples) -> Point | None:
    means = resamples.of([[score_key(r) for r in untouched], [score_key(r) for r in seeds]])
    if means is None:
        return None
    first, (_, scored) = seeds[0], means.sides
    statuses = dict.fromkeys(r["status"] for r in (*untouched, *seeds) if r["status"] != "complete")
    return Point(
        first["label"], bool(first["floor"]), bool(first["diagnostic"]), key_of(first, BUDGET), budget_text(first),
        _mean(seeds, "tokens_mean"), combine(_ratio, *means.sides), scored, scored.value,
        _tokdense(seeds, scored.value), means.n_samples, means.n_clusters, len(seeds),
        any(bool(r["illustrative"]) for r in (*untouched, *seeds)), next(iter(statuses), "complete"),
        tuple(dict.fromkeys(note for r in seeds for note in notes([r]))),
    )  # fmt: skip


def _ratio(values: Array) -> Array:
    """[..., 2] full and kept to [...]; NaN where full tokens score nothing."""
    full, kept = values[..., 0], values[..., 1]
    return np.divide(kept, full, out=np.full_like(full, np.nan), where=full > 0)


def _mean(rows: Iterable[dict[str, Any]], column: str) -> float:
    """NaN where one of them is missing."""
    return fmean(number(r[column]) for r in rows)


def _tokdense(rows: list[dict[str, Any]], score: float) -> float:
    """Of a share of right answers, in percent per token that enters the LLM."""
    is_share = rows[0]["unit"] in ("", "%", None) and 0 <= score <= 1
    return tokdense(score, _mean(rows, "tokens_entering")) if is_share else math.nan


# ------------------------------------------------------------------------------------------------------------- average


def _average(scopes: Sequence[Scope]) -> Scope:
    """The mean over tasks of what is retained, budget by budget over the tasks that all compared methods have there."""
    budgets = list(dict.fromkeys(budget for scope in scopes for budget in scope.budgets))
    points: list[Point] = []
    remarks: list[str] = []
    used: dict[Key, list[Scope]] = {}
    for budget in budgets:
        have = [{p.label for p in s.points if p.budget == budget and _counts(p)} for s in scopes]
        judged = {
            p.label
            for s, own in zip(scopes, have, strict=True)
            for p in s.points
            if p.label in own and not p.diagnostic
        }
        over = [(s, own) for s, own in zip(scopes, have, strict=True) if judged and judged <= own]
        typed = next(p.budget_text for s in scopes for p in s.points if p.budget == budget)
        for scope, own in zip(scopes, have, strict=True):
            if lacking := ", ".join(sorted(judged - own)):
                why = f"{lacking} has no complete cell there"
                remarks.append(f"At {typed} {scope.name} is left out of the average: {why}.")
        if not over:
            remarks.append(f"At {typed} there is no average.")
            continue
        used[budget] = [s for s, _ in over]
        for label in sorted(set.intersection(*(own for _, own in over))):
            points.append(_averaged([p for s in used[budget] if (p := s.at(label, budget))]))
    points = ranked_points(points)
    one = Resampled(1.0, np.ones_like(scopes[0].full.draws))
    full_tokens = fmean(s.full_tokens for s in next(iter(used.values()), scopes))
    if any(over != next(iter(used.values())) for over in used.values()):
        made = Curves.none()
        remarks.append("The budgets rest on different tasks, so that no curve of the average is summed up.")
    else:
        made, more = curves(points, one, full_tokens)
        remarks += more
    tasks = tuple(s.name for s in scopes)
    return Scope(
        "average", tasks, ", ".join(dict.fromkeys(s.subset for s in scopes)), "retention",
        "; ".join(f"{s.name}: {s.metric}, {s.protocol}" for s in scopes), "", one, full_tokens, math.nan,
        tuple(points), made, tuple(remarks),
    )  # fmt: skip


def _counts(point: Point) -> bool:
    """Whether a point may enter an average."""
    return point.status == "complete" and not math.isnan(point.retained.value)


def _averaged(parts: Sequence[Point]) -> Point:
    """One method at one budget over tasks; what is resampled alike (tasks about the same pictures) stays together."""
    retained = combine(lambda values: np.asarray(values.mean(axis=-1)), *(p.retained for p in parts))
    return replace(
        parts[0], tokens=fmean(p.tokens for p in parts), retained=retained, scored=retained, score=math.nan,
        tokdense=math.nan, n=sum(p.n for p in parts), n_clusters=sum(p.n_clusters for p in parts),
        n_seeds=max(p.n_seeds for p in parts), illustrative=any(p.illustrative for p in parts),
        notes=tuple(dict.fromkeys(note for p in parts for note in p.notes)),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- ranking


def ranked_points(points: Sequence[Point]) -> list[Point]:
    """The points with their ranks at each budget; floors, diagnostics and what cannot be compared take none."""
    told = [replace(p, unranked=_why_unranked(p, max(q.n for q in points if q.budget == p.budget))) for p in points]
    ranks = {id(p): _rank(p, [q for q in told if q.budget == p.budget and not q.unranked]) for p in told}
    return [
        p if p.unranked else replace(
            p, rank=ranks[id(p)],
            tied=sum(ranks[id(q)] == ranks[id(p)] for q in told if q.budget == p.budget and not q.unranked) > 1,
        )
        for p in told
    ]  # fmt: skip


def _why_unranked(point: Point, most: int) -> str:
    if point.diagnostic:
        return "diagnostic"
    if point.floor:
        return "floor"
    if point.status != "complete":
        return point.status
    if point.illustrative:
        return "illustrative"
    if point.n < most:
        return "on fewer samples"
    return "no interval" if math.isnan(point.interval.low) else ""


def _rank(point: Point, rivals: Sequence[Point]) -> int:
    """1 plus the number of rivals that surely retain more: the interval of the paired difference lies above 0."""
    ahead = (combine(lambda v: np.asarray(v[..., 1] - v[..., 0]), point.retained, q.retained) for q in rivals)
    return 1 + sum(difference.interval().low > 0 for difference in ahead)
