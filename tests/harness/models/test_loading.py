"""Models by reference: what is read without weights, and every way in which loading can fail."""

import hashlib
import json
import shutil

import pytest
import tiny
import torch
import vlm
from PIL import Image
from toksweep.harness.contracts import Budget, Refusal, Sample, UserError
from toksweep.harness.fitting import fit_compressor
from toksweep.harness.models import model_info, model_shape, open_model
from toksweep.harness.registry import registry
from toksweep.harness.schedule import untouched
from toksweep.harness.spec import MethodChoice


@pytest.fixture
def copy(llava_folder, tmp_path):
    return shutil.copytree(llava_folder, tmp_path / "model")


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return str(folder)


def test_a_shape_is_known_without_weights(copy):
    (copy / "model.safetensors").unlink()
    shape, family = model_shape(str(copy))
    assert (shape.tokens, shape.grid, shape.vision_layers, shape.feature_layers, shape.llm_layers) == (
        16,
        (4, 4),
        5,
        4,
        6,
    )
    assert shape.class_token
    assert family.places == {"pixel", "encoder", "projector", "decoder", "attention"}


def test_the_published_llava_has_the_shape_of_its_paper():
    shape, _ = model_shape("llava-hf/llava-1.5-7b-hf")
    assert (shape.tokens, shape.grid, shape.vision_layers, shape.feature_layers, shape.llm_layers) == (
        576, (24, 24), 24, 23, 32,
    )  # fmt: skip


def test_a_family_names_what_it_lacks(llava_folder):
    family = model_shape(str(llava_folder))[1]
    assert family.lacking(("projector",), ("class_attention@-2",)) == []
    assert family.lacking(("elsewhere",), ("text",)) == ["the place elsewhere", "the signal text"]


def asks(folder, encoder=None):
    entry = registry("methods").get("cdpruner")
    return fit_compressor(entry, MethodChoice("cdpruner"), Budget.parse(8), "mean", model_info(str(folder), encoder))


def test_a_method_that_reads_a_text_encoder_is_refused_without_one_and_told_the_flag(llava_folder, clip_folder):
    with pytest.raises(Refusal, match="cdpruner needs a text encoder: add --text-encoder"):
        asks(llava_folder)
    assert asks(llava_folder, str(clip_folder))[1].entering == 8


def test_a_text_encoder_of_another_tower_is_named_with_both_widths(llava_folder, clip_folder, tmp_path):
    other = shutil.copytree(clip_folder, tmp_path / "other")
    vision = json.loads((other / "config.json").read_text())["vision_config"] | {"hidden_size": 48}
    change(other, vision_config=vision)
    with pytest.raises(UserError, match=r"other projects features of width 48, and the vision tower of .* has 32"):
        model_info(str(llava_folder), str(other))


def test_a_text_encoder_that_is_no_clip_is_named(llava_folder):
    with pytest.raises(UserError, match="is a llava: --text-encoder takes a CLIP checkpoint"):
        model_info(str(llava_folder), str(llava_folder))


def test_the_text_encoder_is_part_of_the_identity_of_a_cell_that_reads_it(llava_folder, clip_folder):
    first = model_info(str(llava_folder), str(clip_folder)).text_encoder.revision
    assert len(first) == 16
    assert first == model_info(str(llava_folder), str(clip_folder)).text_encoder.revision


def test_merging_is_not_served_where_features_of_several_layers_are_joined(copy):
    assert "encoder" not in model_shape(change(copy, vision_feature_layer=[-2, -3]))[1].places


def test_cuts_between_layers_are_not_served_with_a_sliding_window(copy):
    text = json.loads((copy / "config.json").read_text())["text_config"]
    text |= {"model_type": "mistral", "sliding_window": 8}
    assert "decoder" not in model_shape(change(copy, text_config=text))[1].places


def test_the_revision_follows_weights_and_configuration(copy, llava_folder):
    before = model_info(str(llava_folder)).revision
    assert model_info(str(copy)).revision == before == open_model(str(copy)).revision
    (copy / "README.md").write_text("a card")
    assert model_info(str(copy)).revision == before
    change(copy, image_seq_length=17)
    assert model_info(str(copy)).revision != before
    tiny.save_llava(copy, seed=1)
    assert model_info(str(copy)).revision != before


def test_a_checkpoint_is_the_same_bytes_for_the_same_seed(llava_folder, tmp_path):
    again = tiny.save_llava(tmp_path / "again")
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in llava_folder.iterdir()}


