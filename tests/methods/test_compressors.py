"""Every registered compressor on plain views, and the promises of its decorator."""

import pytest
import torch
from toksweep.harness.contracts import Budget, ModelShape, Refusal, UserError, View
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve

LLAVA = ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23)
SMALL = ModelShape("llava", 16, (4, 4), 5, 6, True, feature_layers=4)
ENTRIES = {e.name: e for e in registry("methods") if e.kind == "compressor"}
pytestmark = pytest.mark.parametrize("name", ENTRIES)


def view(stage, n, rows=3, seed=0):
    """A view of random tokens, with a class token in the encoder."""
    draws = torch.Generator().manual_seed(seed)
    inside = int(stage.place == "encoder")
    length = n + inside
    signals = {
        "keys": torch.randn(rows, 4, length, 8, generator=draws),
        "last_attention": torch.rand(rows, 4, n, generator=draws),
    }
    return View(
        torch.randn(rows, length, 12, generator=draws), SMALL.grid, stage.place, stage.layer,
        torch.ones(rows, length), torch.arange(length).expand(rows, -1) - inside, signals,
        tuple(torch.Generator().manual_seed(s) for s in range(rows)), 0 if inside else None,
    )  # fmt: skip


@pytest.mark.parametrize("budget", [3, 7, 11])
def test_a_call_returns_the_rows_it_was_asked_for(name, budget):
    method = ENTRIES[name].build()
    n = 16
    for stage in method.stages(budget, SMALL):
        if stage.place == "pixel":
            assert stage.grid[0] * stage.grid[1] == stage.keep <= budget
            continue
        seen = view(stage, n)
        reduction = method.reduce(seen, stage.keep)
        assert reduction.counts.tolist() == [stage.keep + int(stage.place == "encoder")] * 3
        assert reduction.sources == seen.tokens.shape[1]
        assert torch.isfinite(reduction.apply(seen.tokens)).all()
        n = stage.keep


@pytest.mark.parametrize("budget", [3, 7, 11])
def test_rows_of_a_batch_do_not_see_each_other(name, budget):
    method = ENTRIES[name].build()
    stage = method.stages(budget, SMALL)[0]
    if stage.place == "pixel":
        pytest.skip("nothing is reduced at the place pixel")
    whole = method.reduce(view(stage, 16), stage.keep)
    seen = view(stage, 16)
    for row in range(3):
        alone = View(
            seen.tokens[row : row + 1], seen.grid, seen.place, seen.layer, seen.sizes[row : row + 1],
            seen.origin[row : row + 1], {k: v[row : row + 1] for k, v in seen.signals.items()},
            (torch.Generator().manual_seed(row),), seen.class_index,
        )  # fmt: skip
        assert method.reduce(alone, stage.keep).describe(0) == whole.describe(row)


def test_selectors_keep_distinct_tokens_unchanged_and_in_order_where_they_say_so(name):
    entry = ENTRIES[name]
    method = entry.build()
    stage = method.stages(7, SMALL)[0]
    if entry.meta["merges"]:
        pytest.skip("it merges")
    for keep in (1, 7, 16):
        seen = view(stage, 16)
        reduction = method.reduce(seen, keep)
        assert reduction.is_selection
        for row in range(3):
            kept = reduction.describe(row)
            assert len(set(kept)) == keep
            assert kept == sorted(kept) or not entry.meta["keeps_order"]
            assert torch.equal(reduction.apply(seen.tokens)[row], seen.tokens[row, kept])


@pytest.mark.parametrize("shape", [LLAVA, SMALL])
def test_counts_grow_with_the_budget_and_spend_it(name, shape):
    entry = ENTRIES[name]
    method = entry.build()
    before = 0.0
    for percent in (15, 25, 40, 60, 80, 100):
        budget = Budget.parse(f"{percent}%")
        try:
            schedule = resolve(method, budget, "mean", shape, merges=bool(entry.meta["merges"]))
        except Refusal as refusal:
            assert "smallest reachable" in str(refusal)
            continue
        wanted = budget.tokens(shape.tokens)
        assert before <= schedule.mean <= wanted
        if entry.meta["budget_kind"] == "exact":
            assert schedule.mean > wanted - 1
        before = schedule.mean
    assert before == shape.tokens


def test_the_decorator_names_every_place_and_signal_that_is_used(name):
    entry = ENTRIES[name]
    for shape in (LLAVA, SMALL):
        for stage in entry.build().stages(shape.tokens // 2, shape):
            assert stage.place in entry.meta["places"]
            assert set(stage.reads) <= set(entry.meta["needs"])


def test_nothing_draws_from_the_global_generator(name):
    entry = ENTRIES[name]
    method = entry.build()
    stage = method.stages(7, SMALL)[0]
    if stage.place == "pixel":
        pytest.skip("nothing is reduced at the place pixel")
    torch.manual_seed(1)
    first = method.reduce(view(stage, 16), stage.keep)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = method.reduce(view(stage, 16), stage.keep)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [first.describe(r) for r in range(3)] == [second.describe(r) for r in range(3)]


def test_the_documentation_says_where_it_comes_from_and_where_it_departs(name):
    text = " ".join((ENTRIES[name].load().__doc__ or "").split())
    assert "departs from" in text.lower()
    paper = ENTRIES[name].meta["paper"]
    assert paper is None or (paper in text and ENTRIES[name].meta["repository"] in text)


def test_an_unknown_parameter_is_named(name):
    with pytest.raises(UserError, match=f"{name} has no parameter 'nonsense'"):
        ENTRIES[name].build({"nonsense": 1})
