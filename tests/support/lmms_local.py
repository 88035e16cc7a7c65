"""lmms-eval tasks over local pictures, a tiny model that answers in their words, and lmms-eval's own command.

`save_tasks` writes YAML files, a `utils.py` and parquet data; `cli` runs lmms-eval as users do, in its own process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}SYSTEM {% else %}USER {% endif %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
ANSWERS = ("yes", "no", "A", "B", "red", "two")
ENDING = ("yes", "no", "A")
WORDS = (
    *tiny.SPECIAL, "USER", "ASSISTANT", "SYSTEM", ":", "?", ".", "Is", "the", "What", "How", "many", "answer", "colour",
    "which", "Answer", "with", "letter", *ANSWERS,
)  # fmt: skip

UTILS = '''
"""Scores of the local tasks."""
from collections import defaultdict

SEEN = {"right": 0}  # module-global state, as OCRBench has


def picture(doc):
    return [doc["image"].convert("RGB")]


def two_pictures(doc):
    return [doc["image"].convert("RGB"), doc["second"].convert("RGB")]


def clip(doc):
    return [doc["video"]]


def text(doc, lmms_eval_specific_kwargs=None):
    extra = lmms_eval_specific_kwargs or {}
    return extra.get("pre_prompt", "") + doc["question"] + extra.get("post_prompt", "")


def letters_text(doc):
    options = "\\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", doc["choices"]))
    return f"{doc['question']}\\n{options}\\nAnswer with the letter."


def letters(doc, results):
    said = results[0].strip()[:1].upper()
    doc["choices"].append("edited in place")  # as some tasks do
    return {"letter_acc": float(said == doc["letter"])}


def pairs(doc, results):
    score = float(results[0].lower().startswith(doc["answer"]))
    return {"pair_score": {"question_id": doc["picture"], "category": doc["category"], "score": score},
            "pair_total": {"question_id": doc["picture"], "category": doc["category"], "score": score}}


def pair_sum(results):
    scores = defaultdict(lambda: defaultdict(list))
    for r in results:
        scores[r["category"]][r["question_id"]].append(r["score"])
    total = 0.0
    for category in scores.values():
        points = [100 * sum(s) / len(s) + 100 * (sum(s) == len(s)) for s in category.values()]
        total += sum(points) / len(points)
    return total


def pair_total(results, args):
    from pathlib import Path
    Path(args.output_path).mkdir(parents=True, exist_ok=True)
    (Path(args.output_path) / "pairs.txt").write_text(str(len(results)))
    for r in results:
        SEEN["right"] += int(r["score"])
    return SEEN["right"] / 40


def own_messages(doc, lmms_eval_specific_kwargs=None):
    return [
        {"role": "system", "content": [{"type": "text", "text": "Answer with one word . "}]},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image", "url": picture(doc)[0]},
                                     {"type": "text", "text": " ? " + doc["question"]}]},
    ]
'''

HEAD = """
dataset_path: parquet
dataset_kwargs:
  data_files: {{test: {data}}}
