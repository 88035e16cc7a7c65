"""The section on equal bits: every point beside every codec at its bits, BD-rates, and why there is none."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from browser import dump, rows
from cell_tables import RUN, frame, row, untouched
from toksweep.reports import equal_bits
from toksweep.reports.leaderboard import write_report
from toksweep.reports.ranking import rank


def curve(method: str, scores: dict[float, float], **given: object) -> list[dict[str, object]]:
    about = {"method": method, "metric": "psnr", "protocol": "p", "unit": "dB"}
    return [
        row(**about | {"budget": f"{rate}bpp", "budget_value": rate, "bits_per_pixel": rate, "value": score} | given)
        for rate, score in scores.items()
    ]


def token(method: str, rate: float, value: float, tokens: int, **given: object) -> dict[str, object]:
    return curve(method, {rate: value}, tokens_mean=tokens, tokens_full=64, **given)[0]


FIXED = {"budget": None, "budget_value": None, "budget_unit": None}
JPEG = {0.125: 24.0, 0.25: 28.0, 0.5: 32.0, 1.0: 36.0}
CELLS = frame(
    [
        untouched(metric="psnr", protocol="p", unit="dB", value=100.0),
        *curve("jpeg", JPEG),
        *curve("webp", {0.8 * rate: score for rate, score in JPEG.items()}),
        *curve("lowres", {0.25: 20.0, 0.5: 22.0}, floor=True),
        token("vae", 0.25, 30.0, 64, **FIXED),
        token("titok", 0.05, 19.0, 32, **FIXED),
    ]
)


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory):
    (found,) = equal_bits.explain(rank(CELLS), tmp_path_factory.mktemp("figures"))
    return found


def test_codecs_are_what_counts_no_tokens_and_is_no_floor(part) -> None:
    assert part.codecs == ("jpeg", "webp")


def test_a_point_stands_beside_every_codec_at_its_bits_or_the_reason_why_not(part) -> None:
    vae, titok = (next(p for p in part.points if p.label == label) for label in ("vae", "titok"))
    assert (vae.budget, vae.tokens, vae.over("jpeg").score, vae.over("jpeg").gain) == ("fixed rate", 64, 28.0, 2.0)
    assert vae.over("webp").score == pytest.approx(28 + 4 * 0.3219, abs=0.01)  # log2(1.25) of an octave further
    assert [titok.over(codec).why for codec in part.codecs] == [
        "below its lowest rate, 0.125 bpp",
        "below its lowest rate, 0.100 bpp",
    ]
    assert next(p for p in part.points if p.label == "jpeg").over("jpeg") is None


def test_bd_rates_stand_between_curves_and_others_say_why_they_have_none(part) -> None:
    (pair,) = part.compared
    assert (pair.anchor, pair.label, pair.rate.value) == ("jpeg", "webp", pytest.approx(-0.2))
    assert part.refused == ("lowres has 2 rates, and 4 are needed",)


def test_page_and_files_have_them(tmp_path: Path) -> None:
    page = write_report(CELLS, [RUN], tmp_path / "report")
    document, complaints = dump(page, tmp_path / "profile")
    assert not complaints
    by_method = {tuple(line[:2]): line for line in rows(document, "equal-0-0")}
    assert by_method["vae", "fixed rate"][2:4] == ["0.250", "64"]
    assert by_method["vae", "fixed rate"][5] == "+2.00 jpeg 28.00"
    assert by_method["titok", "fixed rate"][6] == "below its lowest rate, 0.100 bpp"
    assert rows(document, "bd-0-0")[0][:3] == ["jpeg", "webp", "-20.0% 24.00 to 36.00"]
    assert "No BD-rate: lowres has 2 rates, and 4 are needed." in document
    with (tmp_path / "report" / "tables" / "equal_bits.csv").open() as file:
        lines = {(r["method"], r["codec"]): r for r in csv.DictReader(file)}
    assert (lines["vae", "jpeg"]["gain"], lines["titok", "jpeg"]["gain"]) == ("2.0", "")
    with (tmp_path / "report" / "tables" / "bd_rate.csv").open() as file:
        (first, *others) = csv.DictReader(file)
    assert float(first["bd_rate"]) == pytest.approx(-0.2)
    assert len(others) == 2


def test_codecs_alone_are_held_against_each_other(tmp_path: Path) -> None:
    page = write_report(frame([*curve("jpeg", JPEG), *curve("webp", JPEG)]), [RUN], tmp_path / "report")
    assert "gain over webp" in page.read_text()


def test_a_report_without_codecs_has_no_such_part(tmp_path: Path) -> None:
    assert equal_bits.explain(rank(frame([token("vae", 0.25, 30.0, 64, **FIXED)])), tmp_path) == []
