"""The FLOPs on record equal what the model and the method really spend, to the last one."""

import pytest
import tiny
from toksweep.harness.contracts import Budget, Refusal, Region, Sample
from toksweep.harness.cost.closed_form import flops_to_first_token
from toksweep.harness.cost.compressor import selector_flops
from toksweep.harness.models import model_info, open_model
from toksweep.harness.models.published import load_config
from toksweep.harness.models.text_encoder import open_text_encoder
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve, untouched
from torch.utils.flop_counter import FlopCounterMode

ITERATING = {"centerclip", "vqtoken"}
"""Methods whose number of products depends on the values that they cluster."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny.save_llava(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def model(checkpoint, clip_folder):
    # Eager, whose matrix products every version of the counter sees.
    opened = open_model(checkpoint, attention="eager")
    opened.text_encoder = open_text_encoder(str(clip_folder), "cpu", "eager")
    return opened


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("budget", ["100%", "7"])
@pytest.mark.parametrize("entry", [e for e in registry("methods") if e.kind != "tokenizer"], ids=lambda e: e.name)
def test_a_first_token_costs_what_the_closed_form_says(checkpoint, clip_folder, model, entry, budget, pictures):
    config, shape = load_config(checkpoint), model_info(checkpoint).shape
    method, schedule = None, untouched(shape)
    if entry.kind == "compressor":
        method = entry.build()
        schedule = resolve(method, Budget.parse(budget), "mean", shape, merges=entry.meta["merges"])
    sample = Sample("a", "a", (), "f", question="what colour is the ball?", regions=(Region((0, 0, 24, 20)),))
    batch = model.prepare([sample], [[tiny.picture(i) for i in range(pictures)]])
    try:
        with FlopCounterMode(display=False) as spent:
            model.prefill(batch, None, method, schedule, seed=0)
    except Refusal as reason:
        pytest.skip(str(reason))
    (answer,) = model.answer(batch, None, method, schedule, seed=0, max_new_tokens=1)
    text, encoder = answer.text_tokens, model_info(checkpoint, str(clip_folder)).text_encoder.config
    about = {"images": pictures, "behind": answer.text_behind, "segments": answer.segments, "encoder": encoder}
    selector = selector_flops(config, schedule, method, text_tokens=text, **about) if method else 0
    expected = flops_to_first_token(config, schedule, text, answer.visual_tokens, selector=selector, **about)
    if entry.name in ITERATING:
        assert spent.get_total_flops() == pytest.approx(expected, rel=0.02)
    else:
        assert spent.get_total_flops() == expected
