"""Clustering of images and clips: members, places and order of clusters."""

import pytest
import torch
from toksweep.harness.contracts import UserError, View
from toksweep.harness.registry import registry
from toksweep.methods.clustering import by_first_member, elbow, k_medoids, start
from toksweep.methods.compressors.centerclip import CenterCLIP
from toksweep.methods.compressors.ppe import PPE
from toksweep.methods.compressors.vqtoken import VQToken


def view(n, rows=2, dim=6):
    tokens = torch.rand(rows, n, dim, generator=torch.Generator().manual_seed(0))
    return View(
        tokens, (1, n), "projector", generators=tuple(torch.Generator().manual_seed(seed) for seed in range(rows))
    )


@pytest.mark.parametrize("keep", [1, 2, 4, 5, 19, 20])
def test_every_token_counts_once_in_clusters(keep):
    reduction = PPE().reduce(view(20), keep)
    assert reduction.counts.tolist() == [keep, keep]
    for row in range(2):
        members = reduction.describe(row)
        members = [[m] for m in members] if keep == 20 else members
        assert sorted(m for group in members for m in group) == list(range(20))


def clip(frames=3, n=8, rows=2, dim=6, seed=0, **rest):
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, frames * n, dim, generator=draws)
    image = torch.arange(frames).repeat_interleave(n).expand(rows, -1)
    generators = tuple(torch.Generator().manual_seed(row) for row in range(rows))
    return View(tokens, (1, n), "projector", generators=generators, image=image, **rest)


@pytest.mark.parametrize("keep", [1, 3, 12, 24])
@pytest.mark.parametrize("adaptive", [False, True])
def test_quantised_tokens_are_means_of_clusters_in_the_order_of_frames(keep, adaptive):
    seen = clip()
    reduction = VQToken(adaptive=adaptive).reduce(seen, keep)
    for row in range(2):
        members = [m if isinstance(m, list) else [m] for m in reduction.describe(row)]
        assert 1 <= len(members) <= keep
        assert sorted(t for m in members for t in m) == list(range(24))
        anchors = reduction.anchor[row, : len(members)].tolist()
        assert anchors == sorted(m[0] for m in members)
        want = torch.stack([seen.tokens[row, m].mean(0) for m in members])
        assert torch.allclose(reduction.apply(seen.tokens)[row, : len(members)], want, atol=1e-6)


def test_normalised_codes_are_means_of_unit_vectors():
    seen = clip()
    reduction = VQToken(normalised=True).reduce(seen, 5)
    unit = torch.nn.functional.normalize(seen.tokens, dim=-1)
    for number, members in enumerate(reduction.describe(0)):
        assert torch.allclose(reduction.apply(seen.tokens)[0, number], unit[0, members].mean(0), atol=1e-6)


def test_three_kinds_of_tokens_are_three_clusters():
    kinds = torch.tensor([0, 1, 2] * 8)
    tokens = torch.eye(6)[kinds][None] + 0.01 * clip(rows=1).tokens
    seen = View(tokens, (1, 8), "projector", generators=(torch.Generator().manual_seed(0),))
    assert VQToken().reduce(seen, 3).describe(0) == [(kinds == k).nonzero()[:, 0].tolist() for k in range(3)]


def test_the_first_centre_is_any_point_and_the_next_a_far_one():
    points = torch.nn.functional.normalize(torch.tensor([[[1.0, 0.0], [1.0, 0.001], [0.0, 1.0]]]), dim=-1)
    assert start(points, torch.tensor([[0.0, 0.5]]))[0].tolist() == [0, 2]
    assert start(points, torch.tensor([[0.5, 0.5]]))[0].tolist() == [1, 2]
    assert start(points, torch.tensor([[0.999, 0.1]]))[0, 0] == 2


@pytest.mark.parametrize(("sums", "want"), [([9.0, 5.0, 2.0, 1.9, 1.8], 3), ([9.0, 1.0, 0.9], 2), ([3.0, 2.0], 1)])
def test_the_elbow_is_where_the_sums_bend_most(sums, want):
    assert elbow(sums) == want


