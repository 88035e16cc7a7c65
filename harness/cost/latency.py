"""The latency probe: cases and baseline run in turn (A B A B), so that a drifting machine hurts all of them alike.

It knows nothing of models or codecs: a case is any function whose work is to be timed. Inputs, batch size and what
counts as work are the caller's. A case is handed a stopwatch and says which phase its work belongs to; what lies in no
phase is not counted. How that is kept from distorting what it measures: where one phase ends and the next begins, a
CUDA event is put into the stream and nobody waits for it, so that phases add up to what passed between the first mark
and the last; on a CPU, where work is done when its call returns, the wall clock is read, in about a microsecond; other
devices (mps) must be waited for at every mark, which takes longer than the whole without marks. So a whole is never
read off a run in which its phases are told apart: who wants both runs the work twice in each round.
"""

from __future__ import annotations

import gc
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from ..contracts import UserError
from ..watching import Watch


@dataclass(frozen=True)
class Timing:
    """How long one phase of a case took.

    Attributes:
        median_ms, q1_ms, q3_ms: median and quartiles over the rounds, in milliseconds.
        ratio, ratio_q1, ratio_q3: of this case's time divided by the baseline's of the same round, over the rounds;
            None without a baseline that has the phase.
        saved_ms, saved_q1_ms, saved_q3_ms: the same of the baseline's time less this case's.
        rounds: measured rounds, warm-up not counted.
        device: the name of the GPU or of the processor.
        kernel, dtype: the attention kernel and the number format that were in use, as the caller names them.
        peak_memory_bytes: most memory that tensors held on the device during a run, what was there before (such as
            weights) included; None where nothing comparable can be read: everywhere but on CUDA devices.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    ratio: float | None
    rounds: int
    device: str
    kernel: str | None = None
    peak_memory_bytes: int | None = None
    dtype: str | None = None
    ratio_q1: float | None = None
    ratio_q3: float | None = None
    saved_ms: float | None = None
    saved_q1_ms: float | None = None
    saved_q3_ms: float | None = None


@dataclass(frozen=True)
class Race:
    """What came of a race: timings by case and phase, and for each case that raised instead why, in one line."""

    timings: Mapping[str, Mapping[str, Timing]]
    failures: Mapping[str, str]


@dataclass(frozen=True)
class Clock:
    """What times a device.

    Attributes:
        name: of the device, for the record.
        mark: a moment among the device's work.
        between: milliseconds between two moments, once the device has been waited for.
        settle: waits for the device; free: gives back memory after a failure.
        start_peak, peak: begin to watch memory, and read its peak in bytes.
    """

    name: str
    mark: Callable[[], Any]
    between: Callable[[Any, Any], float]
    settle: Callable[[], object] = lambda: None
    free: Callable[[], object] = lambda: None
    start_peak: Callable[[], object] = lambda: None
    peak: Callable[[], int | None] = lambda: None


class Stopwatch(Watch):
    """Splits one run of a case into phases. They may be nested: a phase's time is what lies in none inside it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[tuple[str | None, Any]] = []
        self._now: str | None = None
        self._counts: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str, count: int = 1) -> Iterator[None]:
        """
        Args:
            count: how often the work inside does what the phase is named for, which is what counts.
        """
        outer, self._counts[name] = self._now, count
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, name: str | None) -> None:
        self._now = name
        self._marks.append((name, self._clock.mark()))

    def spent(self) -> dict[str, float]:
        """Milliseconds by phase; the device must have been waited for."""
        found = dict.fromkeys(self._counts, 0.0)
        for (name, start), (_, end) in pairwise(self._marks):
            if name is not None:
                found[name] += self._clock.between(start, end)
        return {name: total / self._counts[name] for name, total in found.items()}


Case = Callable[[Stopwatch], object]
"""Work to be timed."""

WHOLE = "whole"


def probe(
    cases: Mapping[str, Callable[[], object]],
    baseline: str | None = None,
    *,
    rounds: int = 7,
    warmup: int = 2,
    device: str = "cpu",
    kernel: str | None = None,
) -> dict[str, Timing]:
    """Time every case as a whole, once per round, in turn.

    Args:
        cases: what to time, by name.
        baseline: the case that ratios refer to.
        rounds, warmup: measured rounds, and unmeasured ones before them.
        device: `cpu` or `mps`, timed by the wall clock, or `cuda[:n]`, timed by CUDA events on the current stream.

    Raises:
        ValueError: fewer than two rounds, or a baseline that is no case.
        UserError: a device that the probe cannot time.
        Exception: whatever a case raises, with a note that names the case.
    """
    clock = clock_of(device)

    def stop(case: str, error: Exception) -> None:
        error.add_note(f"while timing {case}")
        raise error

    wholes = {name: _whole(work) for name, work in cases.items()}
    spent, peaks = _run_all(wholes, baseline, rounds, warmup, clock, stop)
    found = _timings(spent, peaks, baseline, clock.name, kernel, None)
    return {case: phases[WHOLE] for case, phases in found.items()}


def race(
    cases: Mapping[str, Case],
    baseline: str | None = None,
    *,
    rounds: int = 7,
    warmup: int = 2,
    device: str = "cpu",
    kernel: str | None = None,
    dtype: str | None = None,
) -> Race:
    """Time the phases of every case, once per round, in turn; a case that raises drops out, and the others go on.

    Args:
        cases, baseline, rounds, warmup, device: see `probe`.

    Raises:
        ValueError, UserError: see `probe`.
    """
    clock = clock_of(device)
    failures: dict[str, str] = {}

    def drop(case: str, error: Exception) -> None:
        # The text alone: a traceback would hold on to the tensors that did not fit.
        failures[case] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]

    spent, peaks = _run_all(cases, baseline, rounds, warmup, clock, drop)
    against = None if baseline in failures else baseline
    return Race(_timings(spent, peaks, against, clock.name, kernel, dtype), failures)


