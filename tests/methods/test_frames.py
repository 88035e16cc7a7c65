"""HoliTom and DyCoke: which frames and places of a clip are told apart, and how many tokens they leave."""

import pytest
import torch
from toksweep.harness.contracts import Budget, ModelShape, Refusal, UserError, View
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve
from toksweep.methods.compressors.dycoke import DyCoke, references
from toksweep.methods.compressors.holitom import HoliTom
from toksweep.methods.ops import fold
from toksweep.methods.windows import find_windows


def draw(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def clip_view(frames, n=12, rows=2, change=0.4, seed=0):
    """Clips whose frames differ little at most places."""
    still = draw(rows, 1, n, 8, seed=seed)
    pace = torch.rand(rows, 1, n, 1, generator=torch.Generator().manual_seed(seed + 1)) * change * 4
    tokens = (still + pace * draw(rows, frames, n, 8, seed=seed + 2)).flatten(1, 2)
    attention = torch.rand(rows, 3, frames * n, generator=torch.Generator().manual_seed(seed + 3))
    return View(
        tokens, (1, n), "projector", signals={"received_attention@-2": attention},
        generators=tuple(torch.Generator().manual_seed(row) for row in range(rows)),
        image=torch.arange(frames).repeat_interleave(n).expand(rows, -1),
    )  # fmt: skip


def splits(frames):
    """Every way to cut frames into windows."""
    if frames == 0:
        yield []
    for last in range(1, frames + 1):
        for head in splits(frames - last):
            yield [*head, (frames - last, frames - 1)]


@pytest.mark.parametrize("seed", range(6))
def test_windows_save_as_much_as_the_best_of_all_splits(seed):
    static = torch.rand(6, 10, generator=torch.Generator().manual_seed(seed)) > 0.2

    def saved(windows):
        return sum((end - start) * int(static[start:end].all(0).sum()) for start, end in windows if end > start)

    windows, found = find_windows(static)
    assert [w for window in windows for w in range(window[0], window[1] + 1)] == list(range(7))
    assert found == saved(windows) == max(saved(s) for s in splits(7))


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_holitom_fills_the_budget_of_a_clip_and_never_exceeds_it(frames, share):
    view = clip_view(frames)
    keep = max(frames, int(frames * 12 * share))
    reduction = HoliTom().reduce(view, keep)
    assert all(0 < count <= keep for count in reduction.counts.tolist())
    if frames == 1:  # nothing stands still
        assert reduction.counts.tolist() == [keep, keep]


@pytest.mark.parametrize("keep", [10, 30, 60])
def test_rows_of_holitom_are_means_and_come_frame_by_frame(keep):
    view = clip_view(7)
    reduction = HoliTom().reduce(view, keep)
    weight = reduction.dense().sum(-1)
    for row, count in enumerate(reduction.counts.tolist()):
        assert torch.allclose(weight[row, :count], torch.ones(count), atol=1e-5)
        frame = (reduction.anchor[row, :count] // 12).tolist()
        assert frame == sorted(frame)


def test_a_place_that_never_moves_is_one_token_of_its_mean():
    tokens = torch.eye(4).repeat(3, 1).reshape(1, 12, 4) * torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(4)[:, None]
    view = View(
        tokens, (2, 2), "projector", signals={"received_attention@-2": torch.ones(1, 1, 12)},
        generators=(torch.Generator(),), image=torch.arange(3).repeat_interleave(4)[None],
    )  # fmt: skip
    reduction = HoliTom().reduce(view, 4)
    assert torch.allclose(reduction.apply(tokens)[0], 2 * torch.eye(4))


def test_a_single_picture_keeps_what_it_attends_to():
    view = clip_view(1)
    reduction = HoliTom().reduce(view, 5)
    for row in range(2):
        best = view["received_attention@-2"][row].mean(0).topk(5).indices
        assert reduction.describe(row) == sorted(best.tolist())


@pytest.mark.parametrize("keep", [1, 4, 11, 12])
def test_folding_is_done_one_token_after_another(keep):
    tokens, scores = draw(2, 12, 6), torch.rand(2, 12, generator=torch.Generator().manual_seed(1))
    out = fold(tokens, scores, keep).apply(tokens)
    for row in range(2):
        kept = sorted(scores[row].topk(keep).indices.tolist())
        want = {i: tokens[row, i].double() for i in kept}
        for i in set(range(12)) - set(kept):
            alike = torch.nn.functional.cosine_similarity(tokens[row, i], tokens[row, kept], dim=-1)
            target = kept[int(alike.argmax())]
            want[target] = (want[target] + tokens[row, i]) / 2
        assert torch.allclose(out[row].double(), torch.stack([want[i] for i in kept]), atol=1e-5)


def test_half_of_what_enters_is_left_behind_the_layer_of_holitom():
    shape = ModelShape("llava", 196, (14, 14), 26, 28, False)
    stages = resolve(HoliTom(), Budget.parse(20), "entering", shape, merges=True).stages
    assert [(s.place, s.layer, s.keep, s.joint) for s in stages] == [
        ("projector", None, 20, True), ("decoder", 18, 10, True),
    ]  # fmt: skip
    assert len(HoliTom(inner=False).stages(20, shape)) == 1


@pytest.mark.parametrize(("frames", "want"), [
    (1, [None]), (4, [None, 0, None, 2]), (6, [None, 0, 0, 2, None, 4]), (7, [None, 0, 0, 2, None, 4, None]),
    (8, [None, 0, 0, 2, None, 4, None, 6]),
])  # fmt: skip
def test_the_third_of_the_last_frames_stays_whole(frames, want):
    assert references(frames, complete=False) == want


def test_a_complete_pass_leaves_every_fourth_frame_whole():
    assert references(8, complete=True) == [None, 0, 0, 2, None, 4, 4, 6]


@pytest.mark.parametrize("keep", [36, 37, 50, 63, 96])
def test_dycoke_drops_what_a_frame_repeats_and_spends_the_whole_budget(keep):
    view = clip_view(8)
    reduction = DyCoke().reduce(view, keep)
    share, more = divmod(keep - 36, 5)
    for row in range(2):
        frames = view.tokens[row].view(8, 12, 8)
        want, pruned = [], 0
        for number, other in enumerate(references(8, complete=False)):
            places = list(range(12))
            if other is not None:
                count, pruned = share + (pruned < more), pruned + 1
                alike = torch.nn.functional.cosine_similarity(frames[number], frames[other], dim=-1)
                places = alike.argsort()[:count].tolist() if count < 12 else places
            want += [number * 12 + place for place in places]
        assert reduction.describe(row) == want
        assert len(want) == keep


@pytest.mark.parametrize(("frames", "keep"), [(8, 35), (2, 11), (1, 11)])
def test_whole_frames_that_exceed_the_budget_are_refused_by_number(frames, keep):
    with pytest.raises(Refusal, match=rf"of the {frames} pictures of a sample whole, and {keep} of {frames * 12}"):
        DyCoke().reduce(clip_view(frames), keep)


def test_a_budget_below_one_frame_in_four_names_the_smallest():
    shape = ModelShape("llava", 100, (10, 10), 24, 32, True)
    with pytest.raises(Refusal, match=r"smallest reachable is 25 \(25%\)"):
        resolve(DyCoke(), Budget.parse("20%"), "mean", shape, merges=False)


@pytest.mark.parametrize(("name", "parameters", "message"), [
    ("holitom", {"tau": 2}, "tau must be a number from -1 to 1"), ("holitom", {"beta": "half"}, "beta must be"),
    ("holitom", {"neighbours": 0}, "neighbours must be"), ("holitom", {"layer": 0}, "layer must be"),
    ("holitom", {"inner": 1}, "inner must be True or False"), ("dycoke", {"complete": 1}, "complete must be"),
])  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        registry("methods").get(name).build(parameters)
