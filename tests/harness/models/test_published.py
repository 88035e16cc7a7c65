"""Configurations by folder, from the store and from the hub; what cannot be read is told in one sentence."""

import json
import subprocess
import sys

import pytest
import torch
from toksweep.harness.contracts import UserError
from toksweep.harness.listing import listing
from toksweep.harness.models import FAMILIES
from toksweep.harness.models.published import load_config, stored_configs
from transformers import AutoModelForImageTextToText
from transformers.initialization import no_init_weights

PARAMETERS = {
    "LanguageBind/Video-LLaVA-7B-hf": 7.37,
    "OpenGVLab/InternVL3-1B-hf": 0.938,
    "OpenGVLab/InternVL3-2B-hf": 2.09,
    "OpenGVLab/InternVL3-8B-hf": 7.94,
    "OpenGVLab/InternVL3-14B-hf": 15.1,
    "OpenGVLab/InternVL3-38B-hf": 38.4,
    "OpenGVLab/InternVL3-78B-hf": 78.4,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33.5,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73.4,
    "Qwen/Qwen3-VL-2B-Instruct": 2.13,
    "Qwen/Qwen3-VL-4B-Instruct": 4.44,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77,
    "Qwen/Qwen3-VL-32B-Instruct": 33.4,
    "llava-hf/LLaVA-NeXT-Video-7B-hf": 7.06,
    "llava-hf/llava-1.5-7b-hf": 7.06,
    "llava-hf/llava-1.5-13b-hf": 13.4,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 0.894,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.03,
    "llava-hf/llava-onevision-qwen2-72b-ov-hf": 73.2,
    "llava-hf/llava-v1.6-mistral-7b-hf": 7.57,
    "llava-hf/llava-v1.6-vicuna-7b-hf": 7.06,
    "llava-hf/llava-v1.6-vicuna-13b-hf": 13.4,
}
"""Billions, to the three digits that the hub shows."""


@pytest.mark.parametrize("ref", PARAMETERS)
def test_a_stored_configuration_builds_a_model_of_the_published_size(ref):
    config = load_config(ref)
    with torch.device("meta"), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    assert [type(model).__name__] == config.architectures
    assert f"{sum(p.numel() for p in model.parameters()) / 1e9:.3g}" == f"{PARAMETERS[ref]:g}"


def test_every_stored_configuration_is_listed_by_hub_id_and_has_a_published_size():
    assert stored_configs() == sorted(PARAMETERS)


def test_what_no_family_serves_is_not_listed_as_a_model():
    classes = {row["class"] for row in listing("models")[0]}
    assert "LlavaForConditionalGeneration" in classes
    assert {load_config(row["name"]).model_type for row in listing("models")[0]} <= FAMILIES.keys()


def test_listing_does_not_import_torch():
    code = "import sys, toksweep.harness.models.published as p; p.stored_configs(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_wins_over_the_store(tmp_path, monkeypatch):
    config = load_config("llava-hf/llava-1.5-7b-hf")
    config.text_config.num_hidden_layers = 3
    config.save_pretrained(tmp_path / "llava-hf" / "llava-1.5-7b-hf")
    monkeypatch.chdir(tmp_path)
    assert load_config("llava-hf/llava-1.5-7b-hf").text_config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("text", "culprit"),
    [("{", "valid JSON"), ("{}", "model_type"), (json.dumps({"model_type": "abacus"}), "abacus")],
    ids=["torn", "empty", "unknown class"],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path, text, culprit):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=culprit) as caught:
        load_config(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_config(str(tmp_path))


def test_a_reference_that_is_neither_folder_nor_hub_id_says_where_to_look():
    with pytest.raises(UserError, match=r"'llava' is neither .* toksweep list models"):
        load_config("llava")


def test_without_a_network_a_hub_id_is_refused_at_once(tmp_path):
    code = (
        "from toksweep.harness.models.published import load_config\n"
        "from toksweep.harness.contracts import UserError\n"
        "try: load_config('someone/some-model')\n"
        "except UserError as error: print(error)"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=120)
    assert "someone/some-model cannot be fetched" in ran.stdout
