"""What a budget means for a method, under the three conventions."""

from dataclasses import replace

import pytest
from toksweep.harness.contracts import Budget, ModelShape, Refusal, Stage
from toksweep.harness.schedule import cuts, lay_out, resolve, untouched

SHAPE = ModelShape("llava", tokens=576, grid=(24, 24), vision_layers=24, llm_layers=32, class_token=True)


class CutOnce:
    """Before LLM layer 2, as FastV does."""

    def stages(self, keep, shape):
        return (Stage("decoder", keep, layer=2),)

    def reduce(self, view, keep):
        raise AssertionError("not called")


class Grid(CutOnce):
    """At most: square grids only."""

    def stages(self, keep, shape):
        side = int(keep**0.5)
        return (Stage("projector", side * side),)


def test_after_cut_is_the_authors_own_argument():
    schedule = resolve(CutOnce(), Budget.parse("128"), "after_cut", SHAPE, merges=False)
    assert schedule.layers == (576, 576) + (128,) * 30
    assert schedule.entering == 576
    assert schedule.mean == (2 * 576 + 30 * 128) / 32 == 156


def test_mean_solves_for_the_largest_cut_within_the_budget():
    schedule = resolve(CutOnce(), Budget.parse("192"), "mean", SHAPE, merges=False)
    assert schedule.mean <= 192
    assert (2 * 576 + 30 * (schedule.after_cut + 1)) / 32 > 192


def test_a_mean_that_cannot_be_reached_is_refused_with_the_smallest_reachable():
    shape = ModelShape("llava", 64, (8, 8), 8, 8, True)
    with pytest.raises(Refusal, match=r"smallest reachable is 16 \(25%\)"):
        resolve(CutOnce(), Budget.parse("15"), "mean", shape, merges=False)
    assert resolve(CutOnce(), Budget.parse("25%"), "mean", shape, merges=False).layers == (64, 64, 0, 0, 0, 0, 0, 0)


def test_entering_counts_what_goes_into_the_llm():
    with pytest.raises(Refusal, match="smallest reachable is 576"):
        resolve(CutOnce(), Budget.parse("64"), "entering", SHAPE, merges=False)


def test_a_grid_keeps_at_most_the_budget():
    schedule = resolve(Grid(), Budget.parse("192"), "mean", SHAPE, merges=False)
    assert schedule.layers == (169,) * 32


def test_a_method_that_needs_one_token_is_never_asked_to_enter_none():
    with pytest.raises(Refusal, match="no visual token"):
        lay_out((Stage("projector", 0),), SHAPE)


def test_merging_is_bypassed_at_the_full_budget_and_selecting_is_not():
    assert resolve(Grid(), Budget.parse("576"), "mean", SHAPE, merges=True) == untouched(SHAPE)
    assert resolve(Grid(), Budget.parse("576"), "mean", SHAPE, merges=False).stages == (Stage("projector", 576),)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (Stage("decoder", 10, layer=32), "layers 1 to 31"),
        (Stage("decoder", 10, layer=0), "layers 1 to 31"),
        (Stage("encoder", 10, layer=24), "layers 0 to 23"),
        (Stage("projector", 577), "asks for 577 of 576"),
    ],
)
def test_a_cut_that_a_model_cannot_make_is_refused(stage, says):
    with pytest.raises(Refusal, match=says):
        lay_out((stage,), SHAPE)


def test_papers_layer_numbers_are_scaled_to_other_depths():
    assert SHAPE.scale(2, 32) == 2
    assert ModelShape("x", 64, (8, 8), 6, 6, True).scale(2, 32) == 1
    assert ModelShape("x", 64, (8, 8), 6, 28, True).scale(16, 32) == 14


