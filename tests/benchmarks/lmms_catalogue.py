"""Parity on tasks of lmms-eval's own catalogue, fed local pictures: `python tests/benchmarks/lmms_catalogue.py OUT`.

Eight YAML files of the catalogue, included under another name with local data, are asked of a tiny LLaVA (random
weights) by lmms-eval's command and by ours. Prints a row per task; exits with 1 where a prediction or a figure differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "support")]

import lmms_local  # noqa: E402

SHORT = "  max_new_tokens: 8\n"
"""In place of a wrapper's 1024 where a task states no longest answer: the tiny model never ends one."""


def rows(count: int) -> dict[str, list[dict]]:
    """Documents with the columns that the tasks' code reads."""
    from PIL import Image

    made: dict[str, list[dict]] = {}
    asked = lmms_local.rows(count)
    for n, row in enumerate(asked):
        picture = Image.open(row["path"]).convert("RGB")
        picture.thumbnail((96, 96))
        said, other = row["answers"][0], asked[(n + 1) % count]["answers"][0]
        base = {"image": picture, "question": row["question"], "question_id": f"q{n}"}
        for k, (claim, answer) in enumerate(((said, "yes"), (other, "no"))):
            claimed = f"{row['question']} Is the answer {claim} ? Please answer yes or no."
            pair = {**base, "question": claimed, "answer": answer, "category": ("existence", "OCR")[n % 2]}
            made.setdefault("mme", []).append({**pair, "answer": answer.capitalize()})
            made.setdefault("pope", []).append({**pair, "question_id": f"q{n}-{k}"})
        ten = [*(row["answers"] * 10)[:6], "yes", "yes", "yes", "red"]
        made.setdefault("textvqa_val", []).append({**base, "answers": ten, "answer": said, "ocr_tokens": ["a"]})
        kinds = ("Regular Text Recognition", "Scene Text-centric VQA", "Key Information Extraction")
        made.setdefault("ocrbench", []).append(
            {**base, "answer": [said, "yes"], "dataset": "local", "question_type": kinds[n % 3]}
        )
        made.setdefault("chartqa", []).append(
            {**base, "answer": ("yes", said)[n % 2], "type": ("human_test", "augmented_test")[n % 2]}
        )
        made.setdefault("docvqa_val", []).append({**base, "answers": [*row["answers"], "yes"], "questionId": str(n)})
        made.setdefault("scienceqa_img", []).append(
            {**base, "choices": [said, other, "red"], "answer": n % 2, "hint": "", "lecture": "", "solution": ""}
        )
        made.setdefault("realworldqa", []).append(
            {**base, "answer": ("A", "yes", said)[n % 3], "image_path": f"{n}.png"}
        )
    return made


def save(folder: Path, count: int) -> Path:
    """The data, and YAML files that include those of the catalogue."""
    from datasets import Dataset
    from toksweep.tasks.lmms.catalogue import catalogue, read_yaml, tasks_folder

    tasks = folder / "catalogue"
    tasks.mkdir(parents=True)
    for name, lines in rows(count).items():
        data = folder / f"{name}.parquet"
        Dataset.from_list(lines).to_parquet(data)
        own = tasks_folder() / catalogue()[name].file
        split = read_yaml(own).get("test_split") or read_yaml(own)["validation_split"]
        text = (
            f"include: {own}\ntask: here_{name}\ndataset_path: parquet\ndataset_name: default\n"
            f"dataset_kwargs:\n  data_files: {{{split}: {data}}}\n"
        )
        if "max_new_tokens" not in (read_yaml(own).get("generation_kwargs") or {}):
            text += f"generation_kwargs:\n{SHORT}"
        (tasks / f"here_{name}.yaml").write_text(text)
    return tasks


def main(out: Path, count: int = 12) -> int:
    """Run both sides and compare."""
    tasks = save(out, count)
    model = lmms_local.save_model(out / "model", seed=3)
    names = sorted(p.stem for p in tasks.glob("*.yaml"))
    log = lmms_local.cli(
        [["--model", "llava_hf", "--model_args", f"pretrained={model},device=cpu,device_map=cpu,dtype=float32",
          "--tasks", ",".join(names), "--include_path", str(tasks), "--output_path", str(out / "theirs"),
          "--log_samples", "--batch_size", "1"]],
        out,
    )  # fmt: skip
    asked = [flag for n in names for flag in ("--task", f"lmms:{n}")]
    subprocess.run(
        ["toksweep", "sweep", "--model", str(model), *asked, "--include-path", str(tasks), "--method", "divprune",
         "--method", "none", "--budget", "50%", "--no-floors", "--out", str(out / "ours")],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    found = lmms_local.compare(out / "theirs", out / "ours", log=log)
    for row in found:
        print(json.dumps(row))
    wrong = sum(r["predictions_differing"] + r["figures_differing"] for r in found)
    print(f"{len(names)} tasks, {sum(r['samples'] for r in found)} predictions, "
          f"{sum(len(r['figures']) for r in found)} figures, {wrong} differ")  # fmt: skip
    return 1 if wrong or len(found) < len(names) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
