"""Scores a checkpoint folder on the synthetic tasks, with pictures and blind, through plain `from_pretrained`.

`python -m toksweep.harness.models.embedded.evaluate FOLDER --task synth_vqa [--split validation] [--blind]`
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ....metrics.accuracy import Accuracy
from ....tasks.synth.samples import clip_samples, scene_samples
from ...contracts import Memo, Output, Sample

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor


def answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, samples: Sequence[Sample], *, blind: bool = False
) -> list[str]:
    """What the model says to each of the samples, greedily; `blind` shows it grey pictures instead."""
    from PIL import Image

    prompts, pictures = [], []
    for sample in samples:
        shown = [load() for load in sample.images]
        if blind:
            shown = [Image.new("RGB", p.size, (128, 128, 128)) for p in shown]
        content: list[dict[str, str]] = [{"type": "image"}] * len(shown) + [
            {"type": "text", "text": sample.question or ""}
        ]
        chat: list[dict[str, Any]] = [{"role": "user", "content": content}]
        prompts.append(processor.apply_chat_template(chat, add_generation_prompt=True))
        pictures.append(shown)
    inputs = processor(images=pictures, text=prompts, padding=True, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [str(text) for text in said]


def accuracies(samples: Sequence[Sample], said: Sequence[str]) -> dict[str, float]:
    """Accuracy over all samples and by slice (`question=colour`)."""
    metric, groups = Accuracy(), defaultdict(list)
    for sample, text in zip(samples, said, strict=True):
        (item,) = metric.score(Output(text=text), sample, Memo())
        groups["all"].append(item.value)
        for name, value in item.slices.items():
            groups[f"{name}={value}"].append(item.value)
    return {name: sum(values) / len(values) for name, values in sorted(groups.items())}


def best_constant(samples: Sequence[Sample]) -> float:
    """Accuracy of the most frequent answer to each kind of question: what knowing the priors alone is worth.

    The kind of a question is its family; the answer is chosen on one half of the samples and counted on the other.
    """
    order = list(samples)
    random.Random(0).shuffle(order)
    seen: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for sample in order[::2]:
        seen[sample.stratum][sample.answers[0]] += 1
    rest = order[1::2]
    usual = {stratum: max(counts, key=lambda answer: counts[answer]) for stratum, counts in seen.items()}
    return sum(s.answers[0] == usual.get(s.stratum) for s in rest) / len(rest)


def main() -> None:
    """Print one JSON document."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=("synth_vqa", "synth_video_qa"), default="synth_vqa")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--blind", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = LlavaForConditionalGeneration.from_pretrained(given.folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(given.folder)
    made = scene_samples(250, given.split) if given.task == "synth_vqa" else clip_samples(100, given.split, 8)
    samples = list(islice(made, given.limit))
    said = []
    for start in range(0, len(samples), given.batch):
        said += answers(model, processor, samples[start : start + given.batch], blind=given.blind)
    figures = {"n": len(samples), "best_constant": best_constant(samples), **accuracies(samples, said)}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
