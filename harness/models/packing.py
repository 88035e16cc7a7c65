"""What families share whose towers join several patches into one visual token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def bypassed(module: nn.Module, instead: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Call `instead` in the place of a module that is the last of a vision pass, while the context lasts.

    A model's own features function then returns what goes into its projector, in the order in which rows come out.
    """
    before = module.__dict__.get("forward")  # of another library that stands around the module, as accelerate does
    module.forward = instead
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def unit_means(rows: torch.Tensor, patches: int) -> torch.Tensor:
    """[..., tokens * patches], the patches of a token side by side, to their means [..., tokens]."""
    return rows.view(*rows.shape[:-1], -1, patches).mean(-1)
