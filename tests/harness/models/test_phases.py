"""Which work belongs to which phase, counted in operations instead of milliseconds: the same count every time."""

from __future__ import annotations

import families
import pytest
import torch
import vlm
from toksweep.harness.cost.latency import Clock, Stopwatch
from toksweep.harness.timing import Runner, timed_answer
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts every operation while it is on."""

    done = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.done += 1
        return func(*args, **(kwargs or {}))


def spent(model, name, budget="50%"):
    """Operations by phase, and those of a whole answer."""
    method, schedule, kind = vlm.cell(model, name, budget)
    batch = vlm.batch(model)
    case = timed_answer(model, batch, Runner(method, schedule, 0, kind))
    with Operations() as count:
        watch = Stopwatch(Clock("counting", lambda: count.done, lambda start, end: end - start))
        case(watch)
    return watch.spent()


FAMILIES = ("llava", *families.FAMILIES)


@pytest.mark.parametrize("model", [(family, "sdpa") for family in FAMILIES], indirect=True, ids=FAMILIES)
@pytest.mark.parametrize("name", ["divprune", "fastervlm", "hiprune", "vispruner", "fastv", "cdpruner"])
def test_what_a_method_reads_of_the_tower_is_the_compressors_and_not_vision(model, name):
    if name not in vlm.able(model.info, clip=model.text_encoder is not None):
        pytest.skip(f"{model.family} does not serve it")
    full, ours = spent(model, "none"), spent(model, name)
    assert ours["vision"] == full["vision"]
    assert full["compressor"] == 0 < ours["compressor"]


@pytest.mark.parametrize("model", [("llava", "sdpa")], indirect=True)
@pytest.mark.parametrize("name", ["none", "divprune", "fastervlm", "fastv", "tome", "downsample", "dymu"])
def test_phases_add_up_to_the_whole(model, name):
    found = spent(model, name)
    assert found["vision"] + found["compressor"] + found["prefill"] == found["latency"]
    assert found["prefill"] > 0 < found["tpot"]


@pytest.mark.parametrize("model", [("llava", "sdpa")], indirect=True)
@pytest.mark.parametrize("name", ["tome", "downsample", "divprune", "fastv"])
def test_prefill_is_the_llms_work_wherever_a_method_cuts(model, name):
    """A layer behind a cut may need a mask of its own; what is chosen and cut is no part of the prefill."""
    full, ours = spent(model, "none"), spent(model, name)
    assert abs(ours["prefill"] - full["prefill"]) <= (15 * model.shape.llm_layers if name == "fastv" else 10)
    assert ours["compressor"] > 50


@pytest.mark.parametrize("model", [("llava", "sdpa")], indirect=True)
def test_a_model_is_watched_while_the_context_lasts_and_answers_the_same(model):
    method, schedule, kind = vlm.cell(model, "fastervlm", "50%")
    before = model.watch
    states = []
    for _ in range(2):
        states.append(model.time_first_token(vlm.batch(model), method, schedule, 0, budget_kind=kind))
        with model.watched(Stopwatch(Clock("none", lambda: 0, lambda start, end: 0.0))):
            states.append(model.time_first_token(vlm.batch(model), method, schedule, 0, budget_kind=kind))
        assert model.watch is before
    assert all(torch.equal(states[0].logits, state.logits) for state in states)
    with pytest.raises(ValueError, match="x"), model.watched(Stopwatch(Clock("none", lambda: 0, lambda a, b: 0.0))):
        raise ValueError("x")
    assert model.watch is before
