"""The report's account of evidence: what each cell left of it, and what that cost."""

from __future__ import annotations

import pytest
from cell_tables import RUN, frame, row, untouched
from toksweep.reports.evidence import explain
from toksweep.reports.leaderboard import write_report
from toksweep.reports.ranking import rank

VQA = {"task": "synth_vqa", "family": "vqa", "model": "m", "kind": "compressor"}


def cell(label, accuracy, intact, make=row, **more):
    """The score of a cell and its four evidence rows."""
    ground = {**VQA, "label": label, "method": label, "cell_id": label, "tokens_mean": 36.0, **more}
    ground |= {"kind": "untouched"} if make is untouched else {}
    yield make(**ground, metric="accuracy", metric_family="vqa", value=accuracy)
    for name in ("evidence_recall", "evidence_recall_last", "evidence_intact", "evidence_intact_last"):
        told = {"metric": name, "metric_family": "evidence", "value": intact, "protocol": "e"}
        yield make(**{**ground, **told, "loss_correlation": 0.4})


@pytest.fixture
def cells():
    rows = [*cell("none", 0.9, 1.0, untouched), *cell("a", 0.8, 0.7), *cell("b", 0.5, 0.2), *cell("c", 0.6, 0.4)]
    return frame(rows)


def test_a_cell_says_what_it_left_and_what_it_lost(cells, tmp_path):
    (part,) = explain(rank(cells), cells, tmp_path)
    b = next(r for r in part.rows if r.label == "b")
    assert (b.entering, b.intact, b.score, b.correlation) == (0.2, 0.2, 0.5, 0.4)
    assert b.lost == pytest.approx(0.4)
    assert part.correlation > 0.9
    assert (tmp_path / "synth_vqa-all-evidence.pdf").is_file()


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
