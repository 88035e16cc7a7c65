"""What two rate curves say of each other: a score at equal bits, and Bjontegaard's mean differences.

A curve goes through its points by piecewise cubic Hermite interpolation over the logarithm of the rate (PCHIP), as in
the JCT-VC and JVET common test conditions since JCTVC-L1100; Bjontegaard's own note (VCEG-M33, 2001) fits one cubic
polynomial, which may overshoot. Nothing is said outside of the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NEEDED = 4
"""Points of a curve that Bjontegaard's differences ask for."""


class NoFigure(Exception):
    """Why there is no such figure, in words that follow a colon."""


@dataclass(frozen=True)
class Curve:
    """Scores of one method by bits per pixel, lowest rate first; a higher score is better after `sign`.

    Attributes:
        sign: 1, or -1 for a score of which less is better.
    """

    label: str
    rates: tuple[float, ...]
    scores: tuple[float, ...]
    sign: float = 1.0

    @classmethod
    def through(cls, label: str, points: Sequence[tuple[float, float]], sign: float = 1.0) -> Curve:
        """A curve through (rate, score) pairs in any order; of equal rates, as those of budgets that none can reach,
        one counts.

        Raises:
            ValueError: a rate that is not above 0.
        """
        known = dict(sorted(points, reverse=True))
        if any(not rate > 0 for rate in known):
            raise ValueError(f"rates must be above 0, got {sorted(known)}")
        rates = tuple(sorted(known))
        return cls(label, rates, tuple(known[rate] for rate in rates), sign)

    def at(self, rate: float) -> float:
        """The score at a rate between the lowest and the highest.

        Raises:
            NoFigure: outside of them, or a curve of a single point.
        """
        if len(self.rates) < 2:
            raise NoFigure("one rate alone is no curve")
        if rate < self.rates[0] * (1 - 1e-9):
            raise NoFigure(f"below its lowest rate, {self.rates[0]:.3f} bpp")
        if rate > self.rates[-1] * (1 + 1e-9):
            raise NoFigure(f"above its highest rate, {self.rates[-1]:.3f} bpp")
        return float(self.drawn(np.array([rate]))[0])

    def drawn(self, rates: Array) -> Array:
        """Scores at rates between the lowest and the highest."""
        low, high = math.log10(self.rates[0]), math.log10(self.rates[-1])
        found: Array = _hermite(np.log10(self.rates), self.scores)(np.log10(rates).clip(low, high))
        return found


@dataclass(frozen=True)
class Difference:
    """Bjontegaard's mean difference of a curve to an anchor, and the range it was taken over."""

    value: float
    low: float
    high: float


def bd_rate(anchor: Curve, curve: Curve) -> Difference:
    """How many more bits `curve` spends than `anchor` at equal scores, as a share of the anchor's; negative is better.

    Integrated over the scores that both reach.

    Raises:
        NoFigure: fewer than four points, scores that do not rise with the rate, or none that both reach.
    """
    sides = []
    for side in (anchor, curve):
        _check(side)
        scores = side.sign * np.array(side.scores)
        if (np.diff(scores) <= 0).any():
            raise NoFigure(f"scores of {side.label} do not get better with every rate")
        sides.append((scores, np.log10(side.rates)))
    (a, _), (b, _) = sides
    low, high = max(a[0], b[0]), min(a[-1], b[-1])
    if not low < high:
        raise NoFigure(
            f"no score that both reach: {_range(anchor)} of {anchor.label}, {_range(curve)} of {curve.label}"
        )
    ends = sorted((anchor.sign * low, anchor.sign * high))
    return Difference(10 ** _mean_difference(sides[0], sides[1], low, high) - 1, *ends)


def bd_score(anchor: Curve, curve: Curve) -> Difference:
    """By how much the score of `curve` lies above that of `anchor` at equal rates, in units of the score (BD-PSNR).

    Integrated over the logarithm of the rates that both have.

    Raises:
        NoFigure: fewer than four points, or no rate that both have.
    """
    _check(anchor)
    _check(curve)
    low, high = max(anchor.rates[0], curve.rates[0]), min(anchor.rates[-1], curve.rates[-1])
    if not low < high:
        ranges = [f"{c.rates[0]:.3f} to {c.rates[-1]:.3f} bpp of {c.label}" for c in (anchor, curve)]
        raise NoFigure(f"no rate that both have: {', '.join(ranges)}")
    sides = [(np.log10(c.rates), np.array(c.scores)) for c in (anchor, curve)]
    return Difference(_mean_difference(sides[0], sides[1], math.log10(low), math.log10(high)), low, high)


def _mean_difference(a: tuple[Array, Array], b: tuple[Array, Array], low: float, high: float) -> float:
    areas = [float(_hermite(x, y).integrate(low, high)) for x, y in (a, b)]
    return (areas[1] - areas[0]) / (high - low)


def _check(curve: Curve) -> None:
    if len(curve.rates) < NEEDED:
        raise NoFigure(f"{curve.label} has {len(curve.rates)} rates, and {NEEDED} are needed")


def _range(curve: Curve) -> str:
    return f"{min(curve.scores):.4g} to {max(curve.scores):.4g}"


def _hermite(x: Array, y: Sequence[float] | Array) -> Any:
    from scipy.interpolate import PchipInterpolator

    return PchipInterpolator(x, np.asarray(y, dtype=np.float64))
