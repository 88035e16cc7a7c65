"""The optimiser: Muon for matrices, Adam for everything else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import overload

import torch


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are made orthogonal by a Newton-Schulz iteration; a kernel counts as a matrix.

    After Keller Jordan et al., 2024 (https://kellerjordan.github.io/posts/muon). `torch.optim.Muon` iterates one matrix
    at a time, and in bfloat16, which is several times slower than float32 on processors without such instructions.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        decay: float = 0.0,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "momentum": 0.95})
        self.dtype = dtype

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every matrix that has a gradient; matrices of one form together."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            forms = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    forms[p.shape].append(p)
            for matrices in forms.values():
                moved = []
                for p in matrices:
                    trace = self.state[p].setdefault("trace", torch.zeros_like(p))
                    trace.lerp_(p.grad, 1 - group["momentum"])
                    moved.append(p.grad.lerp(trace, group["momentum"]))
                flat = torch.stack(moved).flatten(2)
                updates = orthogonal(flat, self.dtype) * max(1.0, flat.shape[1] / flat.shape[2]) ** 0.5
                for p, update in zip(matrices, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"]).sub_(update.view_as(p), alpha=group["lr"])
        return loss


def orthogonal(x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[n, rows, columns] matrices to the nearest semi-orthogonal ones, roughly: singular values between 0.7 and 1.2."""
    tall = x.shape[1] > x.shape[2]
    x = x.float().transpose(1, 2) if tall else x.float()
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(5):
        square = x @ x.transpose(1, 2)
        x = 3.4445 * x + (2.0315 * (square @ square) - 4.7750 * square) @ x
    x = x.float()
    return x.transpose(1, 2) if tall else x
