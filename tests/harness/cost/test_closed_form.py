"""FLOPs and cache bytes by formula: against values worked by hand, and against figures measured elsewhere."""

import time

import pytest
from small_llava import SHAPE, small_config
from toksweep.harness.contracts import ModelShape, Refusal, Stage, UserError
from toksweep.harness.cost.closed_form import (
    closed_form,
    flops_to_first_token,
    kv_bytes,
    prefill_flops,
)
from toksweep.harness.cost.towers import Tower
from toksweep.harness.models.published import load_config
from toksweep.harness.schedule import lay_out, untouched

LLAVA_7B = ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23)


@pytest.fixture(scope="module")
def llava_7b():
    return load_config("llava-hf/llava-1.5-7b-hf")


def test_an_llm_layer_costs_two_flops_per_weight_and_token_and_four_per_pair_of_tokens_and_query_channel():
    tokens, weights = 5 + 16, 32 * 48 + 2 * 32 * 24 + 48 * 32 + 3 * 32 * 56
    layer = 2 * tokens * weights + 4 * tokens * tokens * 48
    found = closed_form(small_config(), untouched(SHAPE), 5)
    assert found.per_layer == (layer,) * 4
    assert found.prefill == 4 * layer + 2 * 32 * 99


def test_a_decoded_token_attends_to_every_cached_token_and_itself():
    weights = 32 * 48 + 2 * 32 * 24 + 48 * 32 + 3 * 32 * 56
    found = closed_form(small_config(), untouched(SHAPE), 5, layers=[16, 16, 3, 3])
    keys = [5 + 16 + 1, 5 + 16 + 1, 5 + 3 + 1, 5 + 3 + 1]
    assert found.decode_token == sum(2 * weights + 4 * k * 48 for k in keys) + 2 * 32 * 99


def test_the_vision_tower_counts_patches_class_token_and_all_layers():
    embed = 2 * 16 * (3 * 7 * 7) * 24
    layer = 2 * 17 * (4 * 24 * 24 + 2 * 24 * 40) + 4 * 17 * 17 * 24
    found = closed_form(small_config(), untouched(SHAPE), 5)
    assert found.vision == embed + 3 * layer
    assert found.projector == 2 * 16 * (24 * 32 + 32 * 32)


def test_merging_inside_the_tower_lowers_the_mlp_of_its_layer_and_everything_behind_it():
    schedule = lay_out((Stage("encoder", 10, layer=0), Stage("encoder", 6, layer=1)), SHAPE)
    assert Tower.of(small_config()).tokens(schedule) == [(17, 11), (11, 7), (7, 7)]
    found = closed_form(small_config(), schedule, 5)
    embed = 2 * 16 * (3 * 7 * 7) * 24
    attention = sum(8 * n * 24 * 24 + 4 * n * n * 24 for n in (17, 11, 7))
    assert found.vision == embed + attention + sum(4 * n * 24 * 40 for n in (11, 7, 7))
    assert found.projector == 2 * 6 * (24 * 32 + 32 * 32)


def test_unmerged_attention_runs_over_every_place_and_the_rest_over_the_tokens_that_are_left():
    stages = (Stage("projector", 6), Stage("attention", 6))
    shorter = closed_form(small_config(), lay_out(stages[:1], SHAPE), 5)
    found = closed_form(small_config(), lay_out(stages, SHAPE), 5)
    pairs = (5 + 16) ** 2 - (5 + 6) ** 2
    assert found.prefill - shorter.prefill == 4 * 4 * pairs * 48  # layers, FLOPs per pair and channel, query channels
    assert found.decode_token - shorter.decode_token == 4 * 4 * 10 * 48


def test_a_smaller_picture_is_encoded_at_its_own_grid():
    found = closed_form(small_config(), lay_out((Stage("pixel", 4, grid=(2, 2)),), SHAPE), 5)
    layer = 2 * 5 * (4 * 24 * 24 + 2 * 24 * 40) + 4 * 5 * 5 * 24
    assert found.vision == 2 * 4 * (3 * 7 * 7) * 24 + 3 * layer


def test_pruning_behind_the_projector_saves_nothing_before_it():
    full = closed_form(small_config(), untouched(SHAPE), 5)
    pruned = closed_form(small_config(), lay_out((Stage("projector", 4),), SHAPE), 5)
    assert (pruned.vision, pruned.projector) == (full.vision, full.projector)
    assert pruned.prefill < full.prefill


def test_executed_counts_win_over_promised_ones():
    promised = lay_out((Stage("decoder", 4, layer=2),), SHAPE)
    executed = [16, 16, 3, 3]
    found = closed_form(small_config(), promised, 5, layers=executed)
    assert (
        found.prefill == prefill_flops(small_config(), 5, executed) < closed_form(small_config(), promised, 5).prefill
    )


