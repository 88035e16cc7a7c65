"""Clustering of single images: which members give a cluster its place, and how rotary channels are shared."""

import pytest
import torch
from toksweep.harness.contracts import Reduction, View
from toksweep.methods.compressors.ppe import held_places, ppe, sectioned_turns


def view(n, rows=2, dim=6):
    tokens = torch.rand(rows, n, dim, generator=torch.Generator().manual_seed(0))
    return View(
        tokens, (1, n), "projector", generators=tuple(torch.Generator().manual_seed(seed) for seed in range(rows))
    )


@pytest.mark.parametrize("keep", [1, 2, 4, 5, 19, 20])
def test_every_token_counts_once_in_clusters_that_stand_at_their_last_member(keep):
    reduction = ppe(view(20), keep)
    assert reduction.counts.tolist() == [keep, keep]
    for row in range(2):
        members = reduction.describe(row)
        members = [[m] for m in members] if keep == 20 else members
        assert sorted(m for group in members for m in group) == list(range(20))
        assert reduction.anchor[row].tolist() == [group[-1] for group in members]


def test_a_cluster_of_few_members_goes_round_them():
    merged = Reduction.merge(torch.tensor([[0, 0, 1, 0, 0, 1]]))
    assert held_places(merged, 3)[0].tolist() == [[4, 3, 1], [5, 2, 5]]
    assert held_places(merged, 6)[0].tolist() == [[4, 3, 1, 0, 4, 3], [5, 2, 5, 2, 5, 2]]


def test_kept_places_serve_any_merge():
    merged = Reduction.merge(torch.tensor([[1, -1, 0, 1], [0, 0, 0, 0]]), torch.rand(2, 4) + 0.1)
    assert held_places(merged, 2)[0].tolist() == [[2, 2], [3, 0]]
    assert held_places(merged, 2)[1, 0].tolist() == [3, 2]


def test_channels_turn_by_the_position_of_their_section():
    cos, sin = sectioned_turns(torch.tensor([[3, 0], [7, 1], [5, 2]]), (1, 2, 1), 100.0)
    frequency = torch.tensor([100 ** (-i / 4) for i in range(4)])
    angles = torch.tensor([[3.0, 7, 7, 5], [0, 1, 1, 2]]) * frequency
    assert torch.allclose(cos, angles.cos().repeat(1, 2))
    assert torch.allclose(sin, angles.sin().repeat(1, 2))
