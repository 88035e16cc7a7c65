"""Published figures are read as they are printed, and told which convention they follow or why none."""

from pathlib import Path

import pytest
from toksweep.harness.cost.agreement import (
    FITTED,
    INSIDE_LLM,
    NO_COUNT,
    NONE_FITS,
    QUANTISED,
    findings,
    implied_tokens,
    read_figures,
)
from toksweep.harness.cost.page import conventions_part, page

CHECKOUT = Path(__file__).resolve().parents[3]
README = CHECKOUT / "harness" / "cost" / "README.md"
PUBLISHED = CHECKOUT.parent / "shared" / "data" / "published_efficiency.csv"

HEAD = "paper,arxiv_id,method,model,visual_tokens_kept,quantity,value\n"


def judged(tmp_path, *lines):
    table = tmp_path / "figures.csv"
    table.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    return findings(read_figures(table))


def test_a_figure_is_told_the_conventions_that_give_it(tmp_path):
    full, share = judged(
        tmp_path,
        "A: about,1,Vanilla,LLaVA-1.5-7B,576,TFLOPs,7.64",
        "A: about,1,A,LLaVA-1.5-7B,11.1%,FLOPs_percent_of_full,10.9",
    )
    assert (full.figure.paper, full.agreeing, full.why) == ("A", ("globalcom2",), None)
    # The unit cancels in a share.
    assert {"pio_fvlm", "pyramiddrop", "globalcom2"} <= set(share.agreeing)


def test_the_figure_that_fixes_a_text_length_is_no_evidence_but_the_next_one_is(tmp_path):
    full, cut = judged(
        tmp_path,
        "A: about,1,Vanilla,LLaVA-1.5-7B,576,TFLOPs,8.63",
        "A: about,1,A,LLaVA-1.5-7B,64,TFLOPs,1.87",
    )
    assert (full.agreeing, full.why) == ((), FITTED)
    assert cut.agreeing == ("hiprune",)


@pytest.mark.parametrize(
    ("method", "model", "tokens", "value", "why"),
    [
        ("A", "LLaVA-1.5-7B", "not stated", 1.5, NO_COUNT),
        ("A", "LLaVA", "64", 1.5, NO_COUNT),
        ("FastV", "LLaVA-1.5-7B", "64", 1.5, INSIDE_LLM),
        ("PDrop", "LLaVA-OneVision-7B", "100% before LLM", 10.5, INSIDE_LLM),
        ("A (INT8)", "LLaVA-1.5-7B", "64", 0.2, QUANTISED),
        ("A", "LLaVA-1.5-7B", "64", 1.5, NONE_FITS),
    ],
)
def test_a_figure_that_none_gives_is_told_why(tmp_path, method, model, tokens, value, why):
    (found,) = judged(tmp_path, f"A: about,1,{method},{model},{tokens},TFLOPs,{value}")
    assert (found.agreeing, found.why) == ((), why)


def test_layers_that_are_printed_are_taken_as_printed(tmp_path):
    (found,) = judged(tmp_path, "A: about,1,FastV,LLaVA-1.5-7B,576 in layers 1-16; 0 after,FLOPs_percent_of_full,50")
    assert found.values["pyramiddrop"] == pytest.approx(50)


def test_the_tokens_that_a_figure_implies_are_found(tmp_path):
    (found,) = judged(tmp_path, "A: about,1,A,LLaVA-1.5-7B,64,TFLOPs,0.833")
    assert implied_tokens(found.figure, "pyramiddrop", 0) == pytest.approx(128, abs=0.1)


def test_full_tokens_as_a_share_of_themselves_say_nothing(tmp_path):
    assert judged(tmp_path, "A: about,1,Vanilla,LLaVA-1.5-7B,576,FLOPs_percent_of_full,100") == []


@pytest.mark.skipif(not README.exists(), reason="needs the checkout")
def test_the_page_shows_the_conventions_as_they_are():
    assert README.read_text(encoding="utf-8").startswith(conventions_part())


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the table of published figures in ../shared/data")
def test_the_page_is_what_its_command_makes_of_the_published_figures():
    assert README.read_text(encoding="utf-8") == page(PUBLISHED)
