"""The page: what stands on it, that it needs nothing else, and that it works in a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import browser
import pandas as pd
import pytest
from cell_tables import RUN, frame, pictures, questions, row, untouched
from result_folders import cell, record
from toksweep.harness.contracts import UserError
from toksweep.reports.leaderboard import Excerpt, excerpts_of, write_report

EVIL = "<script>document.title='owned'</script>"
EXCERPTS = [
    Excerpt("images_qa", "all", "tome", "64", "s1", "ok", EVIL),
    Excerpt("images_qa", "all", "tome", "64", "s2", "failed", "RuntimeError: out of memory"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of codecs on few pictures and of compressors on many, with a hostile answer."""
    out = tmp_path_factory.mktemp("report")
    return write_report(frame(pictures() + questions()), [RUN], out, excerpts=EXCERPTS)


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture
def seen(page, tmp_path):
    """The page in a browser, at a fragment."""
    return lambda fragment="", *flags: browser.dump(page, tmp_path / "profile", fragment, *flags)


def small(tmp_path, *rows, runs=(RUN,)):
    return write_report(frame(rows), runs, tmp_path).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- content


def test_page_refers_to_nothing_outside_itself(text):
    class Links(HTMLParser):
        found = ()

        def handle_starttag(self, tag, attributes):
            self.found += tuple(v for k, v in attributes if k in ("src", "href", "xlink:href", "action", "data") and v)

    parser = Links()
    parser.feed(text)
    assert all(link.startswith(("#", "data:")) for link in parser.found), parser.found
    assert "@import" not in text


def test_page_forbids_the_network_and_foreign_scripts(text):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def test_score_stands_with_interval_counts_margin_and_ceiling(tmp_path):
    floor = row(method="lowres", floor=True, value=0.7, ci_low=0.65, ci_high=0.75)
    flat = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", small(tmp_path, row(n_items=80), floor, untouched())))
    assert "rank 1 0.800 untouched 1.000 0.750 to 0.850 40 samples, 80 items, 40 clusters +0.100 over lowres" in flat


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_failed": 3}, "3 failed, counted as worst"),
        ({"n_bad_input": 2}, "2 bad input"),
        ({"status": "infeasible", "n_infeasible": 5}, "infeasible: 5 above the budget at the lowest rate"),
        ({"status": "partial"}, "partial: samples are still missing"),
        (
            {"status": "incomplete", "value": None, "ci_low": None, "ci_high": None},
            "incomplete: a failure has no worst",
        ),
        ({"ci_low": None, "ci_high": None, "n_clusters": 1, "illustrative": True}, "no interval"),
        ({"illustrative": True, "n_clusters": 12}, "at most 12 source pictures or clips stand behind"),
        ({"kind": "compressor", "verified": "selection"}, "<td>selection</td>"),
        ({"kind": "compressor", "verified": None}, "<td>not stated</td>"),
    ],
)
def test_what_limits_a_score_is_said(tmp_path, given, words):
    assert words in small(tmp_path, row(**given), row(method="webp"))


def test_slices_of_several_seeds_are_told_apart(tmp_path):
    cells = [
        part | {"seed": seed, "cell_id": str(seed)} for seed in (0, 1) for part in (row(), row(slice="size=small"))
    ]
    flat = re.sub(r"<[^>]+>", " ", small(tmp_path, *cells))
    assert [re.search(rf"jpeg\s+0.5bpp\s+{seed}\s+size=small", flat) is not None for seed in (0, 1)] == [True, True]


def test_tasks_that_are_spelt_alike_have_their_own_tables(tmp_path):
    small(tmp_path, row(task="a/b"), row(task="a_b"))
    assert len(list((tmp_path / "tables").glob("*.md"))) == 2


def test_ties_are_shown_as_ties(tmp_path):
    assert small(tmp_path, row(), row(method="webp", value=0.81)).count("rank =1<") == 2


def test_protocols_never_share_a_column(tmp_path):
    found = small(tmp_path, row(protocol="crop-a"), row(method="webp", protocol="crop-b"))
    assert 'title="protocol crop-a"' in found
    assert 'title="protocol crop-b"' in found
    assert found.count('<td class="number score" data-sort="">–</td>') == 2


