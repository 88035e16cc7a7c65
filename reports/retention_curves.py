"""The curves of methods over token counts, summed up on common ground: two areas and the smallest budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..metrics.statistics import Interval, Resampled, combine
from .curves import area, hypervolume, smallest_retaining
from .ranking import Key

if TYPE_CHECKING:
    from .retention import Point

SHARES = (0.95, 0.99)


@dataclass(frozen=True)
class Reach:
    """The smallest measured budget that retains a share; `sure` where its whole interval does."""

    budget_text: str
    tokens: float
    sure: bool


@dataclass(frozen=True)
class Curve:
    """What sums up the curve of one method; `reach` has None where no measured budget retains the share."""

    area: Interval
    hypervolume: Interval
    reach: dict[float, Reach | None]


@dataclass(frozen=True)
class Curves:
    """The curves of one scope by label.

    Attributes:
        low, full: the token counts between which both areas are means over log tokens; NaN where there are no areas.
        budgets: those that every method has: the areas rest on them and on full tokens alone.
    """

    low: float
    full: float
    budgets: tuple[str, ...]
    by_label: dict[str, Curve]

    @classmethod
    def none(cls) -> Curves:
        """Where nothing can be summed up."""
        return cls(math.nan, math.nan, (), {})


def curves(points: Sequence[Point], full: Resampled, full_tokens: float) -> tuple[Curves, tuple[str, ...]]:
    """The curves of all methods, and remarks on what they could not rest on.

    Areas are comparable only over the same range and from equally many points. They rest on the budgets that all
    methods of at least two measured budgets have (floors too, diagnostics not), and on full tokens; they begin at the
    count that each of these methods reaches at the smallest of these budgets.

    Args:
        full: the score of full tokens.
        full_tokens: their count, as it is of the points: the mean over layers.
    """
    measured: dict[str, dict[Key, Point]] = {}
    for p in points:
        if p.status == "complete" and p.tokens > 0 and not math.isnan(p.retained.value):
            measured.setdefault(p.label, {})[p.budget] = p
    judged = {k: own for k, own in measured.items() if len(own) > 1 and not next(iter(own.values())).diagnostic}
    common = set.intersection(*(set(own) for own in judged.values())) if judged else set()
    remarks = []
    low, texts = math.nan, tuple[str, ...]()
    if len(common) < 2:
        remarks.append("No two budgets were measured with every method, so that there are no areas.")
    else:
        low = max(min(own[b].tokens for b in common) for own in judged.values())
        first = next(iter(judged.values()))
        texts = tuple(first[b].budget_text for b in sorted(common, key=lambda b: -first[b].tokens))
        others = {b: p.budget_text for own in judged.values() for b, p in own.items() if b not in common}
        for budget, typed in others.items():
            lacking = ", ".join(sorted(label for label, own in judged.items() if budget not in own))
            remarks.append(f"The areas leave out {typed}: {lacking} has no complete cell there.")
    found = {}
    for label, own in measured.items():
        has = low < full_tokens and common <= set(own) and min(own[b].tokens for b in common) <= low
        ends = _areas([own[b] for b in common], full, full_tokens, low) if has else (_unknown(), _unknown())
        found[label] = Curve(*ends, {share: _reach(list(own.values()), share) for share in SHARES})
    return Curves(low, full_tokens, texts, found), tuple(remarks)


def _areas(own: Sequence[Point], full: Resampled, full_tokens: float, low: float) -> tuple[Interval, Interval]:
    own = sorted(own, key=lambda p: p.tokens)
    tokens = [*(min(p.tokens, full_tokens) for p in own), full_tokens]
    parts = [*(p.scored for p in own), full]
    return (
        combine(lambda scores: area(tokens, scores, low=low), *parts).interval(),
        combine(lambda scores: hypervolume(tokens, scores, low=low), *parts).interval(),
    )


def _reach(own: Sequence[Point], share: float) -> Reach | None:
    index = smallest_retaining([p.tokens for p in own], [p.retained.value for p in own], share)
    if index is None:
        return None
    return Reach(own[index].budget_text, own[index].tokens, own[index].interval.low >= share)


def _unknown() -> Interval:
    return Interval(math.nan, math.nan, math.nan)
