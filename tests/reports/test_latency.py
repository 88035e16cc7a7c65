"""The report's account of time: its table by phase, its figures, and what it says of methods that never pay."""

from __future__ import annotations

import re

import pytest
from cell_tables import RUN, frame, row, untouched
from toksweep.reports.latency import explain
from toksweep.reports.leaderboard import write_report
from toksweep.reports.ranking import rank

ABOUT = {
    "task": "synth_vqa", "family": "vqa", "metric": "accuracy", "model": "mini", "dtype": "float32",
    "attention": "sdpa", "bits_per_pixel": None, "tokens_full": 144, "latency_device": "cpu: a machine",
    "latency_rounds": 5, "latency_samples": 2, "answer_tokens": 16, "kv_bytes": 1_212_672,
}  # fmt: skip


def spread(name, median):
    return {f"{name}_ms": median, f"{name}_q1_ms": 0.9 * median, f"{name}_q3_ms": 1.1 * median}


def timed(vision, compressor, prefill, decode, ratio):
    """Columns of a cell whose whole takes a millisecond more than its phases."""
    parts = {"vision": vision, "compressor": compressor, "prefill": prefill, "tpot": decode}
    columns = {key: value for name, ms in parts.items() for key, value in spread(name, ms).items()}
    columns |= spread("latency", vision + compressor + prefill + 1)
    return columns | {"latency_ratio": ratio, "latency_ratio_q1": ratio - 0.02, "latency_ratio_q3": ratio + 0.02}


def compressor(method, budget, **more):
    fixed = {"budget": str(budget), "budget_value": float(budget), "budget_unit": "tokens", "budget_convention": "mean"}
    return row(**ABOUT | fixed | {"method": method, "kind": "compressor", "tokens_mean": 36, "flops": 6e9} | more)


@pytest.fixture(scope="module")
def cells():
    """Full tokens, a method that pays, one that does not, and one that could not be timed."""
    return frame(
        [
            untouched(**ABOUT, tokens_mean=144, flops=1e10, **timed(9.0, 0.05, 14.0, 3.5, 1.0)),
            compressor("quick", 36, **timed(9.0, 1.0, 8.0, 3.0, 0.75), break_even_tokens=14),
            compressor("slow", 36, **timed(9.0, 8.0, 8.0, 3.0, 1.1), break_even_reason="never: choosing takes 8 ms"),
            compressor("quick", 72, **timed(9.0, 1.0, 10.0, 3.2, 0.99), break_even_tokens=15),
            compressor("large", 36, latency_error="OutOfMemoryError: no room"),
        ]
    )


@pytest.fixture(scope="module")
def section(cells, tmp_path_factory):
    (found,) = explain(rank(cells), tmp_path_factory.mktemp("figures"))
    return found


@pytest.fixture(scope="module")
def page(cells, tmp_path_factory):
    return write_report(cells, [RUN], tmp_path_factory.mktemp("report"))


def words(page, table):
    body = re.search(rf'<table id="{table}".*?</table>', page, flags=re.S)[0]
    lines = re.findall(r"<tr.*?</tr>", body, flags=re.S)
    return [" ".join(re.sub(r"<[^>]+>", " ", line).split()) for line in lines]


def test_a_section_has_shares_of_full_tokens_and_says_who_is_sooner(section):
    rows = {(r.label, r.budget_value): r for r in section.rows}
    assert rows["quick", 36].flops == pytest.approx(0.6)
    assert rows["quick", 36].kept == pytest.approx(0.25)
    assert (rows["quick", 36].pays_from, rows["slow", 36].pays_from) == ("14", "never")
    assert rows["slow", 36].why == "choosing takes 8 ms"
    assert section.verdict == (
        "1 of 3 cells reach the first token sooner than full tokens; later: slow at 36 tokens (mean); neither clearly "
        "sooner nor later: quick at 72 tokens (mean)."
    )
    assert section.basis == "cpu: a machine; batch 1; 5 rounds on 2 samples"


def test_the_page_has_a_table_by_phase_with_medians_and_quartiles(page):
    text = page.read_text()
    head, full, *others = words(text, "latency-0-0")
    for name in ("first token", "ratio", "FLOPs ratio", "vision", "compressor", "prefill", "decode, per token", "KV"):
        assert name in head
    assert "peak memory" not in head
    assert full.startswith("none all 24.1 21.6 to 26.5 1 0.98 to 1.02 1 9 8.1 to 9.9 0.05")
    quick = next(line for line in others if line.startswith("quick 36"))
    assert "0.75 0.73 to 0.77 0.6 9 8.1 to 9.9 1 0.9 to 1.1 8 7.2 to 8.8 3 2.7 to 3.3 1.21 14" in quick
    assert any("never choosing takes 8 ms" in line for line in others)
    large = next(line for line in others if line.startswith("large"))
    assert "not timed: OutOfMemoryError: no room" in large
    assert "Peak memory can be read on a CUDA device only." in text


def test_peaks_of_memory_have_a_column_where_they_could_be_read(cells, tmp_path):
    one = cells[cells.kind == "untouched"].assign(peak_memory_bytes=2.5e9)
    page = write_report(one, [RUN], tmp_path).read_text()
    head, full, *_ = words(page, "latency-0-0")
    assert "peak memory, MB" in head
    assert "1.21 2500" in full


def test_bars_are_stacked_by_phase_a_figure_per_budget(section, page):
    shares, *bars = section.figures
    assert [f.stem for f in bars] == ["synth_vqa-all-latency_36_tokens_mean", "synth_vqa-all-latency_72_tokens_mean"]
    assert shares.svg.count('class="point"') == 3
    assert bars[0].svg.count('class="point"') == 3 * 4
    assert "slow\ncompressor: 8 ms\nquartiles: 7.2 to 8.8" in bars[0].svg
    assert "large" not in bars[0].svg
    assert {p.suffix for p in page.parent.glob("figures/*latency_36*")} == {".svg", ".png", ".pdf"}


def test_the_same_stands_in_a_markdown_table(page):
    text = (page.parent / "tables" / "synth_vqa-all-latency.md").read_text()
    assert "| quick | 36 tokens (mean) | 19 [17.1 to 20.9] | 0.75 [0.73 to 0.77] | 0.6 | 9 [8.1 to 9.9] |" in text
    assert "| never (choosing takes 8 ms) |" in text


def test_a_sweep_that_was_not_timed_by_phases_has_no_such_section(tmp_path):
    page = write_report(frame([row(latency_ms=3.0), untouched()]), [RUN], tmp_path).read_text()
    assert "<h3>Latency" not in page
    assert not list((tmp_path / "tables").glob("*latency*"))


def test_without_full_tokens_there_are_no_shares(cells, tmp_path):
    alone = cells[cells.label == "quick"].assign(latency_ratio=None, latency_ratio_q1=None, latency_ratio_q3=None)
    (section,) = explain(rank(alone), tmp_path)
    assert section.verdict == ""
    assert len(section.figures) == 2
