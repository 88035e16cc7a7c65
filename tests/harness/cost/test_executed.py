"""The FLOPs on record equal what the model and the method really spend, to the last one."""

import pytest
import tiny
from toksweep.harness.contracts import Budget, Sample
from toksweep.harness.cost.closed_form import flops_to_first_token
from toksweep.harness.cost.flops import selector_flops
from toksweep.harness.models import model_info, open_model
from toksweep.harness.models.published import load_config
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve, untouched
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save_llava(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def model(checkpoint):
    # Eager, whose matrix products every version of the counter sees.
    return open_model(checkpoint, attention="eager")


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("budget", ["100%", "7"])
@pytest.mark.parametrize("entry", [e for e in registry("methods") if e.kind != "tokenizer"], ids=lambda e: e.name)
def test_a_first_token_costs_what_the_closed_form_says(checkpoint, model, entry, budget, pictures):
    config, shape = load_config(checkpoint), model_info(checkpoint).shape
    method, schedule = None, untouched(shape)
    if entry.kind == "compressor":
        method = entry.build()
        schedule = resolve(method, Budget.parse(budget), "mean", shape, merges=entry.meta["merges"])
    batch = model.prepare(
        [Sample("a", "a", (), "f", question="what colour is the ball?")], [[tiny.picture(i) for i in range(pictures)]]
    )
    with FlopCounterMode(display=False) as spent:
        model.prefill(batch, None, method, schedule, seed=0)
    (answer,) = model.answer(batch, None, method, schedule, seed=0, max_new_tokens=1)
    selector = selector_flops(config, schedule, method) if method else 0
    expected = flops_to_first_token(
        config, schedule, answer.text_tokens, answer.visual_tokens, images=pictures, selector=selector
    )
    assert spent.get_total_flops() == expected
