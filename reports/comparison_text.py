"""A comparison as a terminal shows it: a line per metric, and the first samples of those that flipped."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .comparison import Comparison
from .flips import Flip
from .printed import show

SHOWN, WIDEST = 10, 60


def summary(c: Comparison) -> dict[str, object]:
    """A line of text per metric; McNemar's p-value is the one that swaps whole clusters."""
    d, test = c.difference, c.flips.mcnemar if c.flips else None
    size = c.a or 0.0
    return {
        "task": c.task,
        "model": c.model,
        "metric": f"{c.metric} ({'higher' if c.higher_is_better else 'lower'} is better)",
        "a": None if c.a is None else show(c.a, c.unit),
        "b": None if c.b is None else show(c.b, c.unit),
        "difference": None if d is None else show(d.value, c.unit, gain_of=size),
        "95% interval": None if d is None or math.isnan(d.low) else " to ".join(
            show(end, c.unit, gain_of=size) for end in (d.low, d.high)
        ),
        "n / clusters": f"{c.n_samples} / {c.n_clusters}",
        "verdict": c.verdict,
        "lost / gained": f"{len(c.flips.lost)} / {len(c.flips.gained)}" if c.flips else None,
        "McNemar p": None if test is None else show_p(test.p),
        "ignoring clusters": None if test is None else show_p(test.p_ignoring_clusters),
        "note": c.note or None,
    }  # fmt: skip


def flip_lists(c: Comparison, a: str, b: str) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Title and rows of what was lost and of what was gained, shortened; `--json` has them whole."""
    if c.flips is None:
        return
    words = ("Right", "wrong") if c.flips.mcnemar else ("Better", "worse")
    for flips, left, right in ((c.flips.lost, a, b), (c.flips.gained, b, a)):
        if not flips:
            continue
        more = f", the first {SHOWN}; --json has all" if len(flips) > SHOWN else ""
        title = f"{words[0]} at {left}, {words[1]} at {right} ({c.metric} of {c.task}): {len(flips)}{more}"
        rows = [
            _asked(f) | {f"{a} said": _said(f.prediction_a), f"{b} said": _said(f.prediction_b)} for f in flips[:SHOWN]
        ]
        if not c.flips.mcnemar:
            for row, f in zip(rows, flips, strict=False):
                row["scores"] = f"{show(f.score_a, c.unit)} to {show(f.score_b, c.unit)}"
        yield title, rows


def show_p(p: float) -> str:
    """A p-value as printed."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _asked(flip: Flip) -> dict[str, object]:
    asked: dict[str, object] = {"sample": flip.sample_id}
    if flip.question is not None:
        asked |= {"question": _brief(flip.question), "reference": _brief(" / ".join(dict.fromkeys(flip.answers)))}
    return asked


def _said(answer: str | None) -> str:
    return "nothing: it failed" if answer is None else _brief(answer)


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else f"{line[: WIDEST - 1]}…"
