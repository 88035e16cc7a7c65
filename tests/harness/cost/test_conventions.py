"""Published FLOPs conventions: what papers print comes out of the functions that bear their names."""

import json
from statistics import fmean

import pytest
from toksweep.harness.contracts import UserError
from toksweep.harness.cost.closed_form import prefill_flops
from toksweep.harness.cost.conventions import CONVENTIONS, flops_conventions
from toksweep.harness.models.published import load_config

LLAVA_7B, LLAVA_13B = "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf"
NEXT_7B, NEXT_13B = "llava-hf/llava-v1.6-vicuna-7b-hf", "llava-hf/llava-v1.6-vicuna-13b-hf"
VIDEO_7B = "llava-hf/LLaVA-NeXT-Video-7B-hf"
ONEVISION_7B, ONEVISION_72B = (f"llava-hf/llava-onevision-qwen2-{size}-ov-hf" for size in ("7b", "72b"))


def tera(name, model, tokens, text=0):
    """TFLOPs with as many visual tokens at every layer."""
    config = load_config(model)
    layers = [tokens] * config.get_text_config().num_hidden_layers
    return CONVENTIONS[name](config, layers, text) / 1e12


@pytest.mark.parametrize(
    ("name", "model", "tokens", "text", "found"),
    [
        ("pio_fvlm", LLAVA_7B, 576, 0, "2.986"),
        ("pio_fvlm", NEXT_7B, 2880, 0, "16.670"),
        ("holitom", ONEVISION_7B, 6272, 0, "40.77"),
        ("holitom", ONEVISION_7B, 0.25 * 6272, 0, "8.71"),
        ("holitom", ONEVISION_7B, 0.10 * 6272, 0, "3.37"),
        ("dycoke", ONEVISION_7B, 6272, 0, "41.42"),
        ("dycoke", ONEVISION_72B, 6272, 0, "436.18"),
        ("pyramiddrop", LLAVA_7B, 576, 0, "3.817"),
        ("pyramiddrop", LLAVA_7B, 192, 0, "1.253"),
        ("pyramiddrop", LLAVA_7B, 128, 0, "0.833"),
        ("pyramiddrop", LLAVA_7B, 64, 0, "0.416"),
        ("globalcom2", NEXT_7B, 2880, 0, "41.65"),
        ("globalcom2", NEXT_7B, 2160, 0, "30.42"),
        ("globalcom2", NEXT_7B, 1440, 0, "19.74"),
        ("globalcom2", NEXT_7B, 720, 0, "9.60"),
        ("globalcom2", NEXT_7B, 288, 0, "3.77"),
        ("globalcom2", NEXT_13B, 2880, 0, "79.88"),
        ("globalcom2", NEXT_13B, 2160, 0, "58.63"),
        ("globalcom2", NEXT_13B, 1440, 0, "38.24"),
        ("globalcom2", NEXT_13B, 720, 0, "18.70"),
        ("globalcom2", NEXT_13B, 288, 0, "7.38"),
        ("hiprune", LLAVA_7B, 576, 77.3, "8.63"),
        ("hiprune", LLAVA_7B, 192, 77.3, "3.56"),
        ("hiprune", LLAVA_7B, 128, 77.3, "2.71"),
        ("hiprune", LLAVA_7B, 64, 77.3, "1.87"),
        ("hiprune", LLAVA_7B, 576, 97, "8.89"),
        ("hiprune", LLAVA_7B, 64, 97, "2.13"),
    ],
)
def test_a_published_figure_comes_out_to_the_last_digit(name, model, tokens, text, found):
    digits = len(found.partition(".")[2])
    assert f"{tera(name, model, tokens, text):.{digits}f}" == found


IMAGE_TEXTS = (15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57)
NEXT_VISUAL = (2225, 1922, 2239, 1927, 2108, 1882, 2292, 2249, 2250, 1598, 2116)
VIDEO_TEXTS = (28, 63, 21, 38, 196)


