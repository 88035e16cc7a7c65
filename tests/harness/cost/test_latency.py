"""The probe: its order, its statistics, its phases, and that it tells a slow case from a fast one."""

import gc

import pytest
from toksweep.harness.contracts import UserError
from toksweep.harness.cost import latency
from toksweep.harness.cost.latency import Clock, Stopwatch, _waiting_clock, probe, race


class Ticking:
    """A clock whose every look takes what it is told, in milliseconds."""

    def __init__(self):
        self.now = 0.0

    def clock(self):
        return Clock("ticking", lambda: self.now, lambda start, end: end - start)

    def work(self, milliseconds):
        self.now += milliseconds


@pytest.fixture
def ticking(monkeypatch):
    """The probe looks at a clock that only work moves on: no figure here depends on how busy the machine is."""
    time = Ticking()
    monkeypatch.setattr(latency, "clock_of", lambda device: time.clock())
    return time


def test_cases_run_in_turn_with_the_baseline_and_warm_up_is_not_counted():
    order = []
    found = probe({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, "a", rounds=3, warmup=2)
    assert order == ["a", "b"] * 5
    assert found["b"].rounds == 3


def test_a_case_that_takes_three_times_as_long_has_a_ratio_of_three(ticking):
    found = probe({"short": lambda: ticking.work(20), "long": lambda: ticking.work(60)}, "short", rounds=5, warmup=1)
    assert found["short"].ratio == 1
    assert found["long"].ratio == 3
    assert found["long"].q1_ms == found["long"].median_ms == found["long"].q3_ms == 60


def test_the_ratio_is_paired_by_round_so_that_a_machine_slowing_down_leaves_it_alone(ticking):
    slower = iter([10, 10, 10, 40, 40, 40, 80, 80])
    now = [10]

    def baseline():
        now[0] = next(slower)
        ticking.work(now[0])

    found = probe({"base": baseline, "same": lambda: ticking.work(now[0])}, "base", rounds=7, warmup=1)
    assert found["same"].ratio == 1
    assert found["base"].q3_ms > 2 * found["base"].q1_ms


def test_without_a_baseline_there_is_no_ratio():
    assert probe({"a": lambda: None}, rounds=2, warmup=0)["a"].ratio is None


def test_a_cpu_has_no_peak_memory_and_is_named():
    found = probe({"a": lambda: None}, rounds=2, warmup=0, kernel="sdpa")["a"]
    assert (found.peak_memory_bytes, found.kernel) == (None, "sdpa")
    assert found.device.startswith("cpu: ")


def test_a_case_that_raises_is_named_and_garbage_collection_comes_back():
    def broken():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory") as caught:
        probe({"fine": lambda: None, "broken": broken}, "fine")
    assert caught.value.__notes__ == ["while timing broken"]
    assert gc.isenabled()


def test_a_baseline_that_is_no_case_is_an_error():
    with pytest.raises(ValueError, match="'none' is not among the cases"):
        probe({"a": lambda: None}, "none")


def test_one_round_has_no_spread_and_is_refused():
    with pytest.raises(ValueError, match="two rounds"):
        probe({"a": lambda: None}, rounds=1)


def test_a_device_that_the_probe_cannot_time_is_named():
    with pytest.raises(UserError, match="abacus"):
        probe({"a": lambda: None}, device="abacus")


@pytest.mark.gpu
def test_on_a_gpu_the_work_is_timed_to_its_end_and_its_memory_is_seen():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    small, large = (torch.ones(n, n, device="cuda") for n in (64, 8192))
    found = probe({"small": lambda: small @ small, "large": lambda: large @ large}, "small", device="cuda")
    assert found["large"].ratio > 5
    assert found["large"].peak_memory_bytes >= 2 * 4 * 8192**2


# --------------------------------------------------------------------------------------------------------------- phases


def test_a_phase_is_what_lies_in_none_inside_it_and_the_rest_is_not_counted():
    time = Ticking()
    watch = Stopwatch(time.clock())
    time.work(100)
    with watch.phase("outer"):
        time.work(1)
        with watch.phase("inner"):
            time.work(10)
            with watch.phase("outer"):
                time.work(2)
        time.work(4)
        with watch.phase("inner"):
            time.work(20)
    time.work(100)
    with watch.phase("steps", 4):
        time.work(8)
    assert watch.spent() == {"outer": 7, "inner": 30, "steps": 2}


def test_a_phase_ends_where_an_exception_leaves_it():
    time = Ticking()
    watch = Stopwatch(time.clock())
    with watch.phase("outer"), pytest.raises(ValueError, match="x"), watch.phase("inner"):
        time.work(1)
        raise ValueError("x")
    time.work(50)
    assert watch.spent() == {"outer": 0, "inner": 1}


def worker(time, **phases):
    def case(watch):
        for name, milliseconds in phases.items():
            with watch.phase(name):
                time.work(milliseconds)

    return case


def test_phases_have_ratios_and_savings_paired_by_round(ticking):
    cases = {"base": worker(ticking, a=20, b=10), "case": worker(ticking, a=10, c=10)}
    found = race(cases, "base", rounds=3, warmup=0).timings
    assert found["case"]["a"].ratio_q1 == found["case"]["a"].ratio == found["case"]["a"].ratio_q3 == 0.5
    assert found["case"]["a"].saved_ms == 10
    assert (found["case"]["c"].ratio, found["case"]["c"].saved_ms) == (None, None)
    assert (found["base"]["b"].ratio, found["base"]["b"].saved_ms) == (1, 0)


def test_a_case_that_raises_drops_out_of_the_race_and_the_others_go_on():
    order = []

    def broken(watch):
        order.append("broken")
        if order.count("broken") == 2:
            raise MemoryError("no room\nleft")

    def fine(watch):
        order.append("fine")
        with watch.phase("a"):
            pass

    found = race({"broken": broken, "fine": fine}, "fine", rounds=3, warmup=1)
    assert found.failures == {"broken": "MemoryError: no room left"}
    assert list(found.timings) == ["fine"]
    assert order.count("fine") == 4
    assert order.count("broken") == 2


def test_without_its_baseline_a_case_has_its_time_and_no_ratio(ticking):
    def broken(watch):
        raise RuntimeError("out of memory")

    found = race({"base": broken, "fine": worker(ticking, a=1)}, "base", rounds=2, warmup=0)
    assert found.failures == {"base": "RuntimeError: out of memory"}
    assert (found.timings["fine"]["a"].ratio, found.timings["fine"]["a"].rounds) == (None, 2)


def test_a_device_without_events_is_waited_for_at_every_mark():
    waits = []
    clock = _waiting_clock("slow", lambda: waits.append(1), lambda: None)
    watch = Stopwatch(clock)
    with watch.phase("a"), watch.phase("b"):
        pass
    assert len(waits) == 4


@pytest.mark.gpu
def test_on_a_gpu_phases_are_told_apart_without_waiting_between_them():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    small, large = (torch.ones(n, n, device="cuda") for n in (64, 8192))

    def case(watch):
        with watch.phase("large"):
            large @ large
        with watch.phase("small"):
            small @ small

    found = race({"both": case}, rounds=5, warmup=2, device="cuda").timings["both"]
    assert found["large"].median_ms > 5 * found["small"].median_ms
