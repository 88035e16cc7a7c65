"""Clips: segments of alike frames, budgets that they share, and what stands still."""

import pytest
import torch
from toksweep.harness.contracts import UserError, View
from toksweep.harness.registry import registry
from toksweep.methods.compressors.fastvid import FastVID, segments


def clip(frames=6, n=16, rows=2, dim=8, seed=0, alike=0.0):
    """Random frames; with `alike` a share of every token is that of the first frame."""
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, frames, n, dim, generator=draws)
    tokens = (alike * tokens[:, :1] + (1 - alike) * tokens).flatten(1, 2)
    attention = torch.rand(rows, 4, frames * n, generator=draws)
    generators = tuple(torch.Generator().manual_seed(row) for row in range(rows))
    image = torch.arange(frames).repeat_interleave(n).expand(rows, -1)
    signals = {"received_attention@-2": attention}
    return View(tokens, (1, n), "projector", signals=signals, generators=generators, image=image)


def turns(*degrees):
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


@pytest.mark.parametrize(("fewest", "tau", "want"), [
    (1, 0.9, [2, 3]), (2, 0.9, [2, 3]), (1, 0.2, [5]), (3, 0.2, [2, 1, 2]), (9, 0.2, [1] * 5), (1, 1.01, [1] * 5),
])  # fmt: skip
def test_segments_are_cut_where_frames_differ_and_at_the_lowest_in_any_case(fewest, tau, want):
    assert segments(turns(0.0, 1.0, 61.0, 81.0, 91.0), fewest, tau) == want


def test_one_frame_is_one_segment():
    assert segments(turns(0.0), 8, 0.9) == [1]


@pytest.mark.parametrize(("length", "shared", "room", "want"), [
    (1, 4, 20, [4]), (4, 2, 20, [0, 0, 0, 8]), (6, 2, 20, [0, 6, 0, 0, 0, 6]), (5, 3, 20, [7, 0, 0, 0, 7]),
    (3, 0, 20, [0, 0, 0]), (4, 2, 7, [4, 0, 0, 4]), (4, 2, 3, [2, 2, 2, 2]),
])  # fmt: skip
def test_every_fourth_frame_from_the_end_holds_what_a_segment_shares(length, shared, room, want):
    assert FastVID().shares(length, shared, room) == want


@pytest.mark.parametrize("alike", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("each", [1, 3, 8, 13, 15])
def test_fastvid_spends_its_budget_up_to_rounding_in_the_order_of_frames(each, alike):
    seen = clip(alike=alike)
    reduction = FastVID(segments=2).reduce(seen, each * 6)
    for row in range(2):
        count = int(reduction.counts[row])
        assert each * 6 - 6 < count <= each * 6
        anchors = reduction.anchor[row, :count].tolist()
        assert anchors == sorted(set(anchors))
    assert torch.allclose(reduction.dense().sum(-1)[reduction.valid], torch.ones(int(reduction.counts.sum())))


def test_salient_tokens_of_every_frame_go_on_as_they_are():
    seen = clip()
    reduction = FastVID().reduce(seen, 5 * 6)
    kept = reduction.apply(seen.tokens)
    for row in range(2):
        for best in (
            seen["received_attention@-2"][row].mean(0).view(6, 16).topk(3).indices + 16 * torch.arange(6)[:, None]
        ):
            places = [reduction.anchor[row].tolist().index(int(i)) for i in best]
            assert torch.equal(kept[row, places], seen.tokens[row, best])


def test_tokens_that_are_not_salient_live_on_in_anchors_of_their_segment():
    """Every anchor frame takes in all of them, at weights that leave the anchor `beta` at least."""
    seen = clip(alike=0.9)
    reduction = FastVID(segments=1, tau=-1).reduce(seen, 5 * 6)
    dense = reduction.dense()[0, : int(reduction.counts[0])]
    mixed = dense[(dense > 0).sum(1) > 1]
    assert set(range(96)) == {int(s) for s in (dense > 0).any(0).nonzero()[:, 0]}
    assert (mixed.amax(1) >= 0.6).all()


@pytest.mark.parametrize("parameters", [
    {"segments": 0}, {"stride": 1.5}, {"tau": 2}, {"contextual": -0.1}, {"beta": "much"},
])  # fmt: skip
def test_a_setting_of_fastvid_that_makes_no_sense_is_refused(parameters):
    with pytest.raises(UserError, match=f"{next(iter(parameters))} must be"):
        registry("methods").get("fastvid").build(parameters)
