"""The report's account of evidence: what each cell left of it, and what that cost."""

from __future__ import annotations

import re

import pytest
from cell_tables import RUN, frame, row, untouched
from toksweep.reports.evidence import explain
from toksweep.reports.leaderboard import write_report
from toksweep.reports.ranking import rank

VQA = {"task": "synth_vqa", "family": "vqa", "model": "m", "kind": "compressor"}


def cell(label, accuracy, intact, make=row, evidence=(), **more):
    """The score of a cell and its four evidence rows; `evidence` replaces parts of these."""
    evidence = dict(evidence)
    ground = {**VQA, "label": label, "method": label, "cell_id": label, "tokens_mean": 36.0, **more}
    ground |= {"kind": "untouched"} if make is untouched else {}
    yield make(**ground, metric="accuracy", metric_family="vqa", value=accuracy)
    for name in ("evidence_recall", "evidence_recall_last", "evidence_intact", "evidence_intact_last"):
        told = {"metric": name, "metric_family": "evidence", "value": intact, "protocol": "e"}
        told |= {"ci_low": intact - 0.1, "ci_high": min(intact + 0.1, 1.0)}
        losses = {"loss_correlation": 0.4, "loss_correlation_low": 0.1, "loss_correlation_high": 0.6}
        losses |= {"loss_correlation_n": 31, "loss_correlation_clusters": 17}
        yield make(**{**ground, **told, **losses, **evidence})


@pytest.fixture
def cells():
    rows = [*cell("none", 0.9, 1.0, untouched), *cell("a", 0.8, 0.7), *cell("b", 0.5, 0.2), *cell("c", 0.6, 0.4)]
    return frame(rows)


def flat(page):
    """The words of a page, without those of its figures."""
    return " ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", page.read_text(), flags=re.S).split())


def test_a_cell_says_what_it_left_of_the_evidence(cells, tmp_path):
    (part,) = explain(rank(cells), cells, tmp_path)
    b = next(r for r in part.rows if r.label == "b")
    assert (b.entering.value, b.intact.value, b.score.value, b.correlation.value) == (0.2, 0.2, 0.5, 0.4)
    assert part.correlation > 0.9
    assert part.n_cells == 3
    assert (tmp_path / "synth_vqa-all-evidence.pdf").is_file()


def test_every_value_stands_with_its_interval_and_counts_and_the_section_with_its_protocols(cells, tmp_path):
    words = flat(write_report(cells, [RUN], tmp_path))
    score, share = ("0.600 0.750 to 0.850", "0.400 0.300 to 0.500")
    counts = "40 samples, 40 clusters"
    losses = "0.400 0.100 to 0.600 31 samples, 17 clusters"
    assert " ".join(["c", "0.5bpp", "36", score, counts, *[share, counts] * 3, losses]) in words
    assert "Protocols: accuracy ssim-1 ; evidence_recall e ; evidence_recall_last e ; evidence_intact_last e ." in words
    assert "Over the 3 cells below" in words


def test_failures_and_few_clusters_are_noted_beside_the_evidence(tmp_path):
    rows = [*cell("a", 0.8, 0.7, n_failed=3, n_clusters=7, illustrative=True)]
    words = flat(write_report(frame(rows), [RUN], tmp_path))
    assert words.count("illustrative 3 failed, counted as worst") == 2


def test_points_tell_both_intervals_and_the_figure_what_it_rests_on(cells, tmp_path):
    svg = explain(rank(cells), cells, tmp_path)[0].figure.svg
    assert "accuracy: 0.500\n95% interval: 0.750 to 0.850\nevidence_intact_last: 0.200\n95% interval: 0.100" in svg
    words = " ".join(re.sub(r"<[^>]+>", " ", svg).split())
    assert "m, cpu; 40 samples; 40 clusters" in words
    assert "accuracy: ssim-1, evidence_intact_last: e" in words


def test_two_models_on_one_task_share_neither_files_nor_ids(tmp_path):
    rows = [*cell("a", 0.8, 0.7), *cell("a", 0.3, 0.2, model="n", cell_id="a-n")]
    figures = [part.figure for part in explain(rank(frame(rows)), frame(rows), tmp_path)]
    assert [(tmp_path / f"{figure.stem}.svg").is_file() for figure in figures] == [True, True]
    ids = [set(re.findall(r'\bid="([^"]+)"', figure.svg)) for figure in figures]
    assert not ids[0] & ids[1]


def test_evidence_of_different_protocols_shares_no_table(tmp_path):
    rows = [*cell("a", 0.8, 0.7), *cell("b", 0.3, 0.2, evidence={"protocol": "another"})]
    parts = explain(rank(frame(rows)), frame(rows), tmp_path)
    assert [[r.label for r in part.rows] for part in parts] == [["a"], ["b"]]


def test_evidence_is_no_score_and_is_not_ranked(cells):
    assert set(rank(cells)["metric"]) == {"accuracy"}


def test_a_task_without_evidence_has_no_section(tmp_path):
    table = frame([untouched(), row()])
    assert explain(rank(table), table, tmp_path) == []


def test_the_page_shows_the_section(cells, tmp_path):
    text = write_report(cells, [RUN], tmp_path).read_text()
    assert "Evidence <span" in text
    assert "correlate at +" in text
    assert 'title="protocol e"' not in text
