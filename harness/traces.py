"""What a method leaves behind or reaches for beside its view: in the process, and in the model."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from .contracts import Compressor, Memo, ModelShape, Reduction, Stage, View
from .models.base import VisionLanguageModel
from .models.data import Batch
from .schedule import untouched


class Watched:
    """Passes calls on, and notes what the method does to the process meanwhile."""

    def __init__(self, method: Compressor) -> None:
        self._method = method
        self.seen: list[str] = []

    def stages(self, keep: int, shape: ModelShape) -> Sequence[Stage]:
        return self._method.stages(keep, shape)

    def reduce(self, view: View, keep: int) -> Reduction:
        self._method.reduce(replace(view, memo=Memo()), keep)  # late imports open files, once
        environment, streams = dict(os.environ), _streams()
        with _audited(self.seen):
            reduction = self._method.reduce(view, keep)
        if dict(os.environ) != environment:
            self.seen.append("environment variables")
        if not all(torch.equal(a, b) for a, b in zip(streams, _streams(), strict=True)):
            self.seen.append("a global random stream")
        return reduction


def _streams() -> tuple[torch.Tensor, torch.Tensor]:
    """The states of the global random streams of torch, numpy and Python."""
    others = [hash(str(np.random.get_state())), hash(random.getstate())]
    return torch.get_rng_state(), torch.tensor(others)


_EVENTS = {
    "open": "files", "os.remove": "files", "os.rename": "files", "os.mkdir": "files", "os.listdir": "files",
    "os.putenv": "environment variables", "os.unsetenv": "environment variables", "socket.connect": "the network",
    "subprocess.Popen": "other processes", "os.system": "other processes",
}  # fmt: skip
_notes: list[list[str]] = []
_hooked: list[bool] = []


@contextmanager
def _audited(seen: list[str]) -> Iterator[None]:
    """Note what the process does while the context lasts. Audit hooks stay for good, so there is one, mostly idle."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(lambda event, _: _notes[-1].append(_EVENTS[event]) if _notes and event in _EVENTS else None)
    _notes.append(seen)
    try:
        yield
    finally:
        _notes.pop()


@dataclass(frozen=True)
class State:
    """What a method could change for good: untouched logits, what hangs on modules, functions of torch."""

    logits: torch.Tensor
    marks: list[tuple[str, list[str], int, int]]
    functions: dict[str, object]


def state(model: VisionLanguageModel, batch: Batch) -> State:
    """Of a model, whose untouched logits are those of the batch."""
    logits = model.prefill(batch, None, None, untouched(model.shape), seed=0).logits
    modules = model.model.named_modules()
    marks = [(name, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules]
    places = {"torch": torch, "torch.nn.functional": torch.nn.functional, "torch.Tensor": torch.Tensor}
    functions = {f"{name}.{k}": v for name, place in places.items() for k, v in vars(place).items() if callable(v)}
    return State(logits, marks, functions)
