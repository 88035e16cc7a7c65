"""Parity with lmms-eval's wrapper of every family of ours: `python tests/benchmarks/lmms_families.py OUT`.

Five local tasks are asked of a tiny checkpoint of each family by lmms-eval's command, in the dtype that the wrapper
takes, and by ours. Prints a row per family and task; exits with 1 where a prediction or a figure differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "support")]

import families  # noqa: E402
import lmms_local  # noqa: E402

NAMES = ("yes_no", "word", "letters", "pairs", "messages")
SIZES = {"min_pixels": 512, "max_pixels": 1280}
"""Qwen2.5-VL's wrapper would show the tiny checkpoint thousands of tokens."""
CASES = {
    "internvl": ("internvl_hf", "max_patches=2", "bf16"),
    "llava_next": ("llava_hf", "dtype=float32", "fp32"),
    "llava_onevision": ("llava_hf", "dtype=float32", "fp32"),
    "qwen2_5_vl": ("qwen2_5_vl", ",".join(f"{k}={v}" for k, v in SIZES.items()), "bf16"),
    "qwen3_vl": ("qwen3_vl", "", "bf16"),
}
"""By family: wrapper, its arguments beside the device, and the dtype that it loads a checkpoint in."""


def main(out: Path) -> int:
    """Run both sides of every family and compare."""
    tasks = lmms_local.save_tasks(out / "tasks")
    names = [f"local_{n}" for n in NAMES]
    asked = ",".join(names)
    runs = []
    for family, (wrapper, arguments, _) in CASES.items():
        folder = families.save(out / family, family)
        if not (folder / "chat_template.jinja").exists():
            (folder / "chat_template.jinja").write_text(lmms_local.TEMPLATE)
        given = ",".join(filter(None, (f"pretrained={folder},device=cpu,device_map=cpu", arguments)))
        runs.append(
            ["--model", wrapper, "--model_args", given, "--tasks", asked, "--log_samples",
             "--include_path", str(tasks), "--output_path", str(out / f"theirs-{family}"), "--batch_size", "1"]
        )  # fmt: skip
    log = lmms_local.cli(runs, out)
    flags = [flag for n in names for flag in ("--task", f"lmms:{n}")]
    wrong = 0
    for family, (_, _, dtype) in CASES.items():
        sizes = [x for k, v in SIZES.items() for x in ("--" + k.replace("_", "-"), str(v))]
        subprocess.run(
            ["toksweep", "sweep", "--model", str(out / family), *flags, "--include-path", str(tasks), "--no-floors",
             "--method", "none", "--dtype", dtype, *(sizes if family == "qwen2_5_vl" else []), "--out",
             str(out / f"ours-{family}")],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for row in lmms_local.compare(out / f"theirs-{family}", out / f"ours-{family}", log=log):
            print(json.dumps({"family": family, **row}))
            wrong += row["predictions_differing"] + row["figures_differing"]
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