task: {name}
test_split: test
output_type: generate_until
generation_kwargs: {{max_new_tokens: {tokens}, temperature: 0, do_sample: false, until: ["\\n"]}}
"""
PICTURE = "doc_to_visual: !function utils.picture\ndoc_to_text: !function utils.text\ndoc_to_target: answer\n"
MEAN = "aggregation: mean, higher_is_better: true"
EXACT = f"metric_list: [{{metric: exact_match, {MEAN}, ignore_case: true}}]\n"
BODIES = {
    "local_yes_no": (
        PICTURE + EXACT + "lmms_eval_specific_kwargs:\n"
        '  default: {pre_prompt: "", post_prompt: " Answer with yes or no ."}\n'
        '  qwen2_5_vl: {pre_prompt: "", post_prompt: " yes or no ?"}\n'
    ),
    "local_word": PICTURE + EXACT + (
        "filter_list:\n  - {name: first, filter: [{function: take_first}]}\n"
        "  - {name: lower, filter: [{function: lowercase}, {function: take_first}]}\n"
    ),
    "local_letters": (
        "doc_to_visual: !function utils.picture\ndoc_to_text: !function utils.letters_text\ndoc_to_target: letter\n"
        "process_results: !function utils.letters\n" f"metric_list: [{{metric: letter_acc, {MEAN}}}]\n"
    ),
    "local_anls": (
        "doc_to_visual: !function utils.picture\ndoc_to_text: !function utils.text\ndoc_to_target: answers\n"
        f"metric_list: [{{metric: anls, {MEAN}}}]\n"
    ),
    "local_pairs": (
        PICTURE + "process_results: !function utils.pairs\nmetric_list:\n"
        "  - {metric: pair_score, aggregation: !function utils.pair_sum, higher_is_better: true}\n"
        "  - {metric: pair_total, aggregation: !function utils.pair_total, higher_is_better: true}\n"
    ),
    "local_two_pictures": (
        "doc_to_visual: !function utils.two_pictures\ndoc_to_text: !function utils.text\ndoc_to_target: answer\n"
        + EXACT
    ),
    "local_messages": PICTURE + "doc_to_messages: !function utils.own_messages\n" + EXACT,
}  # fmt: skip
VIDEO = (
    "doc_to_visual: !function utils.clip\ndoc_to_text: !function utils.letters_text\ndoc_to_target: letter\n"
    "process_results: !function utils.letters\n"
    f"metric_list: [{{metric: letter_acc, {MEAN}}}]\n"
)


def find_data() -> Path | None:
    """The real pictures, where they are beside the reference folder or the checkout."""
    from pictures import REAL

    reference = os.environ.get("TOKSWEEP_REFERENCE")
    for folder in ([Path(reference).parent / "data" / "real"] if reference else []) + [REAL]:
        if (folder / "vqa" / "annotations.jsonl").is_file():
            return folder
    return None


def data_folder() -> Path:
    """The real pictures; skips where there are none."""
    found = find_data()
    if found is None:
        pytest.skip(
            "no real pictures beside the reference folder (data/real/vqa; TOKSWEEP_REFERENCE names that folder)"
        )
    return found


def rows(count: int) -> list[dict]:
    """Questions of the real set with what every task needs beside them."""
    folder = data_folder() / "vqa"
    lines = [json.loads(x) for x in (folder / "annotations.jsonl").read_text().splitlines()]
    lines = [x for x in lines if x["answer_type"] == "short"]
    step = len(lines) // count
    return [{**x, "path": folder / x["file"]} for x in lines[: step * count : step]]


def synth_rows(count: int) -> list[dict]:
    """Questions of `synth_vqa`, which `toksweep-mini` can answer."""
    from toksweep.harness.registry import registry

    samples = list(registry("tasks").get("synth_vqa").load()(None))
    chosen = samples[:: len(samples) // count][:count]
    return [
        {"id": s.id, "image": s.images[0](), "question": s.question, "answer": s.answers[0], "category": s.stratum}
        for s in chosen
    ]


def save_tasks(folder: Path, count: int = 12, tokens: int = 4, side: int = 64) -> Path:
    """Tasks over `count` real pictures, made small."""
    from datasets import Dataset, Features, Image, Sequence, Value
    from PIL import Image as Pillow

    tasks = folder / "tasks"
    for part in (tasks, folder / "data"):
        part.mkdir(parents=True, exist_ok=True)
    (tasks / "utils.py").write_text(UTILS)
    asked = rows(count)
    shown = []
    for row in asked:
        picture = Pillow.open(row["path"]).convert("RGB")
        picture.thumbnail((side, side))
        shown.append(picture)
    made: dict[str, list[dict]] = {name: [] for name in BODIES}
    for n, (row, picture) in enumerate(zip(asked, shown, strict=True)):
        base = {"id": row["id"], "image": picture, "category": row["source"], "picture": row["file"]}
        right, other = row["answers"][0], asked[(n + 1) % count]["answers"][0]
        made["local_word"].append({**base, "question": row["question"], "answer": ("A", "red", "two")[n % 3]})
        made["local_messages"].append(made["local_word"][-1])
        made["local_two_pictures"].append({**made["local_word"][-1], "second": shown[(n + 1) % count]})
        made["local_anls"].append({**base, "question": row["question"], "answers": [*row["answers"], "yes"]})
        choices = [right, other, "red", "blue"]
        made["local_letters"].append(
            {
                **base,
                "question": row["question"],
                "choices": choices[n % 4 :] + choices[: n % 4],
                "letter": "ADCB"[n % 4],
            }
        )
        for k, (claim, answer) in enumerate(((right, "yes"), (other, "no"))):
            line = {
                **base,
                "id": f"{row['id']}-{k}",
                "question": f"{row['question']} Is the answer {claim} ?",
                "answer": answer,
            }
            made["local_pairs"].append(line)
            if k == n % 2:
                made["local_yes_no"].append(line)
    text, kinds = Value("string"), {"image": Image(), "second": Image()}
    for name, lines in made.items():
        features = {k: kinds.get(k, Sequence(text) if isinstance(v, list) else text) for k, v in lines[0].items()}
        data = folder / "data" / f"{name}.parquet"
        Dataset.from_list(lines, features=Features(features)).to_parquet(data)
        (tasks / f"{name}.yaml").write_text(HEAD.format(data=data, name=name, tokens=tokens) + BODIES[name])
    made_synth = synth_rows(count)
    data = folder / "data" / "local_synth.parquet"
    Dataset.from_list(made_synth).to_parquet(data)
    (tasks / "local_synth.yaml").write_text(HEAD.format(data=data, name="local_synth", tokens=tokens) + PICTURE + EXACT)
    (tasks / "local_group.yaml").write_text(
        "group: local_group\ntask: [local_yes_no, local_messages, local_two_pictures]\n"
        "aggregate_metric_list: [{metric: match, aggregation: mean, weight_by_size: false}]\n"
    )
    return tasks


def save_model(folder: Path, seed: int = 11) -> Path:
    """A tiny LLaVA with random weights, a chat template, and words that are answers."""
    import torch
    from transformers import CLIPImageProcessor, LlavaForConditionalGeneration, LlavaProcessor

    config = tiny.llava_config()
    config.text_config.vocab_size = len(WORDS)
    config.text_config.max_position_embeddings = 1024
    silent = len(WORDS) - len(ANSWERS)
    model = tiny.random_model(LlavaForConditionalGeneration, config, seed, specials=silent)
    with torch.no_grad():  # behind some words comes the end, so that answers are of one word or of several
        words, head = model.get_input_embeddings().weight, model.lm_head.weight
        end = torch.ones(words.shape[1]) / words.shape[1] ** 0.5
        words[[WORDS.index(w) for w in ENDING]] += 12 * end
        head[WORDS.index("</s>")] = 2 * end
        head[[WORDS.index(w) for w in ENDING]] *= 1.5
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        image_processor=pictures, tokenizer=tiny.tokenizer(WORDS), patch_size=8,
        vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


RUNNER = """
import json, sys
from lmms_eval import tasks
from lmms_eval.__main__ import cli_evaluate

