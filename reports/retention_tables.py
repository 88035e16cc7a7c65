"""Retention as files: every figure in full as CSV, and a table per task, methods by budget, as Markdown."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from .printed import show
from .ranking import BUDGET
from .retention import Point, Retention, Scope
from .retention_curves import SHARES, Curve, Reach
from .tables import markdown_table

Value = str | float | int | bool | None


def write(measured: Sequence[Retention], out: Path) -> list[Path]:
    """`retention.csv` (a row per scope, method and budget), `retention-curves.csv` (a row per scope and method) and
    `retention.md`; nothing where nothing was measured."""
    if not measured:
        return []
    out.mkdir(parents=True, exist_ok=True)
    scopes = [(of, scope) for of in measured for scope in of.scopes]
    written = [out / name for name in ("retention.csv", "retention-curves.csv", "retention.md")]
    _write_csv(written[0], [row for of, scope in scopes for row in point_rows(of, scope)])
    _write_csv(written[1], [row for of, scope in scopes for row in curve_rows(of, scope)])
    written[2].write_text("\n".join(markdown(of) for of in measured), encoding="utf-8")
    return written


def point_rows(of: Retention, scope: Scope) -> Iterator[dict[str, Value]]:
    """A row per method and budget, numbers in full; None where one is not known."""
    for p in scope.points:
        yield _about(of, scope) | {
            "method": p.label, "floor": p.floor, "diagnostic": p.diagnostic, "budget": p.budget_text,
            **dict(zip(BUDGET, p.budget, strict=True)),
            "tokens_mean": _known(p.tokens), "full_tokens": _known(scope.full_tokens), "score": _known(p.score),
            "full_score": None if scope.is_average else _known(scope.full.value),
            "retention": _known(p.interval.value), "ci_low": _known(p.interval.low), "ci_high": _known(p.interval.high),
            "tokdense": _known(p.tokdense), "full_tokdense": _known(scope.full_tokdense), "n": p.n,
            "n_clusters": p.n_clusters, "n_seeds": p.n_seeds, "illustrative": p.illustrative, "status": p.status,
            "rank": p.rank, "unranked": p.unranked or None,
        }  # fmt: skip


def curve_rows(of: Retention, scope: Scope) -> Iterator[dict[str, Value]]:
    """A row per method with what sums up its curve; None where there is nothing, or no budget retains the share."""
    for label, curve in scope.curves.by_label.items():
        row = _about(of, scope) | {"method": label, "from_tokens": _known(scope.curves.low)}
        row |= {"to_tokens": _known(scope.curves.full), "budgets": "; ".join(scope.curves.budgets) or None}
        for name, interval in (("area", curve.area), ("hypervolume", curve.hypervolume)):
            row |= {name: _known(interval.value), f"{name}_low": _known(interval.low)}
            row |= {f"{name}_high": _known(interval.high)}
        for share in SHARES:
            reach, name = curve.reach[share], f"retains_{share:.0%}".rstrip("%")
            row |= {f"{name}_budget": reach.budget_text if reach else None}
            row |= {f"{name}_tokens": reach.tokens if reach else None, f"{name}_surely": reach.sure if reach else None}
        yield row


def _about(of: Retention, scope: Scope) -> dict[str, Value]:
    return {
        **of.identity, "task": scope.name, "tasks": " ".join(scope.tasks), "subset": scope.subset,
        "metric": scope.metric, "protocol": scope.protocol,
    }  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write_csv(path: Path, rows: Sequence[dict[str, Value]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


# ------------------------------------------------------------------------------------------------------------ markdown


def markdown(of: Retention) -> str:
    """A model's retention as Markdown, a table per scope, methods by budget."""
    lines = [f"# Retention of {of.setting} ({of.family})", ""]
    lines += [f"- {reason}" for reason in of.skipped] + [""] * bool(of.skipped)
    for scope in of.scopes:
        lines += [f"## {heading(scope)}", "", f"{basis(scope)}", ""]
        lines += [f"{remark}" for remark in scope.remarks] + [""] * bool(scope.remarks)
        lines += [*markdown_table(*plain(scope)), ""]
    return "\n".join(lines)


def heading(scope: Scope) -> str:
    """The name of a scope."""
    return f"Average over {', '.join(scope.tasks)}" if scope.is_average else f"{scope.name} ({scope.subset})"


def basis(scope: Scope) -> str:
    """What the shares of a scope are shares of."""
    if scope.is_average:
        return f"Mean of each task's share, at each budget over the tasks that all methods have. {scope.protocol}."
    dense = "" if math.isnan(scope.full_tokdense) else f", TokDense {show(scope.full_tokdense)}"
    return (
        f"Full tokens: {scope.metric} {show(scope.full.value, scope.unit)} with {scope.full_tokens:.4g} tokens{dense}. "
        f"Protocol {scope.protocol}."
    )


def plain(scope: Scope) -> tuple[list[str], list[list[str]]]:
    """Heading and rows as text."""
    budgets = scope.budgets
    texts = {p.budget: p.budget_text for p in scope.points}
    head = [
        "method",
        *(texts[b] for b in budgets),
        "area",
        "hypervolume",
        *(f"retains {s:.0%}" for s in SHARES),
        "notes",
    ]
    rows = []
    for label in scope.labels:
        own = [p for b in budgets if (p := scope.at(label, b))]
        curve = scope.curves.by_label.get(label)
        kind = " (floor)" if own[0].floor else " (diagnostic)" if own[0].diagnostic else ""
        row = [label + kind, *(_cell(scope.at(label, b)) for b in budgets), *_summed(curve, scope.unit)]
        rows.append([*row, "; ".join(remarks(own))])
    return head, rows


def remarks(own: Sequence[Point]) -> tuple[str, ...]:
    """What limits the points of one method."""
    few = ("illustrative",) if any(p.illustrative for p in own) else ()
    return (*few, *dict.fromkeys(f"{p.budget_text}: {note}" for p in own for note in p.notes))


def _cell(p: Point | None) -> str:
    if p is None:
        return "–"
    ends = "" if math.isnan(p.interval.low) else f" [{show(p.interval.low, '%')}, {show(p.interval.high, '%')}]"
    return f"{show(p.interval.value, '%')}{ends}{f' rank {p.place}' if p.place else ''} (n {p.n} / {p.n_clusters})"


def _summed(curve: Curve | None, unit: str) -> list[str]:
    if curve is None:
        return ["–"] * (2 + len(SHARES))
    areas = [show(interval.value, unit) for interval in (curve.area, curve.hypervolume)]
    return [*areas, *(reach_text(curve.reach[share]) for share in SHARES)]


def reach_text(reach: Reach | None) -> str:
    """`72 tokens`, and whether the interval leaves a doubt."""
    if reach is None:
        return "not reached"
    return f"{reach.tokens:.4g} tokens{'' if reach.sure else ' (not sure)'}"
