"""Parity with lmms-eval's wrapper of every family of ours: `python tests/benchmarks/lmms_families.py OUT [CASE...]`.

Five local tasks, and one on clips where the wrapper can show any, are asked of a tiny checkpoint of each family by
lmms-eval's command, in the dtype that the wrapper takes, and by ours. Prints a row per family and task, with how many
`answers` there were; exits with 1 where a prediction or a figure differs. InternVL's wrapper decodes clips with
torchcodec, and is asked about pictures alone where that cannot be loaded. That of LLaVA-OneVision shows clips with
`--force_simple` only, by the tokenizer's chat template, which is here the processor's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "support")]

import families  # noqa: E402
import lmms_clips  # noqa: E402
import lmms_local  # noqa: E402

NAMES = ("yes_no", "word", "letters", "pairs", "messages")
SIZES = tuple(f"{k}={v}" for k, v in lmms_clips.SIZES.items())
"""Of pictures and frames: the wrappers of Qwen would show a tiny checkpoint thousands of tokens. Qwen3-VL's limits
frames alone, and ours both, so that it is asked about pictures without."""
CASES = {
    "internvl": ("internvl_hf", ("max_patches=2",), "bf16", NAMES),
    "internvl-clips": ("internvl_hf", (), "bf16", ("long",)),
    "llava_next": ("llava_hf", ("dtype=float32",), "fp32", NAMES),
    "llava_onevision": ("llava_hf", ("dtype=float32",), "fp32", NAMES),
    "llava_onevision-clips": ("llava_hf", ("dtype=float32",), "fp32", ("video",)),
    "qwen2_5_vl": ("qwen2_5_vl", SIZES, "bf16", (*NAMES, "video")),
    "qwen3_vl": ("qwen3_vl", (), "bf16", NAMES),
    "qwen3_vl-clips": ("qwen3_vl", SIZES, "bf16", ("long",)),
}
"""By family: wrapper, its arguments beside the device, the dtype that it loads a checkpoint in, and tasks."""
SEEDS = {"internvl": 2, "llava_onevision": 6}
"""Of weights whose answers change with the frames."""
TEMPLATE = (
    "{% for m in messages %}USER {% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'video' %}<video>\n{% elif part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %} {% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
"""Of messages as processors and as tokenizers take them."""


def main(out: Path, chosen: Sequence[str]) -> int:
    """Run both sides of every family, or of some, and compare."""
    tasks = lmms_local.save_tasks(out / "tasks")
    lmms_clips.save_tasks(out / "tasks")
    asked = {k: v for k, v in CASES.items() if k in (chosen or CASES)}
    cases = {k: v for k, v in asked.items() if k != "internvl-clips" or _decodes()}
    runs = []
    for case, (wrapper, arguments, _, names) in cases.items():
        _save(out / case, case.removesuffix("-clips"))
        given = ",".join((f"pretrained={out / case},device=cpu,device_map=cpu", *arguments))
        runs.append(
            ["--model", wrapper, "--model_args", given, "--tasks", ",".join(f"local_{n}" for n in names),
             "--log_samples", "--include_path", str(tasks), "--output_path", str(out / f"theirs-{case}"),
             "--batch_size", "1", *(["--force_simple"] if case == "llava_onevision-clips" else [])]
        )  # fmt: skip
    log = lmms_local.cli(runs, out)
    wrong = 0
    for case, (_, arguments, dtype, names) in cases.items():
        flags = [flag for n in names for flag in ("--task", f"lmms:local_{n}")]
        if arguments == SIZES:
            flags += [x for k, v in lmms_clips.SIZES.items() for x in ("--" + k.replace("_", "-"), str(v))]
        subprocess.run(
            ["toksweep", "sweep", "--model", str(out / case), *flags, "--include-path", str(tasks), "--no-floors",
             "--method", "none", "--dtype", dtype, "--out", str(out / f"ours-{case}")],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for row in lmms_local.compare(out / f"theirs-{case}", out / f"ours-{case}", log=log):
            print(json.dumps({"family": case, **row}))
            wrong += row["predictions_differing"] + row["figures_differing"]
    return int(wrong > 0)


def _save(folder: Path, family: str) -> None:
    """A tiny checkpoint with a chat template, and with positions for 32 frames."""
    if family.startswith("qwen"):
        lmms_clips.save_qwen(folder, family)
        return
    families.save(folder, family, SEEDS.get(family, 0))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    if not (folder / "chat_template.jinja").exists():
        (folder / "chat_template.jinja").write_text(TEMPLATE)


def _decodes() -> bool:
    """Can torchcodec be loaded?"""
    from transformers.utils import is_torchcodec_usable

    return bool(is_torchcodec_usable(decode="video"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