def _whole(work: Callable[[], object]) -> Case:
    def case(watch: Stopwatch) -> None:
        with watch.phase(WHOLE):
            work()

    return case


Spent = dict[str, list[dict[str, float]]]
"""By case, milliseconds by phase of every measured round."""


def _run_all(
    cases: Mapping[str, Case], baseline: str | None, rounds: int, warmup: int, clock: Clock,
    failed: Callable[[str, Exception], None],
) -> tuple[Spent, dict[str, list[int]]]:  # fmt: skip
    """Milliseconds, and peaks of memory, of the cases that never raised."""
    if rounds < 2 or warmup < 0:
        raise ValueError(f"the probe needs two rounds at least and no negative warm-up, not {rounds} and {warmup}")
    if baseline is not None and baseline not in cases:
        raise ValueError(f"the baseline {baseline!r} is not among the cases")
    spent: Spent = {case: [] for case in cases}
    peaks: dict[str, list[int]] = {case: [] for case in cases}
    with _no_garbage_collection():
        for turn in range(warmup + rounds):
            for case in list(spent):
                try:
                    elapsed, peak = _run(cases[case], clock)
                except Exception as error:
                    failed(case, error)
                    del spent[case], peaks[case]
                else:
                    if turn >= warmup:
                        spent[case].append(elapsed)
                        peaks[case] += [] if peak is None else [peak]
                    continue
                gc.collect()
                clock.free()
    return spent, peaks


def _run(case: Case, clock: Clock) -> tuple[dict[str, float], int | None]:
    clock.settle()
    clock.start_peak()
    watch = Stopwatch(clock)
    case(watch)
    clock.settle()
    return watch.spent(), clock.peak()


def _timings(
    spent: Spent, peaks: Mapping[str, Sequence[int]], baseline: str | None, device: str, kernel: str | None,
    dtype: str | None,
) -> dict[str, dict[str, Timing]]:  # fmt: skip
    against = spent[baseline] if baseline is not None else []
    found: dict[str, dict[str, Timing]] = {}
    for case, rounds in spent.items():
        peak = max(peaks[case], default=None)
        for phase in dict.fromkeys(name for own in rounds for name in own):
            own = [one.get(phase, 0.0) for one in rounds]
            q1, middle, q3 = quantiles(own, n=4, method="inclusive")
            # Paired by round: a machine that slows down half-way leaves these alone, but not the ratio of two medians.
            pairs = [(a, one[phase]) for a, one in zip(own, against, strict=False) if one.get(phase)]
            ratios = _quartiles([a / b for a, b in pairs])
            saved = _quartiles([b - a for a, b in pairs])
            found.setdefault(case, {})[phase] = Timing(
                middle, q1, q3, ratios[1], len(own), device, kernel, peak, dtype, ratios[0], ratios[2], saved[1],
                saved[0], saved[2],
            )  # fmt: skip
    return found


def _quartiles(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    if len(values) < 2:
        return None, None, None
    q1, _, q3 = quantiles(values, n=4, method="inclusive")
    return q1, median(values), q3


# --------------------------------------------------------------------------------------------------------------- clocks


def clock_of(device: str) -> Clock:
    """The clock of a device.

    Raises:
        UserError: a device that the probe cannot time, or that is not there.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        return Clock(processor(), time.perf_counter, _seconds_apart)
    if kind not in ("cuda", "mps"):
        raise UserError(f"The latency probe can time cpu, cuda and mps, not {device!r}: choose another --device.")
    import torch

    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise UserError(f"There is no such device to time on for --device {device}: use --device cpu.")
        return _waiting_clock(f"mps ({processor()})", torch.mps.synchronize, torch.mps.empty_cache)
    if not torch.cuda.is_available() or (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise UserError(f"There is no such CUDA device to time on for --device {device}: use --device cpu.")
    place = torch.device(device)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(place))
        return event

    def settle() -> None:
        torch.cuda.synchronize(place)

    return Clock(
        torch.cuda.get_device_name(place), mark, lambda a, b: float(a.elapsed_time(b)), settle, torch.cuda.empty_cache,
        lambda: torch.cuda.reset_peak_memory_stats(place), lambda: int(torch.cuda.max_memory_allocated(place)),
    )  # fmt: skip


def _seconds_apart(start: float, end: float) -> float:
    return 1000 * (end - start)


def _waiting_clock(name: str, settle: Callable[[], object], free: Callable[[], object]) -> Clock:
    """Of a device without events of its own: waits for it at every mark."""

    def mark() -> float:
        settle()
        return time.perf_counter()

    return Clock(name, mark, _seconds_apart, settle, free)


def processor() -> str:
    """The processor's name, with the threads that torch uses where it is loaded."""
    name = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        lines = (line.partition(":") for line in listed.read_text(encoding="utf-8", errors="replace").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    torch = sys.modules.get("torch")
    threads = f", torch threads: {torch.get_num_threads()}" if torch is not None else ""
    return f"cpu: {name}{threads}"


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collection starts whenever enough objects have piled up, and would be charged to whichever case runs then."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