def test_two_pictures_double_vision_and_projector_and_share_one_prompt():
    schedule = lay_out((Stage("projector", 4),), SHAPE)
    one, two = (closed_form(small_config(), schedule, 5, images=n, selector=7) for n in (1, 2))
    assert (two.vision, two.projector, two.compressor) == (2 * one.vision, 2 * one.projector, 7)
    assert two.prefill == prefill_flops(small_config(), 5, [8] * 4)


def test_attention_rows_that_are_read_count_as_the_compressors():
    schedule = lay_out((Stage("decoder", 4, layer=2, reads=("last_attention",)),), SHAPE)
    assert closed_form(small_config(), schedule, 5).compressor == 2 * (5 + 16) * 48
    schedule = lay_out((Stage("projector", 4, reads=("class_attention@-2",)),), SHAPE)
    assert closed_form(small_config(), schedule, 5, images=2).compressor == 2 * 2 * 17 * 24


def test_a_mean_row_costs_every_row_and_a_layer_that_is_asked_ahead_its_keys_and_the_queries_read():
    mean = lay_out((Stage("projector", 4, reads=("received_attention@-2",)),), SHAPE)
    assert closed_form(small_config(), mean, 5).compressor == 2 * 17 * 17 * 24
    tokens, keys, query = 5 + 16, 2 * 32 * 24, 2 * 32 * 48
    for name, rows in (("next_keys", 0), ("next_last_attention", 1), ("next_visual_attention", 16)):
        ahead = lay_out((Stage("decoder", 4, layer=2, reads=(name,)),), SHAPE)
        found = closed_form(small_config(), ahead, 5).compressor
        assert found == tokens * keys + rows * (query + 2 * tokens * 48)


def test_text_behind_the_picture_is_what_is_read_of_text():
    schedule = lay_out((Stage("decoder", 4, layer=2, reads=("text_attention",)),), SHAPE)
    assert closed_form(small_config(), schedule, 5, behind=3).compressor == 3 * 2 * 21 * 48


def test_rows_that_are_cut_in_front_of_the_projector_save_there_too():
    cut = Stage("projector", 4, reads=("class_token",), features=True)
    assert closed_form(small_config(), lay_out((cut,), SHAPE), 5).projector == 2 * 4 * (24 * 32 + 32 * 32)
    behind = Stage("projector", 4, reads=("class_token",))
    assert closed_form(small_config(), lay_out((behind,), SHAPE), 5).projector == 2 * 17 * (24 * 32 + 32 * 32)


def test_a_signal_without_a_known_cost_is_refused():
    schedule = lay_out((Stage("projector", 4, reads=("horoscope",)),), SHAPE)
    with pytest.raises(Refusal, match="horoscope"):
        closed_form(small_config(), schedule, 5)


def test_a_count_is_needed_for_every_layer():
    with pytest.raises(ValueError, match="3 token counts were given for 4 LLM layers"):
        prefill_flops(small_config(), 5, [16, 16, 16])


def test_llava_7b_costs_what_was_measured_on_the_unpatched_model(llava_7b):
    full = closed_form(llava_7b, untouched(LLAVA_7B), 64)
    assert f"{full.vision + full.projector:.3e}" == "4.061e+11"
    measured = {576: "8.504e+12", 192: "3.350e+12", 64: "1.666e+12"}
    for tokens, figure in measured.items():
        per_layer = closed_form(llava_7b, untouched(LLAVA_7B), 64, layers=[tokens] * 32).per_layer
        assert f"{sum(per_layer):.3e}" == figure
    fastv = closed_form(llava_7b, lay_out((Stage("decoder", 144, layer=2),), LLAVA_7B), 64)
    assert f"{sum(fastv.per_layer):.3e}" == "3.078e+12"
    head = fastv.prefill - sum(fastv.per_layer)
    assert f"{full.decode_token - head:.3e}" == "1.329e+10"


def test_a_token_of_llava_7b_takes_half_a_mebibyte_of_cache_at_two_bytes_per_number(llava_7b):
    assert kv_bytes(llava_7b, "float16", 0, [1] * 32) == 524288
    assert kv_bytes(llava_7b, "fp32", 1, [0] * 32) == 2 * 524288


def test_the_cache_counts_grouped_keys_and_every_layers_own_tokens():
    assert kv_bytes(small_config(), "bf16", 5, [16, 16, 3, 3]) == 2 * 2 * 2 * 12 * (21 + 21 + 8 + 8)


def test_an_unknown_dtype_is_named(llava_7b):
    with pytest.raises(UserError, match=r"'int3'.*bfloat16"):
        kv_bytes(llava_7b, "int3", 0, [1])


def test_a_sample_is_costed_in_well_under_the_time_of_reading_it(llava_7b):
    schedule, start = untouched(LLAVA_7B), time.perf_counter()
    for _ in range(100):
        flops_to_first_token(llava_7b, schedule, 64, schedule.layers)
    assert (time.perf_counter() - start) / 100 < 0.005
