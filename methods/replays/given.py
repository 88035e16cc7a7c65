"""What replays are made of: a view whose random draws are those of a case, a method under the cuts of a case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch

from ...harness.contracts import Compressor, ModelShape, Reduction, Stage, View
from ...harness.registry import registry


@dataclass(frozen=True)
class Given(View):
    """A view of one image whose `noise` hands out `draws`, one after another, instead of drawing."""

    draws: Iterator[torch.Tensor] = field(default_factory=lambda: iter(()))

    def noise(self, *shape: int) -> torch.Tensor:
        """The next draws, [1, *shape].

        Raises:
            ValueError: they have another shape than asked for, or there are none left.
        """
        draw = next(self.draws, None)
        if draw is None or draw.shape != shape:
            raise ValueError(
                f"draws of shape {shape} were asked for, and the case has {None if draw is None else tuple(draw.shape)}"
            )
        return draw[None]


@dataclass(frozen=True)
class Fixed:
    """A registered method under the cuts of a reference case: what `wired` of a replay hands to the engine.

    Attributes:
        keep: what the method's stages are asked for.
        left: tokens behind its cuts in the LLM, where the case names them one by one.
    """

    method: Compressor
    keep: int
    left: tuple[int, ...] = ()

    @classmethod
    def of(cls, name: str, keep: int, left: Iterable[int] = (), **parameters: object) -> Fixed:
        """The method by its registered name."""
        method = registry("methods").get(name).build(parameters)
        assert isinstance(method, Compressor)
        return cls(method, keep, tuple(left))

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        cuts = tuple(self.method.stages(self.keep, shape))
        if not self.left:
            return cuts
        door = tuple(cut for cut in cuts if cut.place != "decoder")
        inside = (cut for cut in cuts if cut.place == "decoder")
        return (*door, *(replace(cut, keep=n) for cut, n in zip(inside, self.left, strict=True)))

    def reduce(self, view: View, keep: int) -> Reduction:
        return self.method.reduce(view, keep)
