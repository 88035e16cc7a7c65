"""A sweep from its plan to its records: what the command line calls."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any, Protocol

from .. import __version__
from ..results.store import ResultsFolder, new_writer_name, run_tables
from .borrowing import group_figures
from .digest import library_versions
from .plan import Plan
from .registry import ROOT
from .runner import Progress, run

RECORDED = (
    "numpy", "pillow", "torch", "torchvision", "transformers", "tokenizers", "scikit-image",
    "onnxruntime", "rapidocr", "dlib-bin", "face_recognition_models", "easyocr", "insightface", "lmms-eval",
)  # fmt: skip
"""Distributions whose versions a run records."""


class Stoppable(Progress, Protocol):
    """Progress with an end."""

    def stop(self) -> None: ...


def run_sweep(plan: Plan, *, command: str, progress: Stoppable) -> dict[str, int]:
    """Record the run, compute what is missing, and say how much there was to do.

    Raises:
        UserError: the folder cannot be used.
    """
    folder = ResultsFolder(plan.spec.out)
    folder.prepare()
    folder.add_run(describe_run(plan, command))
    try:
        return asdict(run(plan, folder, progress))
    finally:
        progress.stop()


def dry_run_rows(plan: Plan) -> list[dict[str, object]]:
    """A row per cell: what it will keep, and how many samples are still to do."""
    folder = ResultsFolder(plan.spec.out)
    rows: list[dict[str, object]] = []
    for group in plan.groups:
        for planned in group.cells:
            cell = planned.cell
            stored = folder.records(cell.work_id)
            done = sum(s.id in stored and stored[s.id].fingerprint == s.fingerprint for s in group.samples)
            rows.append(
                {
                    "task": cell.task,
                    "model": cell.model,
                    "method": cell.label,
                    "budget": cell.budget,
                    "seed": cell.seed,
                    "tokens_entering": planned.schedule.entering if planned.schedule else None,
                    "tokens_mean": planned.schedule.mean if planned.schedule else None,
                    "samples": len(group.samples),
                    "to_do": len(group.samples) - done,
                }
            )
    return rows


def describe_run(plan: Plan, command: str) -> dict[str, Any]:
    """What run.json holds of a run: enough to repeat it, and the cells that it is about."""
    spec = plan.spec
    return {
        "run_id": new_writer_name(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "spec": spec.to_json(),
        "version": __version__,
        "commit": _commit(),
        "libraries": library_versions(RECORDED),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "device": spec.device,
        "device_name": _device_name(spec.device),
        "dtype": spec.dtype,
        "attention": spec.attention,
        "seeds": list(spec.seeds),
        "refused": [vars(r) for r in plan.refused],
        "group_figures": [asdict(f) for f in group_figures(spec.groups, spec.include_path)],
        **run_tables(plan.cells),
    }


def _commit() -> str | None:
    """The commit of the checkout that runs, where it is one."""
    if not (ROOT / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip() or None


def _device_name(device: str) -> str | None:
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return None
