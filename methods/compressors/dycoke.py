"""DyCoke: of every four frames keep one whole, and of the others what has changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Refusal, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..frames import clips_of


@compressor(
    "dycoke",
    places=("projector",),
    frames=True,
    clips=True,
    keeps_order=False,
    paper="arXiv 2411.15024",
    repository="KD-TAO/DyCoke",
    verified="selection",
)
@dataclass(frozen=True)
class DyCoke:
    """Drop the tokens of a frame that are most like those at the same place of an earlier frame.

    Paper: DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models, arXiv 2411.15024; authors'
    repository KD-TAO/DyCoke. `view.tokens` [samples, frames * n, dim] are all frames of a clip. Every second frame is
    held against the one before it, and the third of every four against the first; those of the lowest cosine stay, in
    ascending order of it. Positions are renumbered. The authors' share of a pruned frame is 0.3, which of a long clip
    leaves close to 47.5%.

    As in the code the third of the last four frames stays whole; `complete=True` prunes it too. `keep` is the mean over
    the frames of each clip: pruned frames share what whole ones leave, the first of them one token more where it does
    not divide. A clip whose whole frames are more than that is refused, and so is a single picture below all of it.

    Departs from the code: the last frame of an odd clip is lost there, and fewer than five frames are an error. A frame
    that keeps all tokens keeps their order. The second stage, which hides tokens of the cache while decoding and frees
    no memory, is left out: it would need a choice at every new token.
    """

    complete: bool = False

    def __post_init__(self) -> None:
        parameters.truth(self, "complete")

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", max(keep, -(-shape.tokens // 4)), joint=True),)

    def reduce(self, view: View, keep: int) -> Reduction:
        unit = torch.nn.functional.normalize(clips_of(view), dim=-1)
        size, frames, n, _ = unit.shape
        total = frames * n
        earlier = references(frames, complete=self.complete)
        left = keep - n * earlier.count(None)
        if left < 0:
            raise Refusal(
                f"dycoke keeps {earlier.count(None)} of the {frames} pictures of a sample whole, and {keep} of "
                f"{total} tokens are fewer: give it longer clips or a larger budget"
            )
        share, more = divmod(left, max(frames - earlier.count(None), 1))
        picks, pruned = [], 0
        for frame, other in enumerate(earlier):
            order = torch.arange(n, device=unit.device).expand(size, n)
            if other is not None:
                count, pruned = share + (pruned < more), pruned + 1
                if count < n:
                    order = (unit[:, frame] * unit[:, other]).sum(-1).sort(dim=-1, stable=True).indices[:, :count]
            picks.append(order + frame * n)
        return Reduction.keep(torch.cat(picks, 1), total, position="renumber")


def references(frames: int, *, complete: bool) -> list[int | None]:
    """The earlier frame that each one is held against; None for a frame that stays whole."""
    third = [frame - 2 if complete or frame + 2 < frames else None for frame in range(frames)]
    return [(None, frame - 1, third[frame], frame - 1)[frame % 4] for frame in range(frames)]
