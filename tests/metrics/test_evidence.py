"""Evidence that is left: geometry, weights, and what is made of them."""

from __future__ import annotations

import pytest
import torch
from toksweep.harness.contracts import Memo, Output, Reduction, Region, Sample, Stage, Survival
from toksweep.harness.models.calls import Calls, ImageName
from toksweep.harness.models.evidence import footprint, resampled, survivals
from toksweep.metrics.evidence import EvidenceIntact, EvidenceRecall, EvidenceRecallLast


def sample(*regions: Region) -> Sample:
    return Sample("s", "c", (), "f", regions=regions, slices={"question": "colour"})


def value(metric, *patches: Survival) -> float:
    (item,) = metric.score(Output(text="", evidence=patches), sample(Region((0, 0, 8, 8))), Memo())
    assert item.slices == {"question": "colour"}
    return item.value


def test_a_box_covers_the_shares_of_the_patches_that_it_touches():
    area = footprint([Region((4, 8, 12, 16))], 0, (0, 0, 16, 16), (2, 2)).view(2, 2)
    assert area.tolist() == [[0.0, 0.0], [0.5, 0.5]]


def test_boxes_of_other_frames_do_not_count_and_overlaps_fill_a_patch_at_most():
    box = (0.0, 0.0, 8.0, 8.0)
    assert footprint([Region(box, image=1)], 0, (0, 0, 16, 16), (2, 2)).sum() == 0
    assert footprint([Region(box), Region(box)], 0, (0, 0, 16, 16), (2, 2)).max() == 1


def test_a_smaller_picture_is_a_mean_of_the_patches_below_it():
    weights = resampled((2, 2), (4, 4))
    assert weights.shape == (4, 16)
    assert torch.allclose(weights.sum(1), torch.ones(4))
    assert weights[0].view(4, 4)[:2, :2].unique().tolist() == [0.25]
    uneven = resampled((1, 2), (1, 3))
    assert torch.allclose(uneven, torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))


def test_what_is_left_follows_every_cut_by_weight():
    calls = Calls(Script(), [ImageName("s", 0)], [(2, 2)], seed=0, kind="exact", device=torch.device("cpu"))
    tokens = torch.zeros(1, 4, 1)
    calls.reduce(Stage("projector", 3), [(0,)], tokens, {})
    calls.reduce(Stage("decoder", 1, layer=1), [(0,)], tokens[:, :3], {})
    ((entering, last),) = calls.left([0])
    assert entering.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert last.tolist() == [0.0, 0.0, 1.0, 0.0]


def test_evidence_that_merges_across_pictures_is_left_in_part_in_each():
    class AcrossFrames:
        def reduce(self, view, keep):
            return Reduction.merge(torch.tensor([[0, 1, 0, 2]]))

    names = [ImageName("s", 0), ImageName("s", 1)]
    calls = Calls(AcrossFrames(), names, [(1, 2)] * 2, seed=0, kind="adaptive", device=torch.device("cpu"))
    calls.reduce(Stage("projector", 2, joint=True), [(0, 1)], torch.zeros(1, 4, 1), {})
    (first, _), (second, _) = calls.left([0, 1])
    assert first.tolist() == [0.5, 1.0]
    assert second.tolist() == [0.5, 1.0]


class Script:
    """Merges the first two tokens, then keeps one of the others."""

    def reduce(self, view, keep):
        if view.place == "projector":
            return Reduction.merge(torch.tensor([[0, 0, 1, 2]]))
        return Reduction.keep(torch.tensor([[1]]), 3)


def test_only_patches_with_evidence_are_recorded():
    found = survivals([torch.tensor([0.0, 0.25])], [(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5]))])
    assert found == (Survival(0.25, 1.0, 0.5),)


def test_recall_weighs_patches_by_the_evidence_in_them():
    patches = Survival(1.0, 1.0, 0.0), Survival(0.25, 0.0, 0.0)
    assert value(EvidenceRecall(), *patches) == pytest.approx(0.8)
    assert value(EvidenceRecallLast(), *patches) == 0


def test_one_lost_patch_breaks_a_question():
    assert value(EvidenceIntact(), Survival(1, 1, 1), Survival(0.1, 0.5, 0)) == 1
    assert value(EvidenceIntact(), Survival(1, 1, 1), Survival(0.1, 0.4, 0)) == 0


def test_a_sample_without_evidence_has_no_item_and_one_untracked_fails():
    assert EvidenceRecall().score(Output(text=""), sample(), Memo()) == []
    with pytest.raises(ValueError, match="none of it was tracked"):
        EvidenceRecall().score(Output(text=""), sample(Region((0, 0, 8, 8))), Memo())
