"""Every registered compressor on plain views, and the promises of its decorator."""

import dataclasses

import pytest
import torch
from toksweep.harness.contracts import Budget, Memo, ModelShape, Refusal, UserError
from toksweep.harness.registry import registry
from toksweep.harness.schedule import lay_out, resolve, untouched
from views import SHAPE as SMALL
from views import images, view

LLAVA = ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23)
ENTRIES = {e.name: e for e in registry("methods") if e.kind == "compressor"}
pytestmark = pytest.mark.parametrize("name", ENTRIES)


def reduce(method, seen, keep):
    """The reduction, unless the method says why it cannot be."""
    try:
        return method.reduce(seen, keep)
    except Refusal as refusal:
        pytest.skip(str(refusal))


@pytest.mark.parametrize("budget", [3, 7, 11])
def test_a_call_returns_the_rows_it_was_asked_for(name, budget):
    entry = ENTRIES[name]
    method = entry.build()
    n = 16
    for stage in method.stages(budget, SMALL):
        if stage.place == "attention":  # nothing is reduced there
            continue
        if stage.place == "pixel":
            assert stage.grid[0] * stage.grid[1] == stage.keep <= budget
            continue
        seen = view(stage, n)
        asked = stage.keep * images(stage)
        reduction = reduce(method, seen, asked)
        promised = asked + int(stage.place == "encoder")
        assert reduction.counts.le(promised).all() or entry.meta["budget_kind"] == "adaptive"
        assert reduction.counts.eq(promised).all() or entry.meta["budget_kind"] != "exact"
        assert reduction.sources == seen.tokens.shape[1]
        assert torch.isfinite(reduction.apply(seen.tokens)).all()
        n = stage.keep


@pytest.mark.parametrize("budget", [3, 7, 11])
def test_rows_of_a_batch_do_not_see_each_other(name, budget):
    method = ENTRIES[name].build()
    stage = method.stages(budget, SMALL)[0]
    if stage.place == "pixel":
        pytest.skip("nothing is reduced at the place pixel")
    asked = stage.keep * images(stage)
    whole = reduce(method, view(stage, 16), asked)
    for row in range(3):
        seen, mine = view(stage, 16), slice(row, row + 1)
        alone = dataclasses.replace(
            seen, tokens=seen.tokens[mine], sizes=seen.sizes[mine], origin=seen.origin[mine],
            signals={k: v[mine] for k, v in seen.signals.items()}, generators=seen.generators[mine],
            image=None if seen.image is None else seen.image[mine],
        )  # fmt: skip
        assert method.reduce(alone, asked).describe(0) == whole.describe(row)


@pytest.mark.parametrize("budgets", [(3, 7, 11), (11, 7, 3)])
def test_budgets_that_share_a_memo_choose_as_each_does_alone(name, budgets):
    method, memo = ENTRIES[name].build(), Memo()
    for stage in (method.stages(budget, SMALL)[0] for budget in budgets):
        if stage.place != "projector":
            pytest.skip("only the first cut behind the vision tower shares anything")
        asked = stage.keep * images(stage)
        alone = reduce(method, view(stage, 16), asked)
        shared = reduce(method, dataclasses.replace(view(stage, 16), memo=memo), asked)
        assert [shared.describe(r) for r in range(3)] == [alone.describe(r) for r in range(3)]
        assert torch.equal(shared.weight, alone.weight)


def test_selectors_keep_distinct_tokens_unchanged_and_in_order_where_they_say_so(name):
    entry = ENTRIES[name]
    method = entry.build()
    stage = method.stages(7, SMALL)[0]
    if entry.meta["merges"]:
        pytest.skip("it merges")
    for keep in (k * images(stage) for k in (16, 7, 1)):
        seen = view(stage, 16)
        reduction = reduce(method, seen, keep)
        assert reduction.is_selection
        for row in range(3):
            kept = reduction.describe(row)
            assert len(set(kept)) == keep
            assert kept == sorted(kept) or not entry.meta["keeps_order"]
            assert torch.equal(reduction.apply(seen.tokens)[row], seen.tokens[row, kept])


@pytest.mark.parametrize("shape", [LLAVA, SMALL])
def test_counts_grow_with_the_budget_and_spend_what_they_can(name, shape):
    entry = ENTRIES[name]
    method = entry.build()
    merges = bool(entry.meta["merges"])
    means = []
    for keep in range(1, shape.tokens + 1):
        try:
            means.append(lay_out(tuple(method.stages(keep, shape)), shape).mean)
        except Refusal:
            assert not means, f"{keep} is refused, and fewer are not"
    assert means == sorted(means)
    for percent in (15, 25, 40, 60, 80, 100):
        budget = Budget.parse(f"{percent}%")
        wanted = budget.tokens(shape.tokens)
        try:
            schedule = resolve(method, budget, "mean", shape, merges=merges)
        except Refusal as refusal:
            assert "smallest reachable" in str(refusal)
            assert means[0] > wanted
            continue
        if merges and percent == 100:
            assert schedule == untouched(shape)
        else:
            assert schedule.mean == max([mean for mean in means if mean <= wanted], default=schedule.mean)
        assert schedule.mean <= wanted
    assert schedule.mean == shape.tokens


def test_the_decorator_names_every_place_and_signal_that_is_used(name):
    entry = ENTRIES[name]
    for shape in (LLAVA, SMALL):
        for stage in entry.build().stages(shape.tokens // 2, shape):
            assert stage.place in entry.meta["places"]
            named = {option for need in entry.meta["needs"] for option in need.removesuffix("?").split("|")}
            assert all(name in named or name.partition("@")[0] in named for name in stage.reads)


def test_nothing_draws_from_the_global_generator(name):
    entry = ENTRIES[name]
    method = entry.build()
    stage = method.stages(7, SMALL)[0]
    if stage.place == "pixel":
        pytest.skip("nothing is reduced at the place pixel")
    torch.manual_seed(1)
    asked = stage.keep * images(stage)
    first = reduce(method, view(stage, 16), asked)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = reduce(method, view(stage, 16), asked)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [first.describe(r) for r in range(3)] == [second.describe(r) for r in range(3)]


def test_the_documentation_says_where_it_comes_from_and_where_it_departs(name):
    text = " ".join((ENTRIES[name].load().__doc__ or "").split())
    assert "departs from" in text.lower()
    named = (ENTRIES[name].meta["paper"], ENTRIES[name].meta["repository"])
    assert all(source is None or source in text for source in named)


def test_an_unknown_parameter_is_named(name):
    with pytest.raises(UserError, match=f"{name} has no parameter 'nonsense'"):
        ENTRIES[name].build({"nonsense": 1})
