"""Figures: which are drawn, how points are marked, and that a page can hold several."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from cell_tables import frame, questions, row, untouched
from toksweep.reports import figures
from toksweep.reports.figures import draw, styles
from toksweep.reports.ranking import rank

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Figures of the table of questions, and their folder."""
    folder = tmp_path_factory.mktemp("figures")
    return draw(rank(frame(questions())), folder), folder


def test_one_figure_per_known_cost_in_three_formats(drawn):
    figures, folder = drawn
    assert [f.cost for f in figures] == ["tokens_mean", "flops", "latency_ms"]
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    for figure in figures:
        for form, start in starts.items():
            assert (folder / f"{figure.stem}.{form}").read_bytes().startswith(start)


def test_every_point_has_a_title_with_its_numbers(drawn):
    root = ElementTree.fromstring(drawn[0][0].svg)
    titles = [t.text for t in root.iter(f"{SVG}title")]
    assert len(titles) == 21
    assert "fastv(layer=3) at 64 tokens (mean)\nexact_match: 36.2%\n95% interval: 33.2% to 39.2%" in titles[5]


def test_axes_say_which_way_is_better(drawn):
    text = "".join(ElementTree.fromstring(drawn[0][1].svg).itertext())
    assert "exact_match, % (higher is better)" in text
    assert "FLOPs to first token (fewer is better)" in text


def test_a_file_says_what_its_points_rest_on(drawn):
    text = " ".join("".join(ElementTree.fromstring(drawn[0][0].svg).itertext()).split())
    assert "tiny/llava, float32, sdpa, cpu; 200 samples; 48 clusters; whiskers: 95% intervals;" in text
    assert "exact_match: exact_match/v1" in text


def test_ids_of_two_figures_on_one_page_never_clash(drawn):
    ids = [set(re.findall(r'\bid="([^"]+)"', f.svg)) for f in drawn[0]]
    assert not ids[0] & ids[1]
    assert not ids[1] & ids[2]


def test_every_reference_within_a_figure_has_its_target(drawn):
    svg = drawn[0][0].svg
    targets = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert targets <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_same_table_draws_the_same_bytes(tmp_path):
    table = rank(frame([row(), row(method="webp", value=0.9)]))
    first, second = (draw(table, tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert (tmp_path / "a" / f"{first[0].stem}.pdf").read_bytes() == (
        tmp_path / "b" / f"{first[0].stem}.pdf"
    ).read_bytes()


def test_a_method_has_one_colour_and_labels_have_their_own_markers():
    cells = frame([row(method="fastv", label=f"fastv(layer={k})") for k in (2, 3)] + [row(method="tome")])
    looks = styles(cells)
    assert looks["fastv(layer=2)"].color == looks["fastv(layer=3)"].color != looks["tome"].color
    assert len({s.marker for s in looks.values()}) == 3


def markers(svg: str) -> list[str]:
    """How each point is filled."""
    parts = re.findall(r'class="point">.*?<use [^>]*style="([^"]*)"', svg, flags=re.S)
    return ["hollow" if "var(--paper)" in p else "full" for p in parts]


def test_illustrative_and_infeasible_points_are_hollow(tmp_path):
    rows = [row(), row(method="webp", status="infeasible"), row(method="avif", illustrative=True)]
    svg = draw(rank(frame(rows)), tmp_path)[0].svg
    assert markers(svg) == ["full", "hollow", "hollow"]


def test_ceiling_far_off_is_named_and_not_drawn(tmp_path):
    rows = [row(value=30.0), row(method="webp", value=31.0)]
    near = draw(rank(frame([*rows, untouched(value=32.0)])), tmp_path / "near")[0].svg
    far = draw(rank(frame([*rows, untouched(value=100.0)])), tmp_path / "far")[0].svg
    assert "untouched: 32.00<" in near
    assert "untouched: 100.00 (off the scale)" in far


def test_ceiling_among_the_whiskers_is_drawn_however_alike_the_scores_are(tmp_path):
    rows = [row(value=0.71, ci_low=0.5, ci_high=0.9), row(method="webp", value=0.72, ci_low=0.5, ci_high=0.9)]
    svg = draw(rank(frame([*rows, untouched(value=0.81)])), tmp_path)[0].svg
    assert "off the scale" not in svg


def test_label_with_markup_and_dollars_is_shown_as_it_is(tmp_path):
    label = "odd(x='<b>$a_1$</b>')"
    svg = draw(rank(frame([row(method="odd", label=label)])), tmp_path)[0].svg
    assert "<b>" not in svg
    assert label in "".join(ElementTree.fromstring(svg).itertext())


def test_names_cannot_leave_the_folder(tmp_path):
    figures = draw(rank(frame([row(task="../../evil", metric="a/b")])), tmp_path / "in")
    assert figures
    assert {p.parent for p in tmp_path.rglob("*.svg")} == {tmp_path / "in"}


def test_cells_without_any_cost_draw_nothing(tmp_path):
    assert draw(rank(frame([row(bits_per_pixel=None)])), tmp_path) == []


def test_a_legend_has_as_many_columns_as_its_names_leave_room_for():
    long = "vq_model(checkpoint='toksweep-mini-vq')"
    assert figures._columns(["avif", "jpeg", "webp", "front"]) == 3
    assert figures._columns(["avif", "jpeg", "webp", long, "front", long]) == 2
    assert figures._columns([long, long, long]) == 1
    assert figures._columns([]) == 3
