"""From lines of the latency probe to columns of a cell, and from how many tokens on choosing pays."""

from __future__ import annotations

import pytest
from result_folders import cell, record, write_folder
from toksweep.results.aggregate import table
from toksweep.results.break_even import BreakEven, Saved, break_even, saving_ms
from toksweep.results.store import new_writer_name


def timing(quantity, median, sample="s000", **more):
    """A line of the probe whose quartiles lie a tenth below and above."""
    about = {"q1_ms": 0.9 * median, "q3_ms": 1.1 * median, "rounds": 5, "device": "cpu: mine", "ratio": None}
    return {"sample_id": sample, "quantity": quantity, "median_ms": median} | about | more


def saved(median, spread=0.5):
    return {"saved_ms": median, "saved_q1_ms": median - spread, "saved_q3_ms": median + spread}


@pytest.fixture
def row(tmp_path):
    """The row of a cell of two samples, which keeps (16, 4, 4) of 16 tokens, with these lines of the probe."""
    one = cell(sample_ids=["s000", "s001"])
    folder = write_folder(tmp_path, [(one, [record(0, 1.0, kv_bytes=300), record(1, 1.0, kv_bytes=100)])])

    def made(*lines):
        writer = folder.latency_writer(one.work_id, new_writer_name())
        for line in lines:
            writer.append(line)
        return table(folder).iloc[0]

    return made


def test_median_and_quartiles_are_medians_over_the_samples(row):
    lines = [
        timing("latency", ms, f"s00{i}", ratio=ms / 10, peak_memory_bytes=int(ms)) for i, ms in enumerate((10, 30))
    ]
    found = row(*lines, timing("tpot", 2.0))
    assert (found.latency_ms, found.latency_q1_ms, found.latency_q3_ms) == pytest.approx((20, 18, 22))
    assert (found.latency_ratio, found.tpot_ms, found.vision_ms) == (2, 2, None)
    assert (found.latency_samples, found.latency_rounds, found.latency_device) == (2, 5, "cpu: mine")
    assert (found.peak_memory_bytes, found.kv_bytes) == (30, 200)


def test_on_a_cpu_there_is_no_peak_of_memory(row):
    assert row(timing("latency", 1.0, peak_memory_bytes=None)).peak_memory_bytes is None


def test_a_cell_that_could_not_be_timed_says_why_until_it_is_timed(row):
    found = row({"sample_id": "s000", "quantity": "latency", "error": "OutOfMemoryError: no"})
    assert (found.latency_error, found.latency_ms, found.break_even_reason) == ("OutOfMemoryError: no", None, None)
    found = row(timing("latency", 5.0))
    assert (found.latency_error, found.latency_ms) == (None, 5)


def test_break_even_is_read_off_the_phases_and_the_tokens_of_the_samples_that_were_timed(row):
    """8 of 16 tokens fewer save 5 + 3 * 1 ms, hence 1 ms each: choosing for 2.5 ms pays from the third token on."""
    phases = [("vision", 9.0, 0.2), ("compressor", 2.5, -2.5), ("prefill", 6.0, 5.0), ("tpot", 3.0, 1.0)]
    found = row(*(timing(name, ms, **saved(gain), answer_tokens=4) for name, ms, gain in phases))
    assert (found.break_even_tokens, found.break_even_reason, found.answer_tokens) == (3, None, 4)
    assert (found.vision_ms, found.compressor_ms, found.prefill_ms) == (9, 2.5, 6)


def test_without_full_tokens_beside_it_there_is_no_break_even(row):
    found = row(*(timing(name, 1.0, answer_tokens=4) for name in ("vision", "compressor", "prefill", "tpot")))
    assert (found.break_even_tokens, found.break_even_reason) == (None, "full tokens were not timed beside it")


# --------------------------------------------------------------------------------------------------------- mathematics


@pytest.mark.parametrize(
    ("selection", "saving", "fewer", "tokens"),
    [
        (10.0, 40.0, 400, 100),  # a tenth of a millisecond per token
        (10.1, 40.0, 400, 101),
        (40.0, 40.0, 400, 400),  # it just pays where it was measured
        (50.0, 40.0, 400, 500),  # and only for a smaller budget than this
        (0.0, 40.0, 400, 1),
    ],
)
def test_choosing_pays_from_its_cost_over_the_saving_per_token(selection, saving, fewer, tokens):
    found = break_even(selection_ms=selection, saved_ms=saving, tokens_saved=fewer, tokens_full=576)
    assert found == BreakEven(tokens)


@pytest.mark.parametrize(
    ("selection", "saving", "fewer", "says"),
    [
        (1.0, 40.0, 0, "saves no tokens"),
        (1.0, 0.0, 400, "no time beyond the spread"),
        (1.0, -3.0, 400, "no time beyond the spread"),
        (60.0, 40.0, 400, "choosing takes 60 ms, and all 576 tokens would save 57.6 ms"),
    ],
)
def test_a_method_that_never_pays_has_a_reason_and_no_number(selection, saving, fewer, says):
    found = break_even(selection_ms=selection, saved_ms=saving, tokens_saved=fewer, tokens_full=576)
    assert found.tokens is None
    assert says in found.reason


def test_a_saving_adds_up_phases_and_output_tokens_and_leaves_out_what_the_rounds_do_not_agree_on():
    unclear, lost = Saved(3.0, -1.0, 4.0), Saved(-2.0, -3.0, -1.0)
    assert saving_ms(vision=unclear, prefill=Saved(20.0, 18.0, 21.0), per_token=lost, answer_tokens=5) == 20 - 4 * 2
    assert saving_ms(vision=Saved(1.0, 0.5, 2.0), prefill=unclear, per_token=lost, answer_tokens=1) == 1
