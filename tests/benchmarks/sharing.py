"""What one more cell costs: four selectors that share one vision pass, against the same four with a pass each.

Usage: python tests/benchmarks/sharing.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from toksweep.harness.contracts import Budget, Compressor, Sample
from toksweep.harness.cost.latency import Timing, probe
from toksweep.harness.models import open_model
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import tiny

METHODS = ("random", "uniform", "divprune", "fastv")


def measure(rounds: int) -> dict[str, Timing]:
    """Time one cell, four cells sharing, and four cells alone, on a model whose vision tower is the larger part."""
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(str(tiny.save_llava(Path(folder) / "model", grid=16, vision_layers=16, llm_layers=4)))
    batch = model.prepare([Sample("a", "a", (), "f", question="what colour is the ball?")], [[tiny.picture(0)]])
    cells = []
    for name in METHODS:
        entry = registry("methods").get(name)
        method = entry.build()
        assert isinstance(method, Compressor)
        cells.append((method, resolve(method, Budget.parse("50%"), "mean", model.shape, merges=False)))
    reads = frozenset(read for _, schedule in cells for stage in schedule.stages for read in stage.reads)

    def shared(count: int) -> None:
        encoded = model.encode(batch, reads)
        for method, schedule in cells[:count]:
            model.answer(batch, encoded, method, schedule, seed=0, max_new_tokens=1)

    def alone() -> None:
        for method, schedule in cells:
            model.answer(batch, None, method, schedule, seed=0, max_new_tokens=1)

    cases = {"one cell": lambda: shared(1), "four cells, shared": lambda: shared(4), "four cells, alone": alone}
    return probe(cases, "one cell", rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds of all cases in turn")
    parser.add_argument("--json", action="store_true", help="one JSON object by case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.rounds)
    if options.json:
        print(json.dumps({name: asdict(timing) for name, timing in found.items()}, indent=2))
        return
    print(f"{'case':<24}{'median ms':>12}{'quartiles ms':>18}{'ratio':>8}")
    for name, t in found.items():
        print(f"{name:<24}{t.median_ms:>12.0f}{f'{t.q1_ms:.0f} to {t.q3_ms:.0f}':>18}{t.ratio:>8.2f}")


if __name__ == "__main__":
    main()
