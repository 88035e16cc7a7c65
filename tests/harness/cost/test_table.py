"""The rows of `toksweep cost`: what they hold, what they refuse, and that no weights are needed."""

import pytest
from small_llava import small_config
from toksweep.harness.contracts import UserError
from toksweep.harness.cost.table import cost_table

LLAVA_7B = "llava-hf/llava-1.5-7b-hf"
KEYS = [
    "model", "method", "budget", "text_tokens", "images", "tokens_entering", "tokens_mean", "flops_vision",
    "flops_projector", "flops_compressor", "flops_prefill", "flops_decode_token", "kv_bytes", "flops_per_layer",
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a configuration and nothing else."""
    folder = tmp_path_factory.mktemp("small")
    small_config().save_pretrained(folder)
    return str(folder)


def test_full_tokens_have_one_row_and_a_method_one_per_budget():
    rows, refused = cost_table(LLAVA_7B, ["none", "fastv"], ["576", "64"], text_tokens=64, dtype="bfloat16")
    assert [(r["method"], r["budget"]) for r in rows] == [("none", 576), ("fastv", 576), ("fastv", 64)]
    assert [list(r) for r in rows] == [KEYS] * 3
    assert not refused
    none, full, cut = rows
    assert none["flops_vision"] + none["flops_projector"] == 406_077_407_232
    assert full["flops_prefill"] == none["flops_prefill"]
    # Two layers of 576 and thirty of k, the largest that stays within 64 on average.
    assert cut["tokens_mean"] == (2 * 576 + 30 * 29) / 32
    assert cut["tokens_entering"] == 576
    assert cut["kv_bytes"] == 2 * 2 * 4096 * (2 * (64 + 576) + 30 * (64 + 29))
    assert cut["flops_vision"] == none["flops_vision"]


def test_a_share_is_shown_as_the_count_that_it_means(small):
    rows, _ = cost_table(small, ["divprune"], ["25%"], text_tokens=5)
    assert (rows[0]["budget"], rows[0]["tokens_entering"]) == (4, 4)


def test_a_budget_out_of_reach_is_refused_with_the_smallest_that_is_not(small):
    rows, refused = cost_table(small, ["none", "fastv"], ["3"], text_tokens=5)
    assert [r["method"] for r in rows] == ["none"]
    assert (refused[0].method, refused[0].budget) == ("fastv", "3")
    # One of four layers computes on all 16 tokens.
    assert "smallest reachable is 4" in refused[0].reason
    assert cost_table(small, ["fastv"], ["4"], text_tokens=5)


def test_no_row_left_is_an_error_with_the_reason(small):
    with pytest.raises(UserError, match=r"fastv at 3: .*smallest reachable"):
        cost_table(small, ["fastv"], ["3"], text_tokens=5)


def test_the_convention_says_what_a_budget_means(small):
    rows, _ = cost_table(small, ["fastv"], ["3"], text_tokens=5, convention="after_cut")
    assert rows[0]["tokens_mean"] == (16 + 3 * 3) / 4


def test_parameters_are_shown_and_used(small):
    rows, _ = cost_table(small, ["fastv(layer=3)"], ["12"], text_tokens=5, convention="mean")
    assert rows[0]["method"] == "fastv(layer=3)"
    assert rows[0]["tokens_mean"] == (3 * 16 + 0) / 4


def test_merging_in_the_tower_and_smaller_pictures_make_the_tower_cheaper(small):
    rows, _ = cost_table(small, ["none", "tome", "downsample", "divprune"], ["9"], text_tokens=5)
    vision = {r["method"]: r["flops_vision"] for r in rows}
    assert vision["downsample"] < vision["tome"] < vision["divprune"] == vision["none"]


@pytest.mark.parametrize(
    ("methods", "budgets", "dtype", "culprit"),
    [
        (["fastv"], [], "bf16", "fastv needs a budget"),
        (["fastv"], ["17"], "bf16", "above the full count of 16"),
        (["fastv"], ["0"], "bf16", "not above 0"),
        (["fastv"], ["4"], "int3", "'int3'"),
        (["fastw"], ["4"], "bf16", "near: fastv"),
    ],
)
def test_what_a_user_got_wrong_is_named(small, methods, budgets, dtype, culprit):
    with pytest.raises(UserError, match=culprit):
        cost_table(small, methods, budgets, text_tokens=5, dtype=dtype)
