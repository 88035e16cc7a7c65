"""The latency probe: cases and baseline run in turn (A B A B), so that a drifting machine hurts all of them alike.

It knows nothing of models or codecs: a case is any function of no arguments whose whole work is to be timed. Inputs,
batch size and what counts as work are the caller's.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

from ..contracts import UserError


@dataclass(frozen=True)
class Timing:
    """How long one case took.

    Attributes:
        median_ms, q1_ms, q3_ms: median and quartiles over the rounds, in milliseconds.
        ratio: median over rounds of this case's time divided by the baseline's of the same round; None without one.
        rounds: measured rounds, warm-up not counted.
        device: the name of the GPU, or `cpu`.
        kernel: the attention kernel that was in use, as the caller names it.
        peak_memory_bytes: most memory that tensors held on the device during a call, what was there before (such as
            weights) included; None on a CPU, where nothing comparable can be read.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    ratio: float | None
    rounds: int
    device: str
    kernel: str | None = None
    peak_memory_bytes: int | None = None


Clock = Callable[[Callable[[], object]], tuple[float, int | None]]
"""Runs a case once: milliseconds, and peak memory in bytes where it can be read."""


def probe(
    cases: Mapping[str, Callable[[], object]],
    baseline: str | None = None,
    *,
    rounds: int = 7,
    warmup: int = 2,
    device: str = "cpu",
    kernel: str | None = None,
) -> dict[str, Timing]:
    """Time every case once per round, in turn.

    Args:
        cases: what to time, by name.
        baseline: the case that ratios refer to.
        rounds, warmup: measured rounds, and unmeasured ones before them.
        device: `cpu`, timed by the wall clock, or `cuda[:n]`, timed by CUDA events on the current stream.

    Raises:
        ValueError: fewer than two rounds, or a baseline that is no case.
        UserError: a device that the probe cannot time.
        Exception: whatever a case raises, with a note that names the case.
    """
    if rounds < 2 or warmup < 0:
        raise ValueError(f"the probe needs two rounds at least and no negative warm-up, not {rounds} and {warmup}")
    if baseline is not None and baseline not in cases:
        raise ValueError(f"the baseline {baseline!r} is not among the cases")
    clock, name = _clock(device)
    spent: dict[str, list[float]] = {case: [] for case in cases}
    peaks: dict[str, list[int]] = {case: [] for case in cases}
    with _no_garbage_collection():
        for turn in range(warmup + rounds):
            for case, work in cases.items():
                try:
                    elapsed, peak = clock(work)
                except Exception as error:
                    error.add_note(f"while timing {case}")
                    raise
                if turn >= warmup:
                    spent[case].append(elapsed)
                    peaks[case] += [] if peak is None else [peak]
    against = spent[baseline] if baseline is not None else None
    return {case: _timing(spent[case], against, name, kernel, max(peaks[case], default=None)) for case in cases}


def _timing(
    spent: list[float], against: list[float] | None, device: str, kernel: str | None, peak: int | None
) -> Timing:
    q1, middle, q3 = quantiles(spent, n=4, method="inclusive")
    # Paired by round: a machine that slows down half-way leaves this ratio alone, but not that of two medians.
    ratio = median(a / b for a, b in zip(spent, against, strict=True)) if against else None
    return Timing(middle, q1, q3, ratio, len(spent), device, kernel, peak)


def _clock(device: str) -> tuple[Clock, str]:
    """The clock of a device, and the device's name for the record."""
    if device == "cpu":
        return _wall_clock, "cpu"
    if device.partition(":")[0] != "cuda":
        raise UserError(f"The latency probe can time cpu and cuda, not {device!r}: choose another --device.")
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"There is no CUDA device to time on for --device {device}: use --device cpu.")

    def events(work: Callable[[], object]) -> tuple[float, int | None]:
        with torch.cuda.device(device):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end), torch.cuda.max_memory_allocated()

    return events, torch.cuda.get_device_name(device)


def _wall_clock(work: Callable[[], object]) -> tuple[float, int | None]:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start), None


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
