"""Methods between vision tower and LLM: what the arrays of their authors do not pin."""

import numpy as np
import pytest
import torch
from toksweep.harness.contracts import ModelShape, UserError, View
from toksweep.harness.registry import registry
from toksweep.methods.attention import one_head
from toksweep.methods.compressors.catp import catp
from toksweep.methods.compressors.duet_vlm import DuetVLM
from toksweep.methods.compressors.hiprune import HiPrune
from toksweep.methods.compressors.hired import HiRED, allocate
from toksweep.methods.compressors.m3 import M3, nested_grid
from toksweep.methods.compressors.prumerge import PruMerge
from toksweep.methods.compressors.prumerge_plus import PruMergePlus, merge
from toksweep.methods.compressors.todre import ToDRE
from toksweep.methods.compressors.visionzip import VisionZip
from toksweep.methods.compressors.vispruner import VisPruner
from toksweep.methods.counts import spacing_of
from toksweep.methods.ops import absorb, dpp_map
from views import picked

LLAVA = ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def view(n=36, rows=2, seed=0, **more):
    """What the methods here read, for a square grid of random tokens, the class token behind them."""
    side = round(n**0.5)
    sharp = draw(rows, 4, n, seed=seed + 1).mul(2).softmax(-1)
    signals = {
        "class_attention@-2": sharp, "class_attention@-1": sharp.flip(-1), "features": draw(rows, n, 6, seed=seed + 2),
        "received_attention@8": sharp.flip(1), "received_attention@-2": sharp, "keys@-2": draw(rows, 4, n + 1, 5),
        "class_query@-1": draw(rows, 4, 5, seed=seed + 3) * 3, "keys@-1": draw(rows, 4, n + 1, 5, seed=seed + 4),
        "text_embeddings": draw(rows, 3, 8, seed=seed + 5),
    }  # fmt: skip
    generators = tuple(torch.Generator().manual_seed(row) for row in range(rows))
    tokens = draw(rows, n, 8, seed=seed)
    return View(tokens, (side, side), "projector", signals=signals, generators=generators, shape=LLAVA, **more)


# ---------------------------------------------------------------------------------------------------- shared operations


@pytest.mark.parametrize(("dominant", "contextual", "pool"), [(5, 3, None), (0, 4, None), (7, 2, 6), (4, 3, 2)])
def test_targets_absorb_the_mean_of_the_tokens_most_like_them(dominant, contextual, pool):
    scores, metric, tokens = draw(2, 20), draw(2, 20, 5, seed=1), draw(2, 20, 3, seed=2)
    groups, weights, anchor = absorb(scores, metric, dominant, contextual, pool=pool)
    rows = dominant + contextual
    for image in range(2):
        ranked = scores[image].argsort(descending=True).tolist()
        best, rest = sorted(ranked[:dominant]), ranked[dominant:]
        rest = sorted(rest) if pool is None else rest[: max(pool, contextual)]
        targets = rest[:: len(rest) // contextual][:contextual]
        joined = {target: [] for target in targets}
        for other in set(rest) - set(targets):
            alike = torch.cosine_similarity(metric[image, other][None], metric[image, targets], dim=-1)
            joined[targets[int(alike.argmax())]].append(other)
        want = [tokens[image, b] for b in best]
        want += [tokens[image, t] + (tokens[image, m].mean(0) if m else 0) for t, m in joined.items()]
        got = [(tokens[image] * (weights[image] * (groups[image] == row))[:, None]).sum(0) for row in range(rows)]
        assert torch.allclose(torch.stack(got), torch.stack(want), atol=1e-6)
        assert anchor[image].tolist() == best + targets


def test_the_greedy_choice_of_a_point_process_has_the_largest_determinant_at_every_step():
    points = draw(3, 12, 14).double()
    kernel = points @ points.mT
    for image, picks in enumerate(picked(dpp_map(kernel), 8)):
        chosen = []
        for pick in picks:
            rest = [i for i in range(12) if i not in chosen]
            volume = {i: np.linalg.slogdet(kernel[image][[*chosen, i]][:, [*chosen, i]].numpy())[1] for i in rest}
            assert pick == max(volume, key=volume.get)
            chosen.append(pick)


def test_tokens_in_the_span_of_those_picked_come_last_the_longest_first():
    points = draw(1, 12, 3)
    (picks,) = picked(dpp_map(points @ points.mT), 12)
    assert sorted(picks) == list(range(12))
    lengths = points[0, picks[3:]].norm(dim=-1)
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)


