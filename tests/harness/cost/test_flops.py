"""FLOPs counted on the meta device: equal to the closed form, and to what a real run on numbers spends."""

from dataclasses import replace

import pytest
import torch
from small_llava import SHAPE, small_config, small_siglip_config
from toksweep.harness.contracts import Budget, ModelShape, Reduction, Refusal, Stage
from toksweep.harness.cost.closed_form import closed_form
from toksweep.harness.cost.compressor import selector_flops
from toksweep.harness.cost.flops import FlopCounter, FlopsMismatchError
from toksweep.harness.cost.towers import Tower
from toksweep.harness.models.abilities import READABLE, TOWER
from toksweep.harness.models.published import load_config
from toksweep.harness.registry import registry
from toksweep.harness.schedule import lay_out, resolve, untouched
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, LlavaForConditionalGeneration

SHAPES = {
    "llava-hf/llava-1.5-7b-hf": ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23),
    "llava-hf/llava-1.5-13b-hf": ModelShape("llava", 576, (24, 24), 24, 40, True, feature_layers=23),
}
SCHEDULES = {
    "everything": (),
    "pixel": (Stage("pixel", 4, grid=(2, 2)),),
    "encoder": (Stage("encoder", 10, layer=0), Stage("encoder", 6, layer=1)),
    "projector": (Stage("projector", 5),),
    "decoder": (Stage("decoder", 9, layer=1), Stage("decoder", 2, layer=3)),
    "no visual token left": (Stage("decoder", 0, layer=2),),
    "unmerged": (Stage("encoder", 10, layer=0), Stage("encoder", 6, layer=1), Stage("attention", 6)),
    "two places": (Stage("encoder", 8, layer=1), Stage("projector", 6), Stage("decoder", 3, layer=2)),
}


class Products:
    """Multiplies an [n, n] similarity in every cut, and keeps the first tokens."""

    def __init__(self, *stages):
        self.cuts = stages

    def stages(self, keep, shape):
        return self.cuts

    def reduce(self, view, keep):
        points = view.tokens
        assert (points @ points.mT).shape[-1] == points.shape[1]
        return Reduction.keep(torch.arange(keep)[None], points.shape[1])


@pytest.fixture(scope="module")
def small():
    return FlopCounter(small_config())


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_counter_equals_the_closed_form_wherever_tokens_are_cut(small, name):
    schedule = lay_out(SCHEDULES[name], SHAPE)
    assert small.count(schedule, 5) == closed_form(small_config(), schedule, 5)


@pytest.mark.parametrize("head", [True, False])
def test_a_siglip_tower_in_front_of_a_qwen_is_counted_like_the_closed_form(head):
    config = small_siglip_config(head=head)
    shape, counter = replace(SHAPE, class_token=False), FlopCounter(config)
    for stages in SCHEDULES.values():
        schedule = lay_out(stages, shape)
        assert counter.count(schedule, 5) == closed_form(config, schedule, 5)


@pytest.mark.parametrize("ref", SHAPES)
def test_the_counter_equals_the_closed_form_for_published_models(ref):
    config, shape = load_config(ref), SHAPES[ref]
    schedule = lay_out((Stage("decoder", 64, layer=2),), shape)
    assert FlopCounter(config).count(schedule, 64) == closed_form(config, schedule, 64)


@pytest.mark.parametrize("config", [small_config(), small_siglip_config(head=True)], ids=["clip", "siglip"])
def test_the_count_to_the_first_token_is_what_the_model_spends_on_real_numbers(config):
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config).eval()
    ids = torch.tensor([[1, *[98] * 16, 2, 3, 4, 5]])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, pixel_values=torch.randn(1, 3, 28, 28), logits_to_keep=1)
    assert counter.get_total_flops() == FlopCounter(config).count(untouched(SHAPE), 5).to_first_token


def test_a_decoded_token_costs_what_the_model_spends_on_real_numbers(small):
    config = small_config()
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        cache = model(
            input_ids=torch.tensor([[1, *[98] * 16, 2, 3, 4, 5]]), pixel_values=torch.randn(1, 3, 28, 28)
        ).cache
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.tensor([[6]]), cache=cache)
    assert counter.get_total_flops() == small.count(untouched(SHAPE), 5).decode_token


def clip_config():
    text = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 16}  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=small_config().vision_config.to_dict(), projection_dim=20)


class Idle:
    """Reads whatever it is given and keeps the first tokens."""

    def reduce(self, view, keep):
        return Reduction.keep(torch.arange(keep)[None], view.tokens.shape[1])


@pytest.mark.parametrize("place", ["projector", "decoder"])
def test_every_signal_that_a_family_serves_costs_by_formula_what_the_functions_spend(small, place):
    for kind in sorted(READABLE[place]):
        name = f"{kind}@-2" if place == "projector" and kind in TOWER else kind
        stage = Stage(place, 6, layer=2 if place == "decoder" else None, reads=(name,))
        schedule = lay_out((Stage("projector", 12), stage), SHAPE)
        counted = small.count(schedule, 5, Idle(), clip_config())
        assert counted == closed_form(small_config(), schedule, 5, encoder=clip_config()), name
        free = kind not in {"clip_patches", "clip_text"} and "attention" not in name and not kind.startswith("next")
        assert (counted.compressor == 0) == free, name


def test_a_gap_above_two_percent_is_an_error(small, monkeypatch):
    true = Tower.layers
    monkeypatch.setattr(Tower, "layers", lambda *a: [round(1.03 * n) for n in true(*a)])
    with pytest.raises(FlopsMismatchError, match="vision"):
        small.count(untouched(SHAPE), 5)


def test_a_selectors_products_are_counted_at_the_shapes_of_every_cut():
    cuts = (Stage("encoder", 10, layer=1), Stage("projector", 6), Stage("decoder", 3, layer=2))
    schedule = lay_out(cuts, SHAPE)
    in_tower, at_projector, in_llm = 2 * 17 * 17 * 24, 2 * 10 * 10 * 32, 2 * 6 * 6 * 32
    assert selector_flops(small_config(), schedule, Products(*cuts)) == in_tower + at_projector + in_llm


def test_the_class_token_is_seen_at_the_projector_only_where_it_is_read():
    for reads, n in (((), 16), (("class_token",), 17)):
        cut = Stage("projector", 6, reads=reads)
        assert selector_flops(small_config(), lay_out((cut,), SHAPE), Products(cut)) == 2 * n * n * 32


def test_divprune_costs_one_matrix_of_similarities():
    config, shape = load_config("llava-hf/llava-1.5-7b-hf"), SHAPES["llava-hf/llava-1.5-7b-hf"]
    divprune = registry("methods").get("divprune").build()
    schedule = resolve(divprune, Budget.parse(64), "mean", shape, merges=False)
    assert selector_flops(config, schedule, divprune) == 2 * 576 * 576 * 4096


def test_counting_leaves_the_callers_random_state_alone():
    cut = Stage("projector", 6)
    before = torch.get_rng_state()
    selector_flops(small_config(), lay_out((cut,), SHAPE), Products(cut))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("entry", [e for e in registry("methods") if e.kind == "compressor"], ids=lambda e: e.name)
def test_every_compressor_can_be_costed_and_saves_at_half_of_the_tokens(small, entry):
    method = entry.build()
    schedule = resolve(method, Budget.parse("50%"), "mean", SHAPE, merges=entry.meta["merges"])
    try:
        counted = small.count(schedule, 5, method, clip_config())
    except Refusal as reason:
        pytest.skip(str(reason))
    assert counted.prefill < small.count(untouched(SHAPE), 5).prefill
