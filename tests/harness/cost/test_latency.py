"""The probe: its order, its statistics, and that it tells a slow case from a fast one."""

import gc
import time

import pytest
from toksweep.harness.contracts import UserError
from toksweep.harness.cost.latency import probe


def test_cases_run_in_turn_with_the_baseline_and_warm_up_is_not_counted():
    order = []
    found = probe({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, "a", rounds=3, warmup=2)
    assert order == ["a", "b"] * 5
    assert found["b"].rounds == 3


def test_a_case_that_sleeps_three_times_as_long_has_a_ratio_of_three():
    cases = {"short": lambda: time.sleep(0.02), "long": lambda: time.sleep(0.06)}
    found = probe(cases, "short", rounds=5, warmup=1)
    assert found["short"].ratio == 1
    assert 2 < found["long"].ratio < 4
    assert found["long"].median_ms >= 60
    assert found["long"].q1_ms <= found["long"].median_ms <= found["long"].q3_ms


def test_the_ratio_is_paired_by_round_so_that_a_machine_slowing_down_leaves_it_alone():
    slower = iter([0.01, 0.01, 0.01, 0.04, 0.04, 0.04, 0.08, 0.08])
    seconds = [0.01]

    def baseline():
        seconds[0] = next(slower)
        time.sleep(seconds[0])

    found = probe({"base": baseline, "same": lambda: time.sleep(seconds[0])}, "base", rounds=7, warmup=1)
    assert 0.7 < found["same"].ratio < 1.4
    assert found["base"].q3_ms > 2 * found["base"].q1_ms


def test_without_a_baseline_there_is_no_ratio():
    assert probe({"a": lambda: None}, rounds=2, warmup=0)["a"].ratio is None


def test_a_cpu_has_no_peak_memory_and_is_named():
    found = probe({"a": lambda: None}, rounds=2, warmup=0, kernel="sdpa")["a"]
    assert (found.peak_memory_bytes, found.device, found.kernel) == (None, "cpu", "sdpa")


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
