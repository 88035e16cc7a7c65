"""A sweep without its report, which takes longer than a small sweep itself."""

from __future__ import annotations

from toksweep.harness.plan import Plan, make_plan
from toksweep.harness.spec import load_spec
from toksweep.harness.sweep import run_sweep
from toksweep.results.store import ResultsFolder


class Quiet:
    """No progress."""

    def start(self, what: str, total: int) -> None: ...

    def advance(self, steps: int = 1) -> None: ...

    def stop(self) -> None: ...


def swept(**keys: object) -> tuple[ResultsFolder, Plan]:
    """What a sweep of these keys wrote, and its plan."""
    plan = make_plan(load_spec(None, {"latency": False, **keys}))
    run_sweep(plan, command="a test", progress=Quiet())
    return ResultsFolder(plan.spec.out), plan
