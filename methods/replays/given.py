"""A view whose random draws are those of a reference case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from ...harness.contracts import View


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
