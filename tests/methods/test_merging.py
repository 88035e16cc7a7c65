"""Merging inside the vision tower: where it merges, what it protects, and how attention is weighed."""

from itertools import pairwise

import pytest
import torch
from toksweep.harness.contracts import ModelShape, Refusal, UserError, View
from toksweep.harness.registry import registry
from toksweep.methods.compressors.auroracap import AuroraCap
from toksweep.methods.compressors.dymu import DyMU
from toksweep.methods.compressors.pitome import PiToMe
from toksweep.methods.compressors.tinychart import TinyChart
from toksweep.methods.pairs import pair_above, pair_alike, pair_by_energy, share_out

CLIP = ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23)
SIGLIP = ModelShape("siglip", 2916, (54, 54), 27, 24, False, feature_layers=26)


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def view(n, layer=0, class_index=None, shape=CLIP, seed=0):
    keys = draw(2, 4, n, 8, seed=seed)
    return View(
        draw(2, n, 6), CLIP.grid, "encoder", layer, torch.ones(2, n), None, {"keys": keys}, (), class_index, None, shape
    )


@pytest.mark.parametrize("method", [TinyChart(), AuroraCap(), PiToMe(), PiToMe(energy_first=True), DyMU()])
@pytest.mark.parametrize("keep", [1, 64, 192, 401, 575])
def test_any_count_is_reached_in_layers_that_merge_half_at_most(method, keep):
    stages = [stage for stage in method.stages(keep, CLIP) if stage.place == "encoder"]
    counts = [576, *(s.keep for s in stages)]
    assert counts[-1] == keep
    assert all(0 < a - b <= a // 2 for a, b in pairwise(counts))
    assert [s.layer for s in stages] == sorted({s.layer for s in stages})
    assert stages[-1].layer < 23


def test_the_tower_of_tinychart_merges_84_in_every_layer():
    assert [s.keep for s in TinyChart().stages(732, SIGLIP)] == [2916 - 84 * (layer + 1) for layer in range(26)]


def test_every_layer_of_pitome_keeps_the_same_share():
    counts = [576, *(s.keep for s in PiToMe().stages(144, CLIP))]
    assert {round(b / a, 1) for a, b in pairwise(counts[:-1])} == {0.9}


@pytest.mark.parametrize(("method", "want"), [
    (TinyChart(), True), (AuroraCap(), False), (AuroraCap(proportional=True), True), (PiToMe(), False),
    (PiToMe(proportional=True), True),
])  # fmt: skip
def test_only_some_attend_in_proportion_to_size(method, want):
    assert {s.proportional for s in method.stages(100, CLIP)} == {want}


@pytest.mark.parametrize("form", ["half", "energy", "text"])
@pytest.mark.parametrize("merges", [0, 1, 5, 8, 30])
def test_energy_pairs_every_token_once(form, merges):
    groups, anchor = pair_by_energy(draw(3, 17, 6), merges, 0.5, form)
    done = min(merges, 8)
    assert anchor.shape == (3, 17 - done)
    for row in range(3):
        assert sorted(set(groups[row].tolist())) == list(range(17 - done))
        assert groups[row][anchor[row]].tolist() == list(range(17 - done))
        assert groups[row].bincount().max() <= done + 1


def test_energy_protects_the_tokens_that_are_alone():
    """Six tokens of one kind and four unlike any other: the four stay as they are."""
    metric = torch.eye(5)[[0, 1, 0, 0, 2, 0, 3, 0, 0, 4]][None] + 0.01 * draw(1, 10, 5)
    groups, _ = pair_by_energy(metric, 3, 0.5, "energy")
    sizes = groups[0].bincount()[groups[0]]
    assert sizes[[1, 4, 6, 9]].tolist() == [1, 1, 1, 1]


def test_the_forms_of_pitome_change_in_the_middle_of_the_tower():
    def partition(method, layer):
        return method.reduce(view(17, layer, 0), 12).describe(0)

    swapped = PiToMe(energy_first=True)
    for layer in (0, 11, 12, 23):
        margin = 0.9 * (1 - layer / 24)
        form = "half" if layer < 12 else "energy"
        groups, _ = pair_by_energy(view(17)["keys"].mean(1)[:, 1:], 4, margin, form)
        want = [[0], *([1 + int(i) for i in (groups[0] == g).nonzero()[:, 0]] for g in range(12))]
        assert partition(PiToMe(), layer) == want
        assert partition(swapped, layer) != want


@pytest.mark.parametrize("margin", [-0.1, 2, "wide"])
def test_a_margin_that_makes_no_sense_is_refused(margin):
    with pytest.raises(UserError, match="margin must be a number from 0 to 1"):
        registry("methods").get("pitome").build({"margin": margin})


@pytest.mark.parametrize("schedule", ["constant", "linear", "reverse_linear"])
@pytest.mark.parametrize(("total", "layers"), [(0, 23), (5, 23), (23, 23), (100, 12), (504, 24), (575, 4)])
def test_merges_are_shared_out_in_full(total, layers, schedule):
    plan = share_out(total, layers, schedule)
    assert (len(plan), sum(plan)) == (layers, total)
    assert min(plan) >= 0
    assert plan == sorted(plan, reverse=schedule != "reverse_linear")


def test_dymu_keeps_fewer_tokens_of_a_simple_picture():
    """Two pictures, one of them with eight pairs of duplicates."""
    keys = draw(2, 4, 17, 8)
    keys[1, :, 2::2] = keys[1, :, 1:-1:2]
    seen = View(draw(2, 17, 6), CLIP.grid, "encoder", 0, torch.ones(2, 17), None, {"keys": keys}, (), 0, None, CLIP)
    reduction = DyMU(thresholds=(0.99,) * 24).reduce(seen, 12)
    assert reduction.counts.tolist() == [17, 9]


def test_dymu_without_thresholds_merges_as_many_as_the_schedule_says():
    assert DyMU().reduce(view(17, class_index=0), 11).counts.tolist() == [12, 12]


def test_thresholds_of_another_tower_are_refused():
    with pytest.raises(Refusal, match="12 thresholds, and the tower merges in 23 layers"):
        DyMU(thresholds=(0.9,) * 12).stages(100, CLIP)


@pytest.mark.parametrize("parameters", [{"schedule": "steep"}, {"thresholds": ("high",)}, {"unmerge": "no"}])
def test_a_setting_of_dymu_that_makes_no_sense_is_refused(parameters):
    with pytest.raises(UserError, match=f"{next(iter(parameters))} must be"):
        registry("methods").get("dymu").build(parameters)


@pytest.mark.parametrize("protected", [0, 1])
@pytest.mark.parametrize("n", [16, 17])
def test_a_threshold_below_everything_merges_half_and_one_above_nothing(protected, n):
    metric = draw(2, n, 6)
    assert pair_above(metric, -1.0, protected)[1].shape == (2, n - (n - protected) // 2)
    assert pair_above(metric, 1.0, protected)[1].shape == (2, n)


def test_a_threshold_between_two_edges_merges_what_their_number_does():
    metric = draw(1, 16, 6)
    unit = torch.nn.functional.normalize(metric, dim=-1)
    ranked = (unit[:, ::2] @ unit[:, 1::2].mT).amax(-1).sort(descending=True).values[0]
    threshold = float(ranked[2:4].mean())
    assert all(torch.equal(a, b) for a, b in zip(pair_above(metric, threshold, 0), pair_alike(metric, 3), strict=True))
