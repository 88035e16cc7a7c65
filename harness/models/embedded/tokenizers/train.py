"""Trains the embedded tokenizers: `python -m toksweep.harness.models.embedded.tokenizers.train tok|vq --out DIR`.

One process, one thread, resumable: tiles of a step hang on the seed and the step's number only. Matrix products run in
bfloat16, which processors with AMX do ten times as fast as float32; norms, quantisers and losses stay in float32.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from . import grid, pool, sequence
from .learner import Learner

SEED = 20_261_127
POOL_SIZE, POOL_SEED = 48_000, 1
STEPS = {"tok": 4200, "vq": 3000}
LEARNERS: dict[str, type[Learner]] = {"tok": sequence.Sequence, "vq": grid.Grid}


def tiles_of(pictures: pool.Pixels, step: int, size: int, side: int) -> torch.Tensor:
    """[size, 3, side, side] in [-1, 1]: cut anywhere out of random pictures, a quarter of them mirrored."""
    rng = np.random.default_rng((SEED, step))
    span = pictures.shape[1] - side + 1
    cut = np.empty((size, side, side, 3), np.uint8)
    chosen = np.sort(rng.choice(len(pictures), size, replace=size > len(pictures)))
    for i, (index, top, left) in enumerate(zip(chosen, *rng.integers(span, size=(2, size)), strict=True)):
        tile = pictures[index, top : top + side, left : left + side]
        cut[i] = tile[:, ::-1] if rng.random() < 0.25 else tile
    return torch.from_numpy(cut).permute(0, 3, 1, 2).float() / 127.5 - 1


class Trainer:
    """A learner, running means of its weights, its optimisers and its place in the plan."""

    def __init__(self, kind: str, out: Path, pictures: pool.Pixels, steps: int, minutes: float = math.inf) -> None:
        torch.manual_seed(SEED)
        self.out, self.pictures, self.steps = out, pictures, steps
        self.deadline = time.monotonic() + 60 * minutes
        self.learner = LEARNERS[kind]()
        self.optimisers = self.learner.optimisers()
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimisers]
        self.mean = {name: value.clone() for name, value in self.learner.state_dict().items()}
        self.step, self.seconds = 0, 0.0

    def run(self) -> bool:
        """Go on to the last step; False when the time is up before."""
        saved = shown = time.monotonic()
        totals: dict[str, list[float]] = {}
        while self.step < self.steps:
            rate = min(1.0, (self.step + 1) / 50, 1.25 * (1 - self.step / self.steps) + 0.005)
            for optimiser, bases in zip(self.optimisers, self.rates, strict=True):
                for group, base in zip(optimiser.param_groups, bases, strict=True):
                    group["lr"] = base * rate
            tiles = tiles_of(self.pictures, self.step, self.learner.size, self.learner.side)
            loss, figures = self.learner.loss(tiles, self.step)
            torch.autograd.backward(loss)
            learned = [p for o in self.optimisers for g in o.param_groups for p in g["params"]]
            figures["norm"] = float(torch.nn.utils.clip_grad_norm_(learned, 1.0))
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            self.step += 1
            keep = min(0.998, self.step / (self.step + 9))
            for name, value in self.learner.state_dict().items():
                self.mean[name].lerp_(value, 1 - keep)
            for name, value in figures.items():
                totals.setdefault(name, []).append(value)
            now = time.monotonic()
            if now - shown > 20 or self.step == self.steps:
                self.seconds += now - shown
                self.note({name: float(f"{sum(v) / len(v):.5g}") for name, v in totals.items()})
                totals, shown = {}, now
            if now - saved > 120:
                self.save()
                saved = now
            if now > self.deadline:
                break
        self.save()
        return self.step >= self.steps

    def note(self, figures: dict[str, float]) -> None:
        """One line of the log."""
        line = json.dumps({"step": self.step, "of": self.steps, "seconds": round(self.seconds), **figures})
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "learner": self.learner.state_dict(), "mean": self.mean, "step": self.step, "seconds": self.seconds,
            "optimisers": [o.state_dict() for o in self.optimisers],
        }  # fmt: skip
        part = self.out / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.out / "checkpoint.pt")

    def resume(self) -> None:
        """Go back to the checkpoint, if there is one."""
        path = self.out / "checkpoint.pt"
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.learner.load_state_dict(state["learner"])
        self.mean, self.step, self.seconds = state["mean"], state["step"], state["seconds"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def main() -> None:
    """Train from where the output folder stands, until the plan or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(LEARNERS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pool", type=Path, help="file of training pictures, drawn first where it is missing")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=math.inf)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.pool or given.out / "pool.npy"
    if not file.is_file():
        pool.write(file, POOL_SIZE, POOL_SEED)
    steps = given.steps or STEPS[given.kind]
    trainer = Trainer(given.kind, given.out, np.load(file, mmap_mode="r"), steps, given.minutes)
    trainer.resume()
    trainer.run()


if __name__ == "__main__":
    main()