index, catalogue = tasks.TaskManager._get_task_and_group, tasks.__path__[0]

def included(self, folder):  # of its own it parses 2,000 files, twice in every run
    return {} if folder.rstrip("/") == catalogue else index(self, folder)

tasks.TaskManager._get_task_and_group = included
for args in json.loads(sys.argv[1]):
    sys.argv = ["lmms-eval", *args]
    cli_evaluate()
"""


def spoil(folder: Path, copy: Path, name: str, *, only: list[int] | None = None, but: list[str] | None = None) -> None:
    """A copy of tasks in which pictures are no pictures: those of some rows, or of all rows but the samples named and
    the first, which lmms-eval decodes when it loads a task."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq
    from toksweep.tasks.lmms.borrowed import LmmsTask
    from toksweep.tasks.lmms.collection import Lmms

    shutil.copytree(folder, copy)
    for yaml in (copy / "tasks").glob("*.yaml"):
        yaml.write_text(yaml.read_text().replace(str(folder), str(copy)))
    if but is not None:
        task = Lmms().open(name, family="llava", include=[str(folder / "tasks")], folder=None)
        assert isinstance(task, LmmsTask)
        only = [at for at, entry in enumerate(task.listed()) if entry.id not in but and at]
    path = copy / "data" / f"{name}.parquet"
    whole = pq.read_table(path)
    pictures = whole.column("image").to_pylist()
    for at in only or ():
        pictures[at] = {"bytes": b"no picture", "path": None}
    column = whole.schema.get_field_index("image")
    whole = whole.set_column(column, whole.schema.field("image"), pa.array(pictures, whole.schema.field("image").type))
    pq.write_table(whole, path)