def test_provenance_has_versions_device_and_the_command_quoted_for_a_shell(text):
    assert "toksweep sweep --task photos --method &#39;fastv(layer=3)&#39;" in text
    assert "numpy 2.4.6, torch 2.8.0" in text
    assert "abc1234" in text


def test_files_for_papers_lie_beside_the_page(page):
    names = {p.name for p in (page.parent / "tables").iterdir()}
    by_task = {f"{task}-all.md" for task in ("photos", "text", "images_qa")}
    told = {"cells.csv", "leaderboard.csv", "published.csv", "equal_bits.csv", "bd_rate.csv"}
    assert names == told | by_task
    assert len(list((page.parent / "figures").glob("*.pdf"))) == 9 + 3  # one of what is published, three at equal bits


def test_csv_holds_the_table_in_full(page):
    cells = frame(pictures() + questions())
    read = pd.read_csv(page.parent / "tables" / "cells.csv")
    assert list(read.columns) == list(cells.columns)
    assert read["value"].tolist() == pytest.approx(cells["value"].tolist(), abs=0, rel=0)


def test_markdown_has_a_row_per_cell_and_no_markup_of_others(tmp_path):
    write_report(frame([row(), row(method="odd", label="odd(x='a|<b>')")]), [RUN], tmp_path)
    lines = (tmp_path / "tables" / "photos-all.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in lines) == 4
    assert "odd(x='a\\|&lt;b>')" in "\n".join(lines)


def test_report_of_nothing_is_misuse_and_writes_nothing(tmp_path):
    with pytest.raises(UserError, match="nothing to report"):
        write_report(frame([]), [RUN], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_is_misuse(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(frame([row()]), [RUN], tmp_path / "out")


def test_excerpts_have_first_failures_and_answers():
    records = [record(i, 1.0, prediction=f"answer {i}") for i in range(5)]
    records += [record(5 + i, 0.0, status="failed", prediction=None, error=f"Boom: {i}") for i in range(5)]
    stored = {r.sample_id: r for r in records}
    assert [e.text for e in excerpts_of(cell(sample_ids=tuple(stored)), stored)] == [
        "Boom: 0",
        "Boom: 1",
        "Boom: 2",
        "answer 0",
        "answer 1",
        "answer 2",
    ]


# ------------------------------------------------------------------------------------------------------------- browser


def test_page_runs_without_a_word_on_the_console(seen):
    document, console = seen()
    assert console == []
    assert ">48 rows</output>" in document


def test_hostile_answer_is_text_and_not_a_script(seen, text):
    assert EVIL not in text
    document, _ = seen()
    assert "<title>toksweep report</title>" in document
    assert browser.rows(document, "samples-2")[0][4] == "&lt;script&gt;document.title='owned'&lt;/script&gt;"


def test_sorting_by_a_score_compares_numbers_and_leaves_gaps_last(page, tmp_path):
    rows = [row(method=m, value=v) for m, v in (("a", 9.5), ("b", 10.5), ("c", -1.0), ("d", None))]
    small = write_report(frame(rows), [], tmp_path / "report")
    for direction, order in (("asc", "cabd"), ("desc", "bacd")):
        document, _ = browser.dump(small, tmp_path / "profile", f"sort=table-0.2.{direction}")
        assert [r[0] for r in browser.rows(document, "table-0")] == list(order)
    assert 'aria-sort="descending"' in document


def test_filter_by_task_hides_the_other_tasks(seen):
    document, _ = seen("task=text")
    sections = re.findall(r'<section class="task" data-task="(\w+)"([^>]*)>', document)
    assert [task for task, rest in sections if "hidden" not in rest] == ["text"]


def test_filter_by_words_shows_matching_rows_of_every_task(seen):
    document, _ = seen("q=jpeg+0.5bpp")
    assert [r[0] for r in browser.rows(document, "table-0")] == ["jpeg"]
    assert browser.rows(document, "table-2") == []


def test_unknown_fragment_changes_nothing(seen):
    document, console = seen("task=nothing&sort=table-9.x.up")
    assert console == []
    assert len(browser.rows(document, "table-0")) == 13


def test_nothing_is_wider_than_a_narrow_screen(page, tmp_path):
    assert browser.excess_width(page, tmp_path, 380) == 0