@pytest.mark.parametrize(("labels", "want"), [
    ([2, 2, 0, 4, 0], [0, 0, 1, 2, 1]), ([-1, 4, -1, 0, 4], [-1, 0, -1, 1, 0]), ([-1, -1, -1, -1, -1], [-1] * 5),
])  # fmt: skip
def test_clusters_are_numbered_by_their_first_members(labels, want):
    assert by_first_member(torch.tensor([labels]))[0].tolist() == want


def medoids_by_the_definition(points, clusters):
    """K-medoids point by point, from a KKZ start."""
    n = len(points)
    distance = (points[:, None] - points[None]).norm(dim=-1)
    chosen = [int(points.norm(dim=-1).argmax())]
    while len(chosen) < clusters:
        rest = [i for i in range(n) if i not in chosen]
        chosen.append(max(rest, key=lambda i: distance[i, chosen].min()))
    for _ in range(100):
        own = [chosen.index(i) if i in chosen else int(distance[i, chosen].argmin()) for i in range(n)]
        members = [[i for i in range(n) if own[i] == k] for k in range(clusters)]
        moved = [min(m, key=lambda i, m=m: distance[i, m].sum()) for m in members]
        if moved == chosen:
            break
        chosen = moved
    return sorted(chosen)


@pytest.mark.parametrize("clusters", [1, 3, 5])
def test_medoids_are_the_members_with_the_smallest_summed_distance(clusters):
    points = clip(n=10).tokens
    medoids, assigned = k_medoids(points, clusters)
    for row in range(2):
        assert medoids[row].tolist() == medoids_by_the_definition(points[row], clusters)
        nearest = (points[row, :, None] - points[row, medoids[row]]).norm(dim=-1).argmin(-1)
        assert assigned[row].tolist() == nearest.tolist()


def test_duplicates_are_medoids_of_their_own_where_all_are_kept():
    points = clip(rows=1).tokens[:, [0, 1, 1, 1, 2, 2]]
    assert k_medoids(points, 6)[0][0].tolist() == list(range(6))


@pytest.mark.parametrize(("frames", "keep", "want"), [
    (2, 10, [5, 5]), (3, 9, [6, 3]), (2, 3, [1, 2]), (1, 7, [1, 2, 2, 2]), (9, 5, [5]),
])  # fmt: skip
def test_segments_share_the_budget_of_a_clip(frames, keep, want):
    reduction = CenterCLIP(frames=frames).reduce(clip(frames=4), keep)
    for row in range(2):
        frame = torch.tensor(reduction.describe(row)) // 8
        assert (frame // frames).bincount(minlength=len(want)).tolist() == want


@pytest.mark.parametrize("parameters", [{}, {"cosine": True}, {"mean": True}, {"sigma": 2.0}])
def test_all_tokens_are_kept_at_the_full_budget(parameters):
    seen = clip()
    reduction = CenterCLIP(**parameters).reduce(seen, 24)
    assert torch.equal(reduction.apply(seen.tokens), seen.tokens)


def test_a_mean_stands_where_its_medoid_stood():
    seen = clip()
    means, medoids = CenterCLIP(mean=True).reduce(seen, 6), CenterCLIP().reduce(seen, 6)
    assert torch.equal(means.anchor, medoids.anchor)
    assert all(int(a) in m for a, m in zip(means.anchor[0], means.describe(0), strict=True))


@pytest.mark.parametrize("parameters", [{"frames": 0}, {"frames": 1.5}, {"sigma": 0}, {"sigma": "wide"}])
def test_a_setting_of_centerclip_that_makes_no_sense_is_refused(parameters):
    with pytest.raises(UserError, match=f"{next(iter(parameters))} must be"):
        registry("methods").get("centerclip").build(parameters)


@pytest.mark.parametrize("seed", range(4))
def test_rounding_does_not_choose_the_longest_of_unit_vectors(seed):
    points = torch.randn(1, 12, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unit = torch.nn.functional.normalize(points, dim=-1)
    medoids, _ = k_medoids(unit, 2, rounds=0)
    assert medoids.tolist() == [[0, int((unit[0] - unit[0, 0]).norm(dim=-1).argmax())]]