def cli(runs: list[list[str]], cwd: Path, path: list[str] | None = None) -> str:
    """lmms-eval's command with these arguments, one run after the other in a process of its own: it imports slowly. Its
    exit code says nothing, so its results files must be read."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([*(path or ()), *filter(None, [env.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(runs)], capture_output=True, text=True, cwd=cwd, env=env, check=False
    )
    return done.stdout[-4000:] + done.stderr[-4000:]


def results(folder: Path, log: str = "") -> dict:
    """What a run of lmms-eval wrote: `results`, and `samples` by task, one list per filter in document order."""
    files = sorted(folder.rglob("*_results.json"))
    assert files, f"lmms-eval wrote no results: {log}"
    samples: dict[str, list[dict]] = {}
    for file in sorted(folder.rglob("*_samples_*.jsonl")):
        name = file.stem.split("_samples_")[1]
        samples[name] = [json.loads(x) for x in file.read_text().splitlines()]
    return json.loads(files[-1].read_text()) | {"samples": samples}


def compare(
    theirs: Path, ours: Path, label: str = "none", log: str = "", names: Sequence[str] | None = None
) -> list[dict]:
    """Predictions and figures of lmms-eval's results files beside those of our folder, a row per task (default: of all
    of ours)."""
    from toksweep.results.aggregate import table
    from toksweep.results.store import ResultsFolder

    told, folder = results(theirs, log), ResultsFolder(ours)
    cells = table(folder)
    cells = cells[(cells.label == label) & cells["slice"].isna()]
    rows: list[dict] = []
    of_label = {c.task.removeprefix("lmms:"): c for c in folder.cells() if c.label == label}
    for name in names or of_label:
        cell = of_label[name]
        firsts: dict[int, str] = {}
        for sample in told["samples"][name]:
            answer = sample["filtered_resps"]
            firsts.setdefault(sample["doc_id"], answer[0] if isinstance(answer, list) else answer)
        stored = folder.records(cell.work_id)
        said = [stored[i].prediction for i in cell.sample_ids]
        assert sorted(firsts) == list(range(len(said))), name
        figures = {}
        for row in cells[cells.task == cell.task].to_dict("records"):
            key = row["metric"] if "," in row["metric"] else f"{row['metric']},none"
            if row["n"]:  # a metric of other categories applies to no sample here
                figures[key] = (told["results"][name][key], row["value"])
        rows.append(
            {
                "task": name,
                "samples": len(said),
                "answers": len(set(said)),
                "predictions_differing": sum(firsts[n] != text for n, text in enumerate(said)),
                "figures": figures,
                "figures_differing": sum(not abs(a - b) <= 1e-9 for a, b in figures.values()),
            }
        )
    return rows
