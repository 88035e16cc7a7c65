"""Where a clip is cut in time: windows of frames that stand still, are alike, or belong to one cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby, pairwise
from math import ceil

import torch

from .clustering import dpc_knn

Group = tuple[slice, torch.Tensor]
"""Frames, and the places in them: tokens that are averaged over the frames and merged or chosen among each other."""


def parted(windows: Iterable[tuple[slice, torch.Tensor]]) -> list[Group]:
    """The groups of a clip: per window its static places, then the others of each of its frames.

    Args:
        windows: the frames of each, and [n] whether a place is static in them; in a window of one frame none is.
    """
    found: list[Group] = []
    for window, still in windows:
        static = still & (window.stop - window.start > 1)
        others = (~static).nonzero()[:, 0]
        found.append((window, static.nonzero()[:, 0]))
        found += [(slice(frame, frame + 1), others) for frame in range(window.start, window.stop)]
    return found


def left_in(group: Group, share: float) -> int:
    """How many tokens a share of a group is, as HoliTom rounds it: up of the others of a frame, to the nearest of
    static ones."""
    window, places = group
    return (round if window.stop - window.start > 1 else ceil)(len(places) * share)


def left_in_all(groups: Sequence[Group], share: float) -> int:
    """How many tokens a share of every group is."""
    return sum(left_in(group, share) for group in groups)


def stands_still(clip: torch.Tensor, tau: float) -> torch.Tensor:
    """[frames, n, dim] to [frames - 1, n]: whether a place looks in the next frame as it does now."""
    return torch.nn.functional.cosine_similarity(clip[:-1], clip[1:], dim=-1) > tau


def find_windows(static: torch.Tensor) -> tuple[list[tuple[int, int]], int]:
    """The split of frames that saves most: windows (first and last frame), and static tokens saved.

    A window saves its static places once for each frame but one. Of equal splits the one of the shortest last windows.
    """
    frames = len(static) + 1
    saved: list[list[int]] = [
        [step * int(count) for step, count in enumerate(static[start:].cumprod(0).sum(1).tolist(), 1)]
        for start in range(frames - 1)
    ]
    best, first = [0] * (frames + 1), [0] * frames  # best[i]: of the frames before i
    for end in range(frames):
        best[end + 1], first[end] = best[end], end
        for start in range(end - 1, -1, -1):
            if (total := best[start] + saved[start][end - start - 1]) > best[end + 1]:
                best[end + 1], first[end] = total, start
    windows, end = [], frames - 1
    while end >= 0:
        windows.append((first[end], end))
        end = first[end] - 1
    return windows[::-1], best[-1]


def still_windows(clip: torch.Tensor, tau: float) -> list[Group]:
    """The groups of a clip [frames, n, dim], in the windows that save most static tokens (HoliTom)."""
    static = stands_still(clip, tau)
    windows, _ = find_windows(static)
    return parted((slice(first, last + 1), static[first:last].all(0)) for first, last in windows)


def alike_windows(clip: torch.Tensor, tau: float, windows: int, noise: torch.Tensor) -> list[Group]:
    """The groups of a clip [frames, n, dim], in windows of frames that are clustered by density peaks (PruneVid).

    A place is static where its mean cosine over pairs of the window's frames exceeds `tau`.
    """
    labels, _ = dpc_knn(clip.mean(1)[None], max(windows, 1), 7, noise[None])
    ends = list(accumulate(contiguous(labels[0].tolist()), initial=0))
    found = []
    for first, last in pairwise(ends):
        length, unit = last - first, torch.nn.functional.normalize(clip[first:last], dim=-1)
        pairs = unit.sum(0).square().sum(-1) - length  # the sum over frames i and j != i of their cosine
        found.append((slice(first, last), pairs > tau * length * (length - 1)))
    return parted(found)


def contiguous(labels: Sequence[int]) -> list[int]:
    """Lengths of windows: a cluster's longest runs of two frames or more stay, the others join the longer neighbour.

    They do so from left to right, to the left of equals, and runs of one cluster that meet by that are one.
    """
    runs = [[label, len(list(run))] for label, run in groupby(labels)]
    longest = {label: max(length for other, length in runs if other == label) for label, _ in runs}
    stays = [length > 1 and length == longest[label] for label, length in runs]
    while len(runs) > 1 and not all(stays):
        at = stays.index(False)
        left, right = runs[at - 1][1] if at else 0, runs[at + 1][1] if at + 1 < len(runs) else 0
        runs[at - 1 if left >= right else at + 1][1] += runs[at][1]
        del runs[at], stays[at]
        if 0 < at < len(runs) and runs[at - 1][0] == runs[at][0]:
            runs[at - 1][1] += runs[at][1]
            stays[at - 1] = stays[at - 1] or stays[at]
            del runs[at], stays[at]
    return [length for _, length in runs]


def segments(features: torch.Tensor, fewest: int, tau: float) -> list[int]:
    """Frames of every segment of [frames, dim]: cut at neighbours whose cosine is below tau, and at the lowest."""
    alike = torch.nn.functional.cosine_similarity(features[:-1], features[1:], dim=-1)
    cuts = alike < tau
    cuts[alike.sort(stable=True).indices[: fewest - 1]] = True
    ends = [*cuts.nonzero()[:, 0].tolist(), len(features) - 1]
    return [end - before for before, end in pairwise([-1, *ends])]
