"""Where methods cut: scaled defaults, literal numbers, and budgets that a tower cannot reach."""

from itertools import pairwise

import pytest
from toksweep.harness.contracts import Budget, ModelShape, Refusal, UserError
from toksweep.harness.registry import registry
from toksweep.harness.schedule import lay_out, resolve
from toksweep.methods.compressors.fastv import FastV
from toksweep.methods.compressors.tome import ToMe


def shape(llm=32, vision=24, tokens=576):
    side = round(tokens**0.5)
    return ModelShape("llava", tokens, (side, side), vision, llm, True, feature_layers=vision - 1)


@pytest.mark.parametrize(("layers", "want"), [(32, 2), (40, 2), (64, 4), (28, 2), (8, 1), (4, 1)])
def test_the_default_layer_of_fastv_follows_the_depth(layers, want):
    assert FastV().stages(10, shape(layers))[0].layer == want


def test_a_given_layer_of_fastv_is_taken_literally():
    assert FastV(layer=3).stages(10, shape(64))[0].layer == 3


@pytest.mark.parametrize("layer", [0, -1, "two", 1.5])
def test_a_layer_that_makes_no_sense_is_refused(layer):
    with pytest.raises(UserError, match="layer must be a whole number from 1"):
        registry("methods").get("fastv").build({"layer": layer})


def test_a_layer_that_the_model_lacks_is_refused():
    with pytest.raises(Refusal, match="decoder layer 40; this model has layers 1 to 31"):
        lay_out(FastV(layer=40).stages(10, shape()), shape())


def test_fastv_spends_the_mean_budget_that_its_whole_layers_leave():
    schedule = resolve(FastV(), Budget.parse(64), "mean", shape(), merges=False)
    assert schedule.layers[:2] == (576, 576)
    assert schedule.layers[2] == (64 * 32 - 2 * 576) // 30


def test_fastv_refuses_a_mean_that_its_whole_layers_exceed():
    with pytest.raises(Refusal, match=r"smallest reachable is 144 \(25%\)"):
        resolve(FastV(layer=2), Budget.parse(64), "mean", shape(8), merges=False)


@pytest.mark.parametrize("inflect", [0.0, -1.0, 0.5])
@pytest.mark.parametrize("keep", [1, 64, 100, 192, 500, 575])
def test_tome_reaches_any_count_in_layers_that_merge_half_at_most(keep, inflect):
    stages = ToMe(inflect=inflect).stages(keep, shape())
    counts = [576, *(s.keep for s in stages)]
    assert counts[-1] == keep
    assert all(0 < a - b <= a // 2 for a, b in pairwise(counts))
    assert [s.layer for s in stages] == sorted({s.layer for s in stages})
    assert stages[-1].layer < 23


def test_tome_merges_the_same_number_in_every_layer_but_the_last():
    merged = [a - b for a, b in pairwise([576, *(s.keep for s in ToMe().stages(192, shape()))])]
    assert set(merged[:-1]) == {17}
    assert sum(merged) == 384
    assert merged[-1] <= 17


def test_a_shallow_tower_names_the_smallest_count_it_can_reach():
    with pytest.raises(Refusal, match="smallest reachable is 2"):
        resolve(ToMe(), Budget.parse(1), "entering", shape(vision=4, tokens=16), merges=True)


@pytest.mark.parametrize("inflect", [2, "steep"])
def test_a_ramp_that_makes_no_sense_is_refused(inflect):
    with pytest.raises(UserError, match="inflect must be a number from -1 to 1"):
        registry("methods").get("tome").build({"inflect": inflect})