# ------------------------------------------------------------------------------------------------------------ selectors


@pytest.mark.parametrize(
    "method", [HiPrune(), HiPrune(alpha=1.0), VisPruner(), VisPruner(0.0), VisPruner(1.0), ToDRE()]
)
def test_any_count_is_kept_in_order_and_without_repetition(method):
    for keep in range(1, 37):
        reduction = method.reduce(view(), keep)
        for image in range(2):
            kept = reduction.describe(image)
            assert len(kept) == keep
            assert kept == sorted(set(kept))


def test_anchors_bring_their_neighbours_which_wrap_around_rows_and_stop_at_the_corners():
    objects, deep = torch.zeros(1, 1, 36), torch.arange(36.0)[None, None] / 100
    objects[..., 6] = 1.0  # first of the second row
    signals = {"received_attention@8": objects, "received_attention@-2": deep}
    seen = View(torch.zeros(1, 36, 2), (6, 6), "projector", signals=signals)
    assert HiPrune(alpha=0.5, object_layer=9).reduce(seen, 8).describe(0) == [0, 5, 6, 7, 12, 33, 34, 35]
    objects[..., 6], objects[..., 0] = 0.0, 1.0
    assert HiPrune(alpha=0.5, object_layer=9).reduce(seen, 8).describe(0) == [0, 1, 6, 31, 32, 33, 34, 35]


def test_the_object_layer_follows_the_depth_unless_given():
    assert HiPrune().stages(9, LLAVA)[0].reads[0] == "received_attention@8"
    shallow = ModelShape("llava", 16, (4, 4), 5, 6, True, feature_layers=4)
    assert HiPrune().stages(9, shallow)[0].reads[0] == "received_attention@1"
    assert HiPrune(object_layer=16).stages(9, LLAVA)[0].reads[0] == "received_attention@15"


def test_the_next_pick_is_the_least_like_all_before():
    seen = view()
    for image, kept in enumerate(ToDRE().reduce(seen, 9).describe(row) for row in range(2)):
        unit = torch.nn.functional.normalize(seen.tokens[image].double(), dim=-1)
        want = [int(seen["class_attention@-1"][image].mean(0).argmax())]
        while len(want) < 9:
            rest = [i for i in range(36) if i not in want]
            want.append(min(rest, key=lambda i: float((unit[want] @ unit[i]).sum())))
        assert kept == sorted(want)


def test_a_random_pivot_needs_no_class_token_and_follows_the_seed():
    method = ToDRE(pivot="random")
    assert method.stages(5, LLAVA)[0].reads == ()
    assert method.reduce(view(), 5).describe(0) == method.reduce(view(), 5).describe(0)
    assert method.reduce(view(), 1).describe(0) != method.reduce(view(), 1).describe(1)


def test_catp_covers_the_picture_and_leans_to_the_text():
    seen = view()
    unit = torch.nn.functional.normalize(seen.tokens[0].double(), dim=-1)
    text = torch.nn.functional.normalize(seen["text_embeddings"][0].double().mean(0), dim=-1)
    likeness, bonus = (1 + unit @ unit.T) / 2, 0.7 * (1 + unit @ text) / 2
    want = []
    while len(want) < 9:
        rest = [i for i in range(36) if i not in want]
        want.append(max(rest, key=lambda i: float(likeness[:, [*want, i]].amax(1).sum() + bonus[[*want, i]].sum())))
    assert catp(seen, 9).describe(0) == sorted(want)


# ---------------------------------------------------------------------------------------------------------------- crops


def crops(parts, n=36, rows=2):
    """A view of a picture in crops, with attention of two layers."""
    total = (parts + 1) * n
    signals = {f"class_attention@{layer}": draw(rows, 4, total, seed=9 + layer).softmax(-1) for layer in (-2, 0)}
    image = torch.arange(parts + 1).repeat_interleave(n).expand(rows, -1)
    return View(draw(rows, total, 3), (6, 6), "projector", signals=signals, image=image)


