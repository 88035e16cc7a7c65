"""Published figures: facts with their source, on our axes only where all is the same, and never taken for measured."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from cell_tables import frame, row, untouched
from toksweep.reports.figures import draw, styles
from toksweep.reports.leaderboard import write_report
from toksweep.reports.naming import PLACES, places
from toksweep.reports.ranking import rank
from toksweep.reports.tables import sections
from toksweep.results.published import beside, rows_beside, same, tokbench
from toksweep.results.records import COLUMNS

HUB = "Junfeng5/TokBench@0123456789ab;letterbox-256;files as named;exact;told"
WHOLE = {"task": "tokbench_text_256", "metric": "t_acc", "protocol": HUB, "metric_family": "reconstruction"}


def table(**about: object) -> pd.DataFrame:
    """Three codecs of one series, and what is published under the very same."""
    about = WHOLE | about
    rows = [untouched(**about, value=0.93)]
    rows += [row(**about, method=m, value=v, bits_per_pixel=b) for m, v, b in (("jpeg", 0.3, 0.4), ("webp", 0.5, 0.5))]
    return frame([*rows, *(dict.fromkeys(COLUMNS) | r for r in rows_beside(rows))])


def test_the_published_table_is_tokbenchs() -> None:
    folder = os.environ.get("TOKSWEEP_REFERENCE")
    if not folder:
        pytest.skip("TOKSWEEP_REFERENCE does not name a folder of reference arrays")
    listed = json.loads((Path(folder) / "tokbench_leaderboard.json").read_text())["image"]
    columns = {"t_acc": ("T_ACC", 100), "t_ned": ("T_NED", 100), "f_sim": ("F_Sim", 1)}
    expected = {
        (m["method"], m["factor"] or "", int(side), name): [v / scale for v in m[column]]
        for side, methods in listed.items()
        for m in methods
        for name, (column, scale) in columns.items()
    }
    ours = {(p.tokenizer, p.factor, p.side, p.metric): [p.small, p.medium, p.large, p.mean] for p in tokbench()}
    assert ours.keys() == expected.keys()
    assert all(ours[key] == pytest.approx(expected[key], abs=1e-9) for key in ours)


def test_known_bits_are_those_of_the_published_tokenizers() -> None:
    folder = os.environ.get("TOKSWEEP_REFERENCE")
    if not folder:
        pytest.skip("TOKSWEEP_REFERENCE does not name a folder of reference arrays")
    listed = json.loads((Path(folder) / "published_tokenizers.json").read_text())["image"]
    known = {(p["name"], p["variant"]): p["bpp"] for p in listed}
    same_as = {
        ("TiTok", "1D"): ("TiTok", "L-32"), ("Chameleon", "16"): ("Chameleon VQ", "f16"),
        ("LlamaGen", "16"): ("LlamaGen VQ", "f16 256px"), ("LlamaGen(F8)", "8"): ("LlamaGen VQ", "f8 256px"),
        ("VAR", "16"): ("VAR tokenizer", "multi-scale 680"),
        ("TokenFlow", "16"): ("TokenFlow", "CLIP-B 256 (9 scales)"),
        ("O-MAGVIT2", "16"): ("Open-MAGVIT2", "ImageNet 256px"), ("UniTok", "16"): ("UniTok", "large 8x4096"),
        ("O-MAGVIT2(Pretrain)", "16"): ("Open-MAGVIT2", "pretrain K=262144"), ("DC-AE", "32"): ("DC-AE", "f32c32"),
        ("MGVQ-g8", "16"): ("MGVQ", "f16 g8"), ("MGVQ-g8", "8"): ("MGVQ", "f8 g8"),
        ("VA-VAE", "16"): ("VA-VAE", "f16c32"), ("SD-XL", "8"): ("SDXL VAE", "f8c4"),
        ("SD-3.5", "8"): ("SD3 VAE", "f8c16"), ("FLUX.1-dev", "8"): ("FLUX.1 VAE", "f8c16"),
    }  # fmt: skip
    drawn = {(p.tokenizer, p.factor): p.bits_per_pixel for p in tokbench() if p.side == 256 and p.bits_per_pixel}
    assert drawn.keys() == same_as.keys()
    for key, bits in drawn.items():
        assert bits == pytest.approx(known[same_as[key]], abs=1e-3), key


def test_means_are_those_of_the_bins_and_the_slip_is_noted() -> None:
    for p in tokbench():
        assert p.mean == pytest.approx((p.small + p.medium + p.large) / 3, abs=0.0101)  # each is rounded
        assert p.bits_per_pixel is None or 0 < p.bits_per_pixel <= 4
    noted = [(p.tokenizer, p.factor, p.side, p.metric) for p in tokbench() if p.note]
    assert noted == [("MGVQ-g8", "16", 1024, "f_sim")]
    slip, real = (
        next(p for p in tokbench() if (p.tokenizer, p.factor, p.side, p.metric) == ("MGVQ-g8", f, 1024, "f_sim"))
        for f in ("16", "8")
    )
    assert (slip.small, slip.medium, slip.large) == (real.small, real.medium, real.large)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True), ({"metric": "f_sim", "task": "tokbench_faces_512"}, True),
        ({"metric": "t_acc[rapidocr]"}, False), ({"metric": "t_acc[doctr-untold]"}, False),
        ({"task": "tokbench_text_clean_256"}, False), ({"task": "tokbench_faces_first_256", "metric": "f_sim"}, False),
        ({"task": "text"}, False), ({"subset": "stratified:8"}, False),
        ({"protocol": HUB.replace("Junfeng5/TokBench@0123456789ab", "local copy")}, False),
    ],
)  # fmt: skip
def test_figures_are_the_same_only_by_task_judge_data_and_whole_set(changed: dict[str, str], expected: bool) -> None:
    about = {"task": "tokbench_text_256", "subset": "all", "metric": "t_acc", "protocol": HUB} | changed
    assert same(**about) is expected  # type: ignore[arg-type]


def test_the_square_of_the_task_decides_which_table_stands_beside() -> None:
    assert {p.side for p in beside("tokbench_text_1024", "t_ned[rapidocr]")} == {1024}
    assert {(p.side, p.metric) for p in beside("faces", "face_similarity[dlib]")} == {(256, "f_sim")}
    assert beside("photos", "psnr") == beside("faces", "face_distance[dlib]") == ()


def test_published_points_of_the_same_protocol_are_hollow_on_the_same_axes(tmp_path: Path) -> None:
    ranked = rank(table())
    figures = draw(ranked, tmp_path)
    assert [(f.cost, len(f.published)) for f in figures] == [("bits_per_pixel", 0)]
    (svg,) = [f.svg for f in figures]
    hollow = re.findall(r'id="[^"]*-published-\d+" class="point">.*?<use [^>]*style="([^"]*)"', svg, flags=re.S)
    known = [p for p in beside("tokbench_text_256", "t_acc") if p.bits_per_pixel]
    assert len(hollow) == len(known) == 16
    assert all("var(--paper)" in style for style in hollow)
    assert "FLUX.1-dev (published)" in svg
    assert "published (TokBench)" in svg
    assert styles(ranked).keys() == {"none", "jpeg", "webp"}


def test_published_rows_are_literature_never_ranked_and_stand_last(tmp_path: Path) -> None:
    cells = table()
    ranked = rank(cells)
    told = ranked[ranked["source"] == "literature"]
    assert len(told) == 22
    assert set(told["unranked"]) == {"published elsewhere"}
    assert ranked[ranked["label"] == "jpeg"]["ceiling"].item() == 0.93
    (section,) = sections(ranked, cells)
    assert [r.label for r in section.rows[:3]] == ["none", "webp", "jpeg"]
    assert all("literature, not measured here" in r.notes for r in section.rows[3:])
    page = write_report(cells, [], tmp_path).read_text()
    assert "counts not known" in page
    listed = pd.read_csv(tmp_path / "tables" / "cells.csv")
    assert (listed["source"] == "literature").sum() == 4 * 22


def test_another_protocol_has_a_panel_of_its_own_that_says_so(tmp_path: Path) -> None:
    cells = table(task="text", metric="t_acc[rapidocr]", protocol="truncated-box;alnum-lower")
    assert set(cells["source"]) == {"measured"}
    page = write_report(cells, [], tmp_path).read_text()
    figures = draw(rank(cells), tmp_path / "again")
    measured, panel = figures
    assert "published" not in measured.svg
    assert panel.stem == "text-all-t_acc_rapidocr-published"
    assert (panel.task, panel.metric, panel.protocol) == (measured.task, measured.metric, measured.protocol)
    text = " ".join(re.sub(r"<[^>]*>", " ", panel.svg).split())
    for said in ("not measured here", "its own data", "squares of 256 pixels", "bits not known", "resize only: 0.930"):
        assert said in text
    assert panel.caption in page
    listed = pd.read_csv(tmp_path / "tables" / "published.csv")
    assert set(listed["source"]) == {"literature"}
    assert set(listed["beside"]) == {"text"}


def test_names_keep_off_each_other_and_off_points_where_there_is_room() -> None:
    alone = places([(1.0, 0.5)], ["name"], 6.5)
    assert alone == [PLACES[0]]
    close = places([(1.0, 0.5), (1.0, 0.52), (0.1, 0.0), (10.0, 1.0)], ["one", "two", "a", "b"], 6.5)
    assert close[0] != close[1]
    blocked = places([(1.0, 0.5), (0.1, 0.0), (10.0, 1.0)], ["one", "a", "b"], 6.5, [(1.1, 0.53)])
    assert blocked[0] != PLACES[0]
