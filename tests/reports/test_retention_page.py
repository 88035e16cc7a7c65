"""Retention on the page: what stands there, in a browser too, and that hostile names stay text."""

from __future__ import annotations

import re

import browser
import numpy as np
import pytest
from cell_tables import RUN
from sweeps import answers, folder_of, method, read_scores, untouched
from toksweep.reports.leaderboard import write_report
from toksweep.reports.report import report_folder
from toksweep.results.aggregate import table

EVIL = "odd(x='<b>a</b>')"
SHARES = {8: 0.9, 4: 0.5}


def cells(task, pictures, n=60, **given):
    own = {"task": task, "pictures": pictures}
    yield untouched(np.ones(n), **own)
    for tokens, share in SHARES.items():
        yield method("tome", tokens, answers(share, n, seed=tokens), **own)
        yield method(EVIL, tokens, answers(share, n, seed=tokens + 1), **own)
        yield method("random", tokens, answers(share / 2, n, seed=tokens), floor=True, **own)
        yield method("oracle", tokens, np.ones(n), diagnostic=True, **own)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of two tasks, the second of too few pictures to rank."""
    other = method("jpeg", 8, np.ones(60), task="photos", family="reconstruction", pictures="e")
    folder = folder_of(tmp_path_factory.mktemp("sweep") / "x", *cells("many", "c"), *cells("few", "d", 20), other)
    return write_report(table(folder), [RUN], folder.path / "report", scores=read_scores(folder))


@pytest.fixture
def seen(page, tmp_path):
    """The page in a browser, at a fragment."""
    return lambda fragment="", *flags: browser.dump(page, tmp_path / "profile", fragment, *flags)


def flat(page, number):
    """The text of a table of retention, row by row."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf'<table id="retention-0-{number}".*?</table>', text, flags=re.S)[0]
    rows = re.findall(r"<tr.*?</tr>", found, flags=re.S)
    return [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)).strip() for row in rows]


def test_a_share_stands_with_rank_interval_tokens_and_counts(page):
    head, *rows = flat(page, 2)  # the average comes first, then the tasks by name
    assert head == "method 8 tokens (mean) 4 tokens (mean) area hypervolume retains 95% retains 99% notes"
    (tome,) = (r for r in rows if r.startswith("tome"))
    assert re.search(r"rank =1 \d\d\.\d% \d\d\.\d% to \d\d\.\d% 8 tokens TokDense [\d.]+ n 60 / 60", tome)


def test_floors_and_diagnostics_stand_last_and_unranked(page):
    last = flat(page, 2)[-2:]
    assert [r.split(" ")[:2] for r in last] == [["random", "floor"], ["oracle", "diagnostic"]]
    assert not any("rank" in r for r in last)


def test_few_pictures_are_marked_and_ranked_neither_alone_nor_in_the_average(page):
    for number in (0, 1):
        assert all("illustrative" in r and "rank" not in r for r in flat(page, number)[1:])
    assert "Illustrative: fewer than 30 source pictures or clips stand behind" in page.read_text(encoding="utf-8")


def test_an_average_names_its_tasks_and_protocols(page):
    text = page.read_text(encoding="utf-8")
    assert "Average over few, many" in text
    assert "few: exact_match, exact_match/v1; many: exact_match, exact_match/v1" in text


def test_hostile_label_is_text(page):
    assert "<b>a</b>" not in page.read_text(encoding="utf-8")


def test_files_lie_beside_the_page(page):
    names = {p.name for p in (page.parent / "tables").iterdir()}
    assert {"retention.csv", "retention-curves.csv", "retention.md"} < names
    assert len(list((page.parent / "figures").glob("retention-*.pdf"))) == 3


def test_a_margin_stands_with_its_interval(page):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))
    assert re.search(r"\+0\.\d{3} over random, \+0\.\d{3} to \+0\.\d{3}", text)


def test_page_runs_without_a_word_and_its_tables_sort(seen):
    document, console = seen("sort=retention-0-2.1.asc")
    assert console == []
    shares = [float(re.search(r"([\d.]+)%", row[1])[1]) for row in browser.rows(document, "retention-0-2")]
    assert shares == sorted(shares)


@pytest.mark.parametrize(("task", "hidden"), [("many", False), ("few", False), ("photos", True)])
def test_filter_by_task_keeps_the_retention_of_its_tasks(seen, task, hidden):
    document, _ = seen(f"task={task}")
    assert ("hidden" in re.search(r'<section class="task retention"[^>]*>', document)[0]) == hidden


def test_nothing_is_wider_than_a_narrow_screen(page, tmp_path):
    assert browser.excess_width(page, tmp_path, 380) == 0


def test_report_of_a_folder_has_retention(tmp_path):
    folder = folder_of(tmp_path / "x", *cells("many", "c"), environment=RUN)
    page, _ = report_folder(folder.path)
    assert "Retention of tiny/llava" in page.read_text(encoding="utf-8")