def test_a_chat_template_makes_the_prompt_where_there_is_one(copy):
    template = (
        "{% for m in messages %}{% for c in m.content %}"
        "{{ '<image> ' if c.type == 'image' else c.text }}{% endfor %}{% endfor %} ASSISTANT:"
    )
    (copy / "chat_template.jinja").write_text(template)
    plain, templated = open_model(str(copy.parent / "model")), None
    templated = plain.prompt(vlm.SHORT, 2)
    assert templated == "<image> <image> what colour is the ball? ASSISTANT:"


def test_the_prompt_of_llava_is_used_where_there_is_no_template(llava_folder):
    model = open_model(str(llava_folder))
    assert model.prompt(vlm.SHORT, 1) == "USER: <image>\nwhat colour is the ball? ASSISTANT:"


def test_an_older_processor_without_sizes_counts_placeholders_by_the_model(copy):
    path = copy / "processor_config.json"
    config = json.loads(path.read_text())
    for name in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        config.pop(name)
    path.write_text(json.dumps(config))
    model = open_model(str(copy))
    answers = model.answer(vlm.batch(model), None, None, untouched(model.shape), seed=0, max_new_tokens=1)
    assert answers[0].visual_tokens == (16,) * 6


def test_weights_are_loaded_in_the_type_asked_for(llava_folder):
    assert next(open_model(str(llava_folder), dtype="bf16").model.parameters()).dtype == torch.bfloat16


def test_a_folder_without_weights_is_named(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model holds no weights"):
        open_model(str(copy))


def test_torn_weights_are_named(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="model cannot be loaded"):
        open_model(str(copy))


def test_a_folder_without_processor_is_named(copy):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(UserError, match="model cannot be loaded"):
        open_model(str(copy))


def test_a_class_that_no_family_serves_is_named(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is a LlamaForCausalLM, which no family serves; there are: .*llava"):
        model_shape(str(tmp_path))


def test_another_class_of_the_same_model_type_is_named(copy):
    with pytest.raises(UserError, match="is a LlavaLlamaForCausalLM, which no family serves"):
        open_model(change(copy, architectures=["LlavaLlamaForCausalLM"]))


def test_a_configuration_without_a_class_is_that_of_its_family(copy):
    assert open_model(change(copy, architectures=None)).family == "llava"


def test_a_tower_that_is_not_served_is_named(copy):
    vision = {"model_type": "pixtral", "image_size": 32, "patch_size": 8}
    with pytest.raises(UserError, match="this model has pixtral"):
        model_shape(change(copy, vision_config=vision))


def test_a_model_that_hands_over_its_class_token_is_named(copy):
    with pytest.raises(UserError, match="vision_feature_select_strategy is 'full'"):
        model_shape(change(copy, vision_feature_select_strategy="full"))


@pytest.mark.parametrize(("options", "said"), [
    ({"device": "cuda:99"}, "Device 'cuda:99' is not there"), ({"device": "toaster"}, "Device 'toaster' is unknown"),
    ({"dtype": "int3"}, "Dtype 'int3' is unknown"), ({"attention": "flex_attention"}, "'flex_attention' is not served"),
    ({"attention": "flash_attention_2"}, "flash_attention_2 needs its package"),
])  # fmt: skip
def test_what_the_platform_lacks_is_named(llava_folder, options, said):
    with pytest.raises(UserError, match=said):
        open_model(str(llava_folder), **options)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="no-such-org/no-such-model"):
        open_model("no-such-org/no-such-model")


def test_a_damaged_file_is_named_before_it_is_loaded(copy):
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(copy.glob("*.safetensors"))]
    (copy / "SHA256SUMS").write_text("".join(sums))
    open_model(str(copy))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        open_model(str(copy))


def test_more_pictures_than_the_model_has_positions_for_are_refused(copy):
    text = json.loads((copy / "config.json").read_text())["text_config"]
    model = open_model(change(copy, text_config=text | {"max_position_embeddings": 40}))
    picture = Image.new("RGB", (32, 32))
    one, three = (Sample(name, "c", (), "f", question="What?") for name in ("one", "three"))
    model.prepare([one], [[picture]])
    with pytest.raises(UserError, match=r"three takes \d+ tokens for 3 pictures, and the model has positions for 40"):
        model.prepare([one, three], [[picture], [picture] * 3])
