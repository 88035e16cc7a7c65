"""Budgets and reductions: what everything else counts with."""

import pytest
import torch
from toksweep.harness.contracts import Budget, Memo, Reduction, Refusal, UserError, View


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("64", 64, "tokens"),
        ("25%", 25, "percent"),
        ("0.5bpp", 0.5, "bpp"),
        (" 1 BPP ", 1, "bpp"),
        (576, 576, "tokens"),
        ("12.5%", 12.5, "percent"),
    ],
)
def test_a_budget_is_tokens_percent_or_bits_per_pixel(text, value, unit):
    budget = Budget.parse(text)
    assert (budget.value, budget.unit) == (value, unit)


@pytest.mark.parametrize(
    "text", ["0", "-3", "0%", "101%", "abc", "", "nan", "inf", "1.5", "25bpp", "0bpp", "%", "bpp", "1e400"]
)
def test_a_budget_that_means_nothing_is_refused_in_one_sentence_that_names_it(text):
    with pytest.raises(UserError, match="Budget") as error:
        Budget.parse(text)
    assert repr(text) in str(error.value)
    assert str(error.value).count("\n") == 0


def test_budgets_that_are_typed_differently_and_mean_the_same_are_equal():
    assert Budget.parse("25%") == Budget.parse("25.0 %")


def test_a_share_rounds_to_the_nearest_token():
    assert Budget.parse("25%").tokens(576) == 144
    assert Budget.parse("9.8%").tokens(576) == 56
    assert Budget.parse("100%").tokens(7) == 7


@pytest.mark.parametrize(("text", "full"), [("0.1%", 100), ("17", 16), ("0.5bpp", 16)])
def test_a_budget_is_never_quietly_moved(text, full):
    with pytest.raises(Refusal):
        Budget.parse(text).tokens(full)


def test_keeping_indices_gives_those_rows_in_that_order():
    x = torch.randn(2, 6, 4)
    kept = Reduction.keep(torch.tensor([[4, 0, 2], [1, 1, 5]]), 6)
    assert torch.equal(kept.apply(x), torch.stack([x[0, [4, 0, 2]], x[1, [1, 1, 5]]]))
    assert kept.is_selection
    assert kept.describe(0) == [4, 0, 2]
    assert kept.anchor.tolist() == [[4, 0, 2], [1, 1, 5]]


@pytest.mark.parametrize(
    "mask", [[[0, 1, 0, 1, 1]], [[0, 1, 0, 1, 1], [1, 1, 0, 0, 1]], [[0, 1, 0, 1, 1], [0, 0, 0, 1, 0]]]
)
def test_keeping_a_mask_keeps_what_it_marks_in_order(mask):
    places = [torch.tensor([i for i, mark in enumerate(row) if mark]) for row in mask]
    kept, same = Reduction.keep(torch.tensor(mask).bool(), 5, position="renumber"), Reduction.keep(places, 5)
    x = torch.randn(len(mask), 5, 4)
    assert torch.equal(kept.apply(x), same.apply(x))
    assert torch.equal(kept.dense(), same.dense())
    assert kept.anchor.tolist() == same.anchor.tolist()
    assert kept.counts.tolist() == same.counts.tolist()
    assert kept.position == "renumber"


def test_a_mask_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="a mask of 4 tokens was given for 5"):
        Reduction.keep(torch.ones(1, 4, dtype=torch.bool), 5)


def test_identity_is_bit_exact_in_every_dtype():
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        x = torch.randn(2, 5, 3).to(dtype)
        assert torch.equal(Reduction.identity(2, 5).apply(x), x)


def test_rows_of_a_batch_may_keep_different_numbers():
    x = torch.randn(2, 4, 3)
    kept = Reduction.keep([torch.tensor([3]), torch.tensor([0, 2])], 4)
    out = kept.apply(x)
    assert kept.counts.tolist() == [1, 2]
    assert kept.valid.tolist() == [[True, False], [True, True]]
    assert torch.equal(out[0, 0], x[0, 3])
    assert out[0, 1].abs().sum() == 0


def test_merging_averages_the_members_of_a_group_by_weight():
    x = torch.randn(1, 5, 3)
    sizes = torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0]])
    merged = Reduction.merge(torch.tensor([[0, 0, 1, 1, -1]]), sizes)
    expected = torch.stack([(x[0, 0] + 3 * x[0, 1]) / 4, (x[0, 2] + 2 * x[0, 3]) / 3])[None]
    torch.testing.assert_close(merged.apply(x), expected)
    assert merged.sizes(sizes).tolist() == [[4.0, 3.0]]
    assert not merged.is_selection
    assert merged.describe(0) == [[0, 1], [2, 3]]
    assert merged.anchor.tolist() == [[0, 2]]


def test_then_is_one_map_that_equals_both_in_turn():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 3)
    groups = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [3, 2, 1, 0, 0, 0, -1, 1]])
    first = Reduction.merge(groups, torch.rand(2, 8) + 0.1)
    second = Reduction.keep(torch.tensor([[3, 1], [0, 2]]), 4)
    both = first.then(second)
    torch.testing.assert_close(both.apply(x), second.apply(first.apply(x)))
    assert both.sources == 8
    assert both.anchor.tolist() == first.anchor.gather(1, second.anchor).tolist()


def test_a_selection_is_the_map_that_its_parts_say():
    kept = Reduction.keep(torch.tensor([[4, 0, 2], [1, 1, 5]]), 6)
    same = Reduction(6, kept.counts, kept.batch, kept.row, kept.source, kept.weight, kept.anchor, kept.position)
    x, sizes, origin = torch.randn(2, 6, 4), torch.rand(2, 6), torch.arange(12).view(2, 6)
    assert torch.equal(kept.apply(x), same.apply(x))
    assert torch.equal(kept.dense(), same.dense())
    assert torch.equal(kept.sizes(sizes), same.sizes(sizes))
    assert torch.equal(kept.origins(origin), same.origins(origin))
    assert [kept.describe(i) for i in (0, 1)] == [same.describe(i) for i in (0, 1)]
    assert same.is_selection


def test_what_is_made_of_several_tokens_stood_nowhere():
    merged = Reduction.merge(torch.tensor([[0, 0, 1, 2, -1]]))
    assert merged.origins(torch.tensor([[10, 11, 12, 13, 14]])).tolist() == [[-1, 12, 13]]


def test_a_reduction_of_another_length_is_an_error_and_not_a_guess():
    with pytest.raises(ValueError, match="6 tokens was applied to 5"):
        Reduction.identity(1, 6).apply(torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match="cannot be followed"):
        Reduction.identity(1, 6).then(Reduction.identity(1, 5))


def test_noise_of_a_row_depends_on_its_own_seed_alone():
    def view(*seeds):
        return View(
            torch.zeros(len(seeds), 4, 2),
            (2, 2),
            "projector",
            generators=tuple(torch.Generator().manual_seed(s) for s in seeds),
        )

    together = view(5, 7).noise(4)
    assert torch.equal(together[1], view(7).noise(4)[0])
    assert not torch.equal(together[0], together[1])


def test_a_memo_computes_once_and_stores_no_failure():
    memo, calls = Memo(), []

    def compute():
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("first")
        return len(calls)

    with pytest.raises(ValueError, match="first"):
        memo.once("k", compute)
    assert memo.once("k", compute) == 2
    assert memo.once("k", compute) == 2
