"""Configurations by folder, from the store and from the hub; what cannot be read is told in one sentence."""

import json
import subprocess
import sys

import pytest
import torch
from toksweep.harness.contracts import UserError
from toksweep.harness.models.published import load_config, stored_configs
from transformers import AutoModelForImageTextToText

PARAMETERS = {"llava-hf/llava-1.5-7b-hf": 7_063_427_072, "llava-hf/llava-1.5-13b-hf": 13_351_494_656}


@pytest.mark.parametrize("ref", PARAMETERS)
def test_a_stored_configuration_builds_a_model_of_the_published_size(ref):
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(load_config(ref))
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[ref]


def test_stored_configurations_are_listed_by_hub_id():
    assert set(PARAMETERS) <= set(stored_configs())


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


def test_a_reference_that_is_neither_folder_nor_hub_id_lists_what_is_stored():
    with pytest.raises(UserError, match=r"'llava' is neither .* llava-hf/llava-1\.5-7b-hf"):
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