def test_a_convention_that_counts_what_a_method_does_not_change_is_refused():
    class Leaves(CutOnce):
        """Half of what enters goes on, and nothing reaches the last layer."""

        def stages(self, keep, shape):
            return (Stage("projector", keep), Stage("decoder", keep // 2, layer=8), Stage("decoder", 0, layer=24))

    with pytest.raises(Refusal, match="whatever is kept, 0 tokens are counted under the convention after_cut"):
        resolve(Leaves(), Budget.parse("64"), "after_cut", SHAPE, merges=False)
    assert resolve(Leaves(), Budget.parse("64"), "entering", SHAPE, merges=False).entering == 64


@pytest.mark.parametrize(
    "stages",
    [
        (Stage("decoder", 200, layer=4), Stage("decoder", 100, layer=4)),
        (Stage("decoder", 200, layer=4), Stage("decoder", 100, layer=3)),
        (Stage("decoder", 200, layer=4), Stage("projector", 100)),
        (Stage("projector", 200), Stage("encoder", 100, layer=4)),
    ],
)
def test_cuts_come_in_the_order_in_which_tokens_meet_them_and_once_in_a_layer(stages):
    with pytest.raises(Refusal, match="twice, or out of the order"):
        lay_out(stages, SHAPE)


@pytest.mark.parametrize("stages", [
    (Stage("projector", 100), Stage("attention", 99)),
    (Stage("pixel", 64, grid=(8, 8)), Stage("attention", 64)),
    (Stage("decoder", 64, layer=2), Stage("attention", 64)),
])  # fmt: skip
def test_unmerging_is_of_all_tokens_that_are_left_in_front_of_the_llm(stages):
    with pytest.raises(Refusal, match="unmerges"):
        lay_out(stages, SHAPE)
    assert lay_out((Stage("projector", 100), Stage("attention", 100)), SHAPE).unmerges


def test_what_goes_into_the_projector_is_not_cut_after_what_comes_out():
    with pytest.raises(Refusal, match="goes into the projector after"):
        lay_out((Stage("projector", 200), Stage("projector", 100, features=True)), SHAPE)
    assert lay_out((Stage("projector", 200, features=True), Stage("projector", 100)), SHAPE).entering == 100


NATIVE = replace(SHAPE, varies=True)


def test_a_picture_of_another_grid_has_a_schedule_of_its_own():
    quarter = resolve(Pruner(), Budget.parse("25%"), "mean", NATIVE, merges=False)
    same, small = quarter.over([(24, 24), (10, 8)])
    assert same is quarter
    assert (small.full, small.entering) == (80, 20)
    assert quarter.over([(10, 8)])[0] is small
    assert untouched(NATIVE).over([(10, 8)]) == [untouched(NATIVE.at((10, 8)))]


@pytest.mark.parametrize("merges", [True, False])
def test_a_count_that_a_small_picture_does_not_have_means_all_of_it(merges):
    schedule = resolve(Pruner(), Budget.parse(64), "mean", NATIVE, merges=merges)
    assert [schedule.over([grid])[0].entering for grid in ((24, 24), (6, 6))] == [64, 36]
    assert bool(schedule.over([(6, 6)])[0].stages) != merges
    assert bool(schedule.over([(6, 6)])[0].over([(9, 9)])[0].stages)


def test_where_counts_are_equal_a_count_above_them_is_refused():
    with pytest.raises(Refusal, match="above the full count of 576"):
        resolve(Pruner(), Budget.parse(600), "mean", SHAPE, merges=False)


def test_the_cuts_of_a_batch_are_met_in_order_and_passed_by_where_an_image_has_none():
    early, late = Stage("projector", 9), Stage("decoder", 4, layer=3)
    first, second = lay_out((early, late), SHAPE), lay_out((replace(late, keep=5),), SHAPE)
    found = [cut.stages for cut in cuts([first, second, untouched(SHAPE)])]
    assert found == [{0: early}, {0: late, 1: replace(late, keep=5)}]


def test_a_method_that_reads_otherwise_of_another_picture_is_refused():
    schedules = [lay_out((Stage("projector", 9, reads=reads),), SHAPE) for reads in ((), ("features",))]
    with pytest.raises(Refusal, match="reads other signals"):
        cuts(schedules)


class Pruner:
    """Keeps what it is asked for, in front of the LLM."""

    def stages(self, keep, shape):
        return (Stage("projector", keep),)


@pytest.mark.parametrize("images", [1, 3, 8, 10])
@pytest.mark.parametrize("merges", [True, False])
def test_a_clips_budget_is_shared_out_over_its_images_to_the_last_token(images, merges):
    schedule = resolve(Pruner(), Budget.parse("250/clip"), "entering", SHAPE, merges=merges)
    shares = [one.entering for one in schedule.over([SHAPE.grid] * images)]
    assert sum(shares) == 250 and max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)
    assert schedule.stages  # an image of unknown clips is cut, so that what its cuts read is known


def test_a_clips_budget_below_a_token_an_image_is_refused_with_the_smallest():
    schedule = resolve(Pruner(), Budget.parse("4/clip"), "entering", SHAPE, merges=False)
    with pytest.raises(Refusal, match="less than one token for each of 5 images: the smallest is 5/clip"):
        schedule.over([SHAPE.grid] * 5)


def test_a_clips_budget_above_what_its_images_have_means_all_of_them():
    schedule = resolve(Pruner(), Budget.parse("4000/clip"), "entering", SHAPE, merges=False)
    assert [one.entering for one in schedule.over([SHAPE.grid] * 2)] == [SHAPE.tokens] * 2
