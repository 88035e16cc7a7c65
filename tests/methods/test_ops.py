"""Shared operations against computations written out in another way."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from toksweep.harness.contracts import Reduction
from toksweep.methods.clustering import dpc_knn
from toksweep.methods.ops import best, fit_grid, spread_out, top
from toksweep.methods.pairs import merge_schedule, pair_alike
from views import picked


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float() - 0.5


def test_top_keeps_the_highest_in_ascending_order_of_place():
    assert top(torch.tensor([[3.0, 1.0, 5.0, 4.0]]), 2).tolist() == [[2, 3]]


def test_the_first_of_equals_wins():
    assert top(torch.zeros(1, 500), 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("equals", [False, True])
def test_every_row_may_have_a_count_of_its_own(equals):
    scores = draw(4, 9).mul(4).round() if equals else draw(4, 9)
    for counts in ([0, 3, 9, 1], [5, 5, 5, 5], [0, 0, 0, 0]):
        marks = best(scores, torch.tensor(counts)[:, None])
        for row, mark, count in zip(scores.tolist(), marks, counts, strict=True):
            expected = sorted(sorted(range(9), key=lambda i, row=row: (-row[i], i))[:count])
            assert mark.nonzero()[:, 0].tolist() == expected
            assert torch.equal(best(torch.tensor([row]), count)[0], mark)


@pytest.mark.parametrize("keep", [1, 5, 12])
def test_spreading_out_is_the_greedy_max_min_choice(keep):
    points = draw(2, 12, 6)
    for row, picks in zip(points.double().numpy(), picked(spread_out(points), keep), strict=True):
        unit = row / np.linalg.norm(row, axis=1, keepdims=True)
        distance = 1 - unit @ unit.T
        lonely = [np.delete(distance[i], i).min() for i in range(12)]
        want = [int(np.argmax(lonely))]
        while len(want) < keep:
            rest = [i for i in range(12) if i not in want]
            want.append(max(rest, key=lambda i: distance[i, want].min()))
        assert picks == want


def test_duplicates_are_not_picked_twice():
    points = torch.ones(1, 6, 3)
    assert sorted(picked(spread_out(points), 6)[0]) == list(range(6))


def test_one_point_is_picked_once():
    assert picked(spread_out(torch.ones(2, 1, 3)), 2) == [[0], [0]]


def pairs(metric, merges, protected):
    """Partition by the definition: the closest even-odd pairs, each even token merging at most once."""
    n = len(metric)
    unit = metric / np.linalg.norm(metric, axis=1, keepdims=True)
    best = []
    for a in range(0, n, 2):
        if a < protected:
            continue
        odd = [b for b in range(1, n, 2) if b >= protected]
        b = max(odd, key=lambda j: unit[a] @ unit[j])
        best.append((-(unit[a] @ unit[b]), a, b))
    into = {a: b for _, a, b in sorted(best)[:merges]}
    return {frozenset([b, *(a for a, t in into.items() if t == b)]) for b in range(n) if b not in into}


@pytest.mark.parametrize("protected", [0, 1, 2])
@pytest.mark.parametrize(("n", "merges"), [(9, 2), (10, 3), (17, 8), (12, 0)])
def test_pairing_merges_the_closest_pairs(n, merges, protected):
    metric = draw(3, n, 5, seed=n)
    groups, anchor = pair_alike(metric, merges, protected)
    done = min(merges, (n - protected) // 2)
    for row in range(3):
        members = [frozenset((groups[row] == g).nonzero()[:, 0].tolist()) for g in range(n - done)]
        assert set(members) == pairs(metric[row].double().numpy(), done, protected)
        assert all(int(anchor[row, g]) in members[g] for g in range(n - done))


def test_protected_tokens_come_first_and_alone():
    groups, _ = pair_alike(torch.ones(1, 12, 3), 5, 2)
    assert groups[0, :2].tolist() == [0, 1]
    assert (groups[0, 2:] > 1).all()


def test_more_merges_than_half_are_clamped():
    assert pair_alike(draw(1, 9, 4), 100, 1)[1].shape == (1, 5)


def test_merged_tokens_are_means_weighted_by_size():
    tokens, sizes = draw(1, 6, 4), torch.tensor([[1.0, 2.0, 3.0, 1.0, 1.0, 4.0]])
    groups, anchor = pair_alike(draw(1, 6, 4, seed=1), 2)
    reduction = Reduction.merge(groups, sizes, anchor=anchor)
    for row in range(4):
        mine = groups[0] == row
        want = (tokens[0, mine] * sizes[0, mine, None]).sum(0) / sizes[0, mine].sum()
        assert torch.allclose(reduction.apply(tokens)[0, row], want)
    assert reduction.sizes(sizes).sum() == 12


def peaks(points, clusters, neighbours, noise):
    """Density peaks by the definition, point by point."""
    n = len(points)
    distance = np.array([[np.linalg.norm(a - b) for b in points] for a in points]) / points.shape[1] ** 0.5
    density = [np.exp(-np.mean(np.sort(distance[i])[:neighbours] ** 2)) + 1e-6 * noise[i] for i in range(n)]
    lonely = [
        min((distance[i, j] for j in range(n) if density[j] > density[i]), default=distance.max()) for i in range(n)
    ]
    centres = sorted(range(n), key=lambda i: -lonely[i] * density[i])[:clusters]
    return [
        centres.index(i) if i in centres else int(np.argmin([distance[i, c] for c in centres])) for i in range(n)
    ], centres


@pytest.mark.parametrize(("clusters", "neighbours"), [(1, 1), (4, 5), (9, 2), (14, 14), (4, 40)])
def test_density_peaks_are_dense_points_far_from_denser_ones(clusters, neighbours):
    points, noise = draw(3, 14, 6).double(), draw(3, 14, seed=1).double() + 0.5
    groups, centres = dpc_knn(points, clusters, neighbours, noise)
    for row in range(3):
        want = peaks(points[row].double().numpy(), clusters, neighbours, noise[row].numpy())
        assert (groups[row].tolist(), centres[row].tolist()) == want


def test_noise_decides_which_of_two_duplicates_is_a_centre():
    points = draw(1, 3, 4).repeat_interleave(2, 1)
    first, second = torch.tensor([[1.0, 0.0] * 3]), torch.tensor([[0.0, 1.0] * 3])
    assert sorted(dpc_knn(points, 3, 2, first)[1][0].tolist()) == [0, 2, 4]
    assert sorted(dpc_knn(points, 3, 2, second)[1][0].tolist()) == [1, 3, 5]


def test_as_many_centres_as_points_leave_every_point_alone():
    points = draw(1, 8, 4)[:, [0, 0, 0, 1, 2, 3, 4, 5]]
    assert sorted(dpc_knn(points, 8, 3, draw(1, 8) + 0.5)[0][0].tolist()) == list(range(8))


def test_points_far_from_the_origin_cluster_like_near_ones():
    points, noise = draw(1, 40, 8), draw(1, 40, seed=1) + 0.5
    near, far = (dpc_knn(p, 6, 5, noise)[0] for p in (points, points + 100))
    assert torch.equal(near, far)


@pytest.mark.parametrize(("arguments", "want"), [
    ((4, 8), [8, 8, 8, 8]), ((4, [5, 3]), [5, 3, 0, 0]), ((2, [5, 3, 1]), [5, 3]), ((3, 4, -1.0), [8, 4, 0]),
    ((3, 4, 0.5), [2, 4, 6]), ((1, 4, -1.0), [8]),
])  # fmt: skip
def test_schedules_are_constant_ramps_or_lists(arguments, want):
    assert merge_schedule(*arguments) == want


def test_grids_keep_their_shape_and_never_exceed_the_budget():
    assert [fit_grid((4, 4), k) for k in (16, 15, 9, 8, 4, 1, 0)] == [
        (4, 4), (3, 3), (3, 3), (2, 2), (2, 2), (1, 1), (1, 1),
    ]  # fmt: skip
    assert fit_grid((6, 12), 20) == (3, 6)
    areas = [h * w for h, w in (fit_grid((24, 24), k) for k in range(1, 577))]
    assert all(a <= b for a, b in pairwise(areas))
