"""What a sweep saves: eight methods at four budgets in one sweep, against thirty-two sweeps of one cell each.

Both must write the same records. Usage: python tests/benchmarks/sharing.py [--samples N] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from toksweep.harness.plan import make_plan
from toksweep.harness.runner import run
from toksweep.harness.spec import load_spec
from toksweep.results.store import ResultsFolder, read_lines

METHODS = ("random", "uniform", "divprune", "fastervlm", "visionzip", "hiprune", "vispruner", "prumerge")
BUDGETS = ("75%", "50%", "25%", "10%")
TASKS = {"synth_vqa": 1, "synth_video_qa": 4}
"""Tasks, and how many times fewer samples of each are asked."""


class Silent:
    """Progress that nobody watches."""

    def start(self, what: str, total: int) -> None: ...

    def advance(self, steps: int = 1) -> None: ...


def sweep(out: Path, model: str, task: str, samples: int, methods: tuple[str, ...], budgets: tuple[str, ...]) -> float:
    """Seconds of one sweep, its model's loading included."""
    flags = {
        "models": [model],
        "tasks": [task],
        "methods": list(methods),
        "budgets": list(budgets),
        "limit": samples,
        "seeds": [0],
    }
    spec = load_spec(None, flags | {"floors": False, "latency": False, "out": str(out)})
    start = time.perf_counter()
    folder = ResultsFolder(out)
    folder.prepare()
    tally = run(make_plan(spec), folder, Silent())
    if tally.failed or tally.bad_inputs:
        sys.exit(f"{tally.failed} failed, {tally.bad_inputs} bad inputs: nothing was measured")
    return time.perf_counter() - start


def records(out: Path) -> Iterator[tuple[str, str]]:
    """Every record of a folder, whoever wrote it."""
    for work in sorted((out / "samples").iterdir()):
        for record in read_lines(work):
            yield work.name, json.dumps(record, sort_keys=True)


def measure(model: str, task: str, samples: int) -> dict[str, object]:
    """One sweep of all cells, and a sweep for each of them."""
    with tempfile.TemporaryDirectory() as folder:
        once, each = Path(folder) / "once", Path(folder) / "each"
        sweep(Path(folder) / "warm", model, task, 1, METHODS[:1], BUDGETS[:1])
        together = sweep(once, model, task, samples, METHODS, BUDGETS)
        alone = sum(sweep(each, model, task, samples, (m,), (b,)) for m in METHODS for b in BUDGETS)
        # the untouched cell belongs to every sweep: the first one computes it for all
        same = sorted(records(once)) == sorted(records(each))
    return {
        "task": task, "samples": samples, "one sweep s": together, "single sweeps s": alone,
        "ratio": alone / together, "same records": same,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=16, help="questions about pictures; a quarter about clips")
    parser.add_argument("--model", default="toksweep-mini", help="a name, a folder or a hub id")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(options.model, task, max(1, options.samples // share)) for task, share in TASKS.items()]
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for row in found:
            print("  ".join(f"{k}: {v:.2f}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()))
    sys.exit(0 if all(row["same records"] for row in found) else 1)


if __name__ == "__main__":
    main()
