"""What the training loop asks of a tokenizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn


class Learner(nn.Module, ABC):
    """A network with all that its training remembers from step to step, in parameters and buffers."""

    size: ClassVar[int]
    """Tiles of a step."""
    side: ClassVar[int]
    """Of a tile in pixels."""

    @abstractmethod
    def loss(self, tiles: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Of tiles [n, 3, side, side] in [-1, 1]: what the step goes down on, and figures for the log."""

    @abstractmethod
    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Of everything that learns by gradients; their rates are the highest of the plan."""
