"""Merging inside the vision tower: where it merges, what it protects, and how attention is weighed."""

from itertools import pairwise

import pytest
import torch
from toksweep.harness.contracts import ModelShape, UserError, View
from toksweep.harness.registry import registry
from toksweep.methods.compressors.auroracap import AuroraCap
from toksweep.methods.compressors.pitome import PiToMe, pair_by_energy
from toksweep.methods.compressors.tinychart import TinyChart

CLIP = ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23)
SIGLIP = ModelShape("siglip", 2916, (54, 54), 27, 24, False, feature_layers=26)


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def view(n, layer=0, class_index=None, shape=CLIP, seed=0):
    keys = draw(2, 4, n, 8, seed=seed)
    return View(
        draw(2, n, 6), CLIP.grid, "encoder", layer, torch.ones(2, n), None, {"keys": keys}, (), class_index, None, shape
    )


@pytest.mark.parametrize("method", [TinyChart(), AuroraCap(), PiToMe(), PiToMe(energy_first=True)])
@pytest.mark.parametrize("keep", [1, 64, 192, 401, 575])
def test_any_count_is_reached_in_layers_that_merge_half_at_most(method, keep):
    stages = method.stages(keep, CLIP)
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