@pytest.mark.parametrize(
    ("model", "visual", "texts", "share", "full", "pruned"),
    [
        (LLAVA_7B, [576] * 11, IMAGE_TEXTS, 0.098, "3.2280", "0.5122"),
        (LLAVA_13B, [576] * 11, IMAGE_TEXTS, 0.098, "6.2813", "1.0020"),
        (NEXT_7B, NEXT_VISUAL, IMAGE_TEXTS, 0.098, "11.8489", "1.2659"),
        (VIDEO_7B, [1152] * 5, VIDEO_TEXTS, 0.1, "6.5386", "0.9371"),
    ],
)
def test_divprunes_means_over_its_benchmarks_come_out_to_the_last_digit(model, visual, texts, share, full, pruned):
    sets = list(zip(visual, texts, strict=True))
    assert f"{fmean(tera('divprune', model, v, t) for v, t in sets):.4f}" == full
    assert f"{fmean(tera('divprune', model, round(share * v), t) for v, t in sets):.4f}" == pruned


def test_a_cut_inside_the_llm_is_summed_layer_by_layer():
    config = load_config(LLAVA_7B)
    for name, convention in CONVENTIONS.items():
        cut = convention(config, [576] * 2 + [64] * 30, 50) / 1e12
        parts = 2 / 32 * tera(name, LLAVA_7B, 576, 50) + 30 / 32 * tera(name, LLAVA_7B, 64, 50)
        # lm_head comes once, behind the last layer.
        head = 2 * 2 / 32 * (576 - 64) * 4096 * 32064 / 1e12 if name == "hiprune" else 0
        assert cut == pytest.approx(parts - head, rel=1e-12), name


def test_only_those_that_say_so_count_text():
    counting = {n for n in CONVENTIONS if tera(n, LLAVA_7B, 576, 64) != tera(n, LLAVA_7B, 576, 0)}
    assert counting == {"divprune", "hiprune"}


def test_grouped_keys_are_cheaper_only_where_weights_are_counted_as_they_are():
    tiny, config = tera("hiprune", ONEVISION_7B, 1), load_config(ONEVISION_7B).get_text_config()
    groups = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    layer = 2 * 3584 * (3584 + groups) + 3 * 3584 * 18944
    assert tiny * 1e12 == 2 * (28 * layer + 3584 * config.vocab_size)


def test_llm_viewers_figures_are_what_our_own_prefill_counts():
    for model, tokens, printed in ((LLAVA_7B, 576, "8.5"), (NEXT_7B, 2880, "42.7")):
        assert f"{prefill_flops(load_config(model), 64, [tokens] * 32) / 1e12:.1f}" == printed


def test_an_unknown_convention_is_named_with_those_that_there_are():
    with pytest.raises(UserError, match=r"'hi_prune'; near: hiprune.*; there are: pio_fvlm, .*globalcom2"):
        flops_conventions(["pio_fvlm", "hi_prune"])


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_says_its_formula_and_who_prints_it(name):
    text = CONVENTIONS[name].__doc__
    assert "Formula: " in text
    assert "Printed by: " in text


def test_the_command_prints_conventions_beside_our_own_count(here, tmp_path):
    flags = ["cost", "--model", LLAVA_7B, "--flops-convention", "pio_fvlm", "--flops-convention", "hiprune"]
    code, out, _ = here(*flags, "--json", cwd=tmp_path)
    (row,) = json.loads(out)
    assert code == 0
    assert row["flops_prefill"] == 8_504_297_914_368
    assert list(row)[-2:] == ["flops[pio_fvlm]", "flops[hiprune]"]
    assert (row["flops[pio_fvlm]"], round(row["flops[hiprune]"], -9)) == (2_986_076_012_544, 8_457_000_000_000)
    code, out, _ = here(*flags, cwd=tmp_path)
    assert "flops[pio_fvlm]" in out
