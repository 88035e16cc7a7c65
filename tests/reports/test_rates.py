"""Bjontegaard's differences and scores at equal bits, against published software and curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from toksweep.reports.rates import Curve, NoFigure, bd_rate, bd_score

ANCHOR = Curve.through("a", [(686.76, 40.28), (309.58, 37.18), (157.11, 34.24), (85.95, 31.42)])
TEST = Curve.through("b", [(893.34, 40.39), (407.8, 37.21), (204.93, 34.17), (112.75, 31.24)])
"""The example that implementations of VCEG-M33 are tried on."""


def test_differences_equal_those_of_the_bjontegaard_package() -> None:
    """Version 1.3.0 with `method="pchip"`, which equals the spreadsheet of JVET's common test conditions."""
    assert 100 * bd_rate(ANCHOR, TEST).value == pytest.approx(31.379878202397627, rel=1e-12)
    assert bd_score(ANCHOR, TEST).value == pytest.approx(-1.1834724046224592, rel=1e-12)


def test_they_lie_near_those_of_one_cubic_polynomial() -> None:
    """VCEG-M33 itself, integrated by sampling."""
    low, high = max(ANCHOR.scores[0], TEST.scores[0]), min(ANCHOR.scores[-1], TEST.scores[-1])
    scores = np.linspace(low, high, 100_001)
    rates = [np.polyval(np.polyfit(c.scores, np.log10(c.rates), 3), scores) for c in (ANCHOR, TEST)]
    assert bd_rate(ANCHOR, TEST).value == pytest.approx(10 ** (rates[1] - rates[0]).mean() - 1, rel=2e-3)
    assert (bd_rate(ANCHOR, TEST).low, bd_rate(ANCHOR, TEST).high) == (31.42, 40.28)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_fifth_fewer_bits_everywhere_is_a_fifth_fewer_bits(sign: float) -> None:
    rates = [0.1, 0.2, 0.4, 0.8]
    anchor = Curve.through("a", [(r, sign * (30 + 5 * np.log2(r))) for r in rates], sign)
    better = Curve.through("b", [(0.8 * r, sign * (30 + 5 * np.log2(r))) for r in rates], sign)
    assert bd_rate(anchor, better).value == pytest.approx(-0.2)
    assert bd_rate(better, anchor).value == pytest.approx(0.25)
    assert bd_score(anchor, better).value == pytest.approx(sign * -5 * np.log2(0.8))


def test_a_score_at_equal_bits_lies_on_the_curve_and_never_outside_of_it() -> None:
    curve = Curve.through("jpeg", [(0.25, 28.0), (1.0, 36.0), (0.25, 28.0)])
    assert curve.at(0.5) == pytest.approx(32.0)
    assert (curve.at(0.25), curve.at(1.0)) == (28.0, 36.0)
    with pytest.raises(NoFigure, match=r"^below its lowest rate, 0\.250 bpp$"):
        curve.at(0.2)
    with pytest.raises(NoFigure, match=r"^above its highest rate, 1\.000 bpp$"):
        curve.at(1.1)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Curve.through("b", [(1, 1), (2, 2), (3, 3)]), "b has 3 rates, and 4 are needed"),
        (Curve.through("b", [(1, 1), (2, 2), (3, 3), (4, 4)]), "no score that both reach: 31.42 to 40.28 of a, 1 to 4"),
        (Curve.through("b", [(1, 1), (2, 4), (3, 3), (4, 5)]), "scores of b do not get better with every rate"),
    ],
)
def test_what_has_no_bd_rate_says_why(other: Curve, why: str) -> None:
    with pytest.raises(NoFigure, match=why):
        bd_rate(ANCHOR, other)


def test_curves_without_a_common_rate_have_no_bd_score() -> None:
    with pytest.raises(NoFigure, match="no rate that both have"):
        bd_score(ANCHOR, Curve.through("b", [(1, 31), (2, 33), (3, 35), (4, 41)]))
