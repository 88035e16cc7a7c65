"""Where the evidence of an answer lies among the visual tokens, and how much of it a compressor leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ..contracts import Region, Survival


def footprint(
    regions: Iterable[Region], image: int, under: tuple[float, float, float, float], grid: tuple[int, int]
) -> torch.Tensor:
    """How much of every patch the regions of one picture cover, [rows * columns], 1 for a whole patch.

    Regions that overlap count twice, up to a whole patch; what lies beside the grid does not count.

    Args:
        image: number of the picture in its sample.
        under: the box of the picture, in its pixels, that lies under the grid.
    """
    rows, columns = grid
    left, top, right, bottom = under
    wide, high = (right - left) / columns, (bottom - top) / rows
    area = torch.zeros(rows, columns)
    for region in regions:
        if region.image == image:
            x0, y0, x1, y1 = region.box
            across = _covered((x0 - left) / wide, (x1 - left) / wide, columns)
            down = _covered((y0 - top) / high, (y1 - top) / high, rows)
            area += down[:, None] * across[None]
    return area.clamp(max=1).flatten()


def _covered(start: float, end: float, cells: int) -> torch.Tensor:
    """The share of each of `cells` unit cells that the interval from `start` to `end` covers."""
    edges = torch.arange(cells, dtype=torch.float32)
    return (torch.clamp(edges + 1, max=end) - torch.clamp(edges, min=start)).clamp(min=0)


def resampled(grid: tuple[int, int], full: tuple[int, int]) -> torch.Tensor:
    """What each cell of a picture's smaller grid is the mean of, [cells, patches of the full grid]; rows sum to one."""
    return torch.kron(_shares(grid[0], full[0]), _shares(grid[1], full[1]))


def _shares(cells: int, full: int) -> torch.Tensor:
    wide = full / cells
    return torch.stack([_covered(i * wide, (i + 1) * wide, full) for i in range(cells)]) / wide


def survivals(areas: Sequence[torch.Tensor], left: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[Survival, ...]:
    """One entry for each patch, of all pictures of a sample, that holds evidence.

    Args:
        areas: per picture [patches], from `footprint`.
        left: per picture, weights [patches] at the LLM's door and in its last layer, from `Calls.left`.
    """
    found = []
    for area, (entering, last) in zip(areas, left, strict=True):
        for patch in area.nonzero()[:, 0].tolist():
            found.append(
                Survival(round(float(area[patch]), 4), round(float(entering[patch]), 4), round(float(last[patch]), 4))
            )
    return tuple(found)
