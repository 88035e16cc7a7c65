"""The benchmark of times to the first token, on configurations small enough for a CPU: it runs, and says on what."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import families
import pytest
import tiny

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "first_token.py"


@pytest.fixture(scope="module")
def first_token():
    spec = importlib.util.spec_from_file_location("first_token", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def qwen():
    config = families.qwen_config()
    config.text_config.max_position_embeddings = 1024  # its pictures have 576 visual tokens
    return config


@pytest.mark.parametrize(
    ("make", "budget", "refused"), [(tiny.llava_config, "4", None), (qwen, "64", "hired at 64: hired needs")]
)
def test_a_model_of_random_weights_is_timed_and_its_table_has_device_and_versions(
    first_token, tmp_path, make, budget, refused
):
    make().save_pretrained(tmp_path / "config")
    table = tmp_path / "table.md"
    flags = ["--device", "cpu", "--dtype", "fp32", "--budget", budget, "--out", str(table)]
    first_token.main(["--model", str(tmp_path / "config"), *flags, "--method", "divprune", "--method", "hired"])
    text = table.read_text()
    assert text.startswith(f"# Time to first token: {tmp_path / 'config'}, random weights")
    assert "torch " in text
    assert "cpu: " in text
    assert "batch 1; 5 rounds on 1 sample" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:3]] == ["| none"]
    assert any(row.startswith(f"| divprune | {budget} tokens (mean) | ") for row in rows)
    assert (refused is None) == ("Refused" not in text)
    assert refused is None or refused in text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--device", "cuda:9"], "Device 'cuda:9' is not there; this machine has"),
        (["--device", "cpu", "--attn", "flash_attention_2"], "take --attn sdpa"),
        (["--device", "cpu", "--model", "OpenGVLab/InternVL3-1B-hf"], "take one of llava, qwen2_5_vl"),
    ],
)
def test_a_mistake_is_one_sentence(first_token, flags, says):
    with pytest.raises(SystemExit, match=says) as end:
        first_token.main(flags)
    assert str(end.value).startswith("Error: ")
