"""Clips: segments of alike frames, budgets that they share, and what stands still."""

import pytest
import torch
from toksweep.harness.contracts import ModelShape, UserError, View
from toksweep.harness.registry import registry
from toksweep.methods.attention import attended
from toksweep.methods.compressors.fastvid import FastVID
from toksweep.methods.compressors.prunevid import FEW, PruneVid
from toksweep.methods.counts import spread, strided
from toksweep.methods.windows import alike_windows, contiguous, segments


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
    assert strided(length, shared, room, stride=4) == want


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


@pytest.mark.parametrize(("labels", "want"), [
    ("aaabbb", [3, 3]), ("aababb", [4, 2]), ("aabaacc", [5, 2]), ("abbbcc", [4, 2]), ("aaabaac", [7]),
    ("abcd", [4]), ("a", [1]), ("aabbcaa", [2, 3, 2]),
])  # fmt: skip
def test_windows_are_the_longest_runs_of_clusters_and_what_joins_them(labels, want):
    """aabbcaa: the left of equals; aabaacc: where a cluster is united, it is one window."""
    assert contiguous(labels) == want


@pytest.mark.parametrize("keep", [1, 3, 10, 29, 60, 70, 99])
def test_clusters_spend_the_whole_budget_of_a_clip(keep):
    sizes = [40, 3, 0, 12, 31, 14]
    counts = spread(sizes, keep, FEW)
    assert sum(counts) == min(keep, 100)
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_small_groups_are_left_alone_where_half_is_kept():
    assert spread([40, 14, 31, 3], 20 + 14 + 15 + 3, FEW) == [20, 14, 15, 3]


def test_what_stands_still_is_static():
    """Four frames alike but for places 3 and 5, then four others."""
    tokens = clip(frames=2, rows=1, n=20, dim=16).tokens[0].view(2, 1, 20, 16).repeat(1, 4, 1, 1).flatten(0, 1)
    tokens[:4, [3, 5]] = clip(frames=4, rows=1, n=2, dim=16, seed=1).tokens[0].view(4, 2, 16)
    groups = alike_windows(tokens, 0.8, 2, torch.rand(8, generator=torch.Generator().manual_seed(0)))
    places = {(window.start, window.stop): where.tolist() for window, where in groups}
    assert places[0, 4] == [i for i in range(20) if i not in (3, 5)]
    assert places[1, 2] == [3, 5]
    assert places[4, 8] == list(range(20))
    assert places[6, 7] == []


@pytest.mark.parametrize("alike", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("keep", [6, 24, 50, 95])
def test_prunevid_merges_in_the_order_of_frames_within_the_budget(keep, alike):
    seen = clip(alike=alike)
    reduction = PruneVid().reduce(seen, keep)
    for row in range(2):
        count = int(reduction.counts[row])
        assert count <= keep
        frames = (reduction.anchor[row, :count] // 16).tolist()
        assert frames == sorted(frames)
    assert torch.allclose(reduction.dense().sum(-1)[reduction.valid], torch.ones(int(reduction.counts.sum())))


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("keep", [1, 57, 300, 575])
def test_prunevid_enters_the_llm_with_what_its_second_stage_leaves(keep, alpha):
    shape = ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23)
    door, inner = PruneVid(alpha=alpha).stages(keep, shape)
    assert door.keep == min(round(keep / alpha), 576)
    assert (inner.keep, inner.layer) == (keep, 11)
    assert [s.keep for s in PruneVid(inner=False).stages(keep, shape)] == [keep]


def test_every_frame_keeps_its_share_of_what_the_question_looks_at():
    attention = torch.zeros(1, 2, 3, 10)
    attention[0, 1, 2] = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.0, 0.3, 0.4, 0.7, 0.6, 0.5])
    groups = torch.tensor([[0, 0, 0, 2, 2, 2, 2, 2, 2, 3]])
    kept = attended(attention, groups, torch.tensor([[1, 0, 3, 0]]))
    assert kept[0].nonzero()[:, 0].tolist() == [1, 3, 7, 8]


@pytest.mark.parametrize("keep", [1, 4, 9, 23, 24])
def test_the_second_stage_spends_the_budget_on_frames_of_unequal_counts(keep):
    image = torch.tensor([0] * 11 + [2] * 3 + [3] * 10).expand(2, -1)
    attention = torch.rand(2, 4, 5, 24, generator=torch.Generator().manual_seed(0))
    seen = View(torch.zeros(2, 24, 4), (4, 4), "decoder", 11, signals={"text_attention": attention}, image=image)
    reduction = PruneVid().reduce(seen, keep)
    assert reduction.counts.tolist() == [keep, keep]
    for row in range(2):
        kept = reduction.describe(row)
        assert kept == sorted(kept)
        held = image[row, kept].bincount(minlength=4)
        assert all(abs(int(h) - n * keep / 24) < 1 for h, n in zip(held, (11, 0, 3, 10), strict=True))


@pytest.mark.parametrize("parameters", [{"tau": 2}, {"alpha": 0}, {"layer": 0}])
def test_a_setting_of_prunevid_that_makes_no_sense_is_refused(parameters):
    with pytest.raises(UserError, match=f"{next(iter(parameters))} must be"):
        registry("methods").get("prunevid").build(parameters)