@pytest.mark.parametrize("parts", [1, 2, 4, 6])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_crops_share_a_count_and_lose_no_more_than_rounding(parts, share):
    seen = crops(parts)
    n = seen.tokens.shape[1]
    keep = int(n * share)
    reduction = HiRED().reduce(seen, keep)
    assert reduction.is_selection
    for image in range(2):
        kept = reduction.describe(image)
        assert kept == sorted(set(kept))
        whole = sum(place < 36 for place in kept)
        assert whole == min(keep // 2, 36)
        counts = np.bincount(np.asarray(kept) // 36, minlength=parts + 1)
        assert len(kept) <= keep
        assert len(kept) > keep - parts or counts[1:].max() == 36


def test_the_full_count_keeps_every_crop_whole():
    seen = crops(2)
    assert HiRED().reduce(seen, 108).describe(0) == list(range(108))


def test_salient_runs_of_the_whole_picture_get_more():
    salience = torch.zeros(1, 36)
    salience[0, :9], salience[0, 9:12], salience[0, 30:36] = 3.0, 2.0, 1.0
    # 18 marks: 9 in the first quarter, 3 in the second, 6 in the last.
    whole, parts = allocate(salience, [36] * 4, 72, 0.5)
    assert (whole, parts.tolist()) == (36, [[18, 6, 0, 12]])
    whole, parts = allocate(salience, [36] * 4, 71, 0.5)
    assert (whole, parts.tolist()) == (35, [[18, 6, 0, 12]])


def test_only_models_with_crops_are_asked_for_a_joint_view():
    assert not HiRED().stages(64, LLAVA)[0].joint
    in_crops = ModelShape("crops", 576, (24, 24), 24, 32, True, crops=True)
    (stage,) = HiRED().stages(64, in_crops)
    assert stage.joint
    assert "class_attention@0" in stage.reads


# -------------------------------------------------------------------------------------------------------------- mergers


@pytest.mark.parametrize(("keep", "contextual"), [(64, 10), (128, 20), (192, 30), (640, 100), (3, 0), (1, 0)])
def test_the_merged_share_gives_the_authors_splits(keep, contextual):
    reduction = VisionZip().reduce(with_class_token(view(n=676, rows=1)), keep)
    members = torch.bincount(reduction.row, minlength=keep)
    assert int(reduction.counts) == keep
    assert reduction.anchor[0, 0] == 676
    patches = reduction.anchor[0, 1 : keep - contextual].tolist()
    assert patches == sorted(patches)
    assert members[: keep - contextual].eq(1).all()
    assert members.sum() == (677 if contextual else keep)


def with_class_token(seen):
    return View(
        torch.cat([seen.tokens, seen.tokens.mean(1, keepdim=True)], 1), seen.grid, "projector", signals=seen.signals,
        class_index=seen.tokens.shape[1],
    )  # fmt: skip


@pytest.mark.parametrize("n", [16, 49])
@pytest.mark.parametrize("keep", [1, 2, 9, 16])
def test_prumerge_adds_weighted_neighbours_and_gathers_the_rest(n, keep):
    seen = view(n=n)
    reduction = PruMerge().reduce(seen, keep)
    attention, keys = one_head(seen)
    out = reduction.apply(seen.tokens)
    for image in range(2):
        a, x = attention[image], seen.tokens[image]
        centres = a.argsort(descending=True)[: keep - 1].tolist()
        alike = torch.cosine_similarity(keys[image][:, None], keys[image][None], dim=-1).fill_diagonal_(-2)
        want = []
        for centre in centres:
            near = alike[centre].topk(min(32, n - 1)).indices
            want.append(x[centre] + (a[near, None] * x[near]).sum(0))
        rest = [i for i in range(n) if i not in centres]
        want.append((a[rest, None] * x[rest]).sum(0))
        assert torch.allclose(out[image], torch.stack(want), atol=1e-5)
        assert reduction.anchor[image, : keep - 1].tolist() == centres


@pytest.mark.parametrize("method", [PruMerge, PruMergePlus])
def test_the_adaptive_count_varies_by_picture_and_stays_within_the_budget(method):
    seen = view(n=144, rows=4)
    free = method(adaptive=True).reduce(seen, 200).counts
    assert len(set(free.tolist())) > 1
    assert method(adaptive=True).reduce(seen, 10).counts.max() <= 10
    single = method(adaptive=True).reduce(view(n=144, rows=4), 40)
    assert single.valid.sum(1).tolist() == single.counts.tolist()
    assert torch.isfinite(single.apply(seen.tokens)).all()


@pytest.mark.parametrize("keep", [1, 2, 5, 40, 100, 143, 144])
def test_prumerge_plus_spends_any_count(keep):
    reduction = PruMergePlus().reduce(view(n=144), keep)
    assert reduction.counts.tolist() == [keep, keep]
    centres = reduction.anchor[:, :-1]
    assert all(len(set(row.tolist())) == keep - 1 for row in centres)


def test_prumerge_plus_keeps_what_the_authors_rule_keeps_wherever_their_count_is_asked_for():
    seen = view(n=144, rows=1)
    attention, keys = one_head(seen)
    rank = attention.argsort(descending=True).argsort(-1)
    largest = {}
    for number in range(1, 49):
        spacing = spacing_of(number / 144)
        theirs = merge(attention, keys, rank, torch.tensor([number]), torch.tensor([spacing]))
        best = attention[0].argsort(descending=True)[:number].tolist()
        grid = [i for i in range(0, 143, spacing) if i not in best]
        assert theirs.anchor[0, :-1].tolist() == best + grid
        largest[int(theirs.counts)] = theirs  # of shares that make the same count, the largest
    for keep, theirs in largest.items():
        ours = PruMergePlus().reduce(seen, keep)
        assert set(ours.anchor[0, :-1].tolist()) == set(theirs.anchor[0, :-1].tolist())


@pytest.mark.parametrize(("grid", "sizes"), [
    ((24, 24), [1, 9, 36, 144, 576]), ((16, 16), [1, 4, 16, 64, 256]), ((4, 8), [1, 2, 8, 32]), ((27, 27), [1, 729]),
])  # fmt: skip
def test_nested_grids_halve(grid, sizes):
    full = grid[0] * grid[1]
    found = {height * width for height, width in (nested_grid(grid, keep) for keep in range(full + 1))}
    assert sorted(found) == sizes


def test_nested_pooling_is_average_pooling():
    tokens = draw(2, 48, 5)
    seen = View(tokens, (6, 8), "projector")
    pooled = torch.nn.functional.avg_pool2d(tokens.mT.reshape(2, 5, 6, 8), 2).flatten(2).mT
    assert torch.allclose(M3().reduce(seen, 15).apply(tokens), pooled, atol=1e-6)


def test_duet_makes_the_authors_counts():
    stages = DuetVLM().stages(307, LLAVA)
    assert [(s.place, s.layer, s.keep) for s in stages] == [
        ("projector", None, 307), ("decoder", 16, 153), ("decoder", 24, 0),
    ]  # fmt: skip
    members = torch.bincount(DuetVLM().reduce(with_class_token(view(n=576, rows=1)), 307).row)
    assert members[:300].eq(1).all()
    assert members[300:].sum() == 4 * 7


def test_duet_cuts_twice_in_any_model_of_three_layers_or_more():
    for depth in range(3, 80):
        shape = ModelShape("llava", 16, (4, 4), 5, depth, True)
        _, first, second = DuetVLM().stages(9, shape)
        assert 0 < first.layer < second.layer < depth


@pytest.mark.parametrize(("name", "parameters"), [
    ("visionzip", {"contextual": 1.0}), ("hiprune", {"alpha": 2}), ("hiprune", {"object_layer": 0}),
    ("vispruner", {"important": -0.1}), ("hired", {"alpha": "half"}), ("todre", {"pivot": "first"}),
    ("duet_vlm", {"width": 0}), ("duet_vlm", {"shares": (0.2, 0.5)}), ("duet_vlm", {"layers": (16,)}),
    ("duet_vlm", {"layers": (24, 16)}), ("duet_vlm", {"shares": 0.5}), ("duet_vlm", {"contextual": -1}),
])  # fmt: skip
def test_a_setting_that_makes_no_sense_is_refused_by_name(name, parameters):
    with pytest.raises(UserError, match=name):
        registry("methods").get(name).build(parameters)


def test_the_oracle_may_leave_its_tokens_at_their_places():
    entry, evidence = registry("methods").get("oracle"), draw(2, 36).relu()
    seen = View(draw(2, 36, 8), (6, 6), "projector", signals={"evidence": evidence}, shape=LLAVA)
    closed, left = (entry.build({"keep_positions": keeps}).reduce(seen, 5) for keeps in (False, True))
    assert torch.equal(closed.anchor, left.anchor)
    assert (closed.position, left.position) == ("renumber", "keep")
