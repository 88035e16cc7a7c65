"""What the harness costs: questions asked through it with full tokens, beside the model's own processor and `generate`.

Both see the same questions about the same decoded pictures, in the same batches, decode greedily up to the same length
and must say the same. Usage:
python tests/benchmarks/overhead.py [--samples N] [--batch-size N]... [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import cycle, islice

import torch
from PIL.Image import Image
from toksweep.harness.contracts import Sample
from toksweep.harness.cost.latency import probe
from toksweep.harness.models import open_model
from toksweep.harness.models.base import VisionLanguageModel
from toksweep.harness.registry import registry
from toksweep.harness.schedule import untouched

Asked = Sequence[tuple[Sample, Sequence[Image]]]
ALLOWED = 1.03
"""The ratio that the harness is held to."""


def through_the_harness(model: VisionLanguageModel, asked: Asked, new_tokens: int) -> list[str]:
    """Prepare, encode, answer: what a sweep does for the cell of full tokens."""
    batch = model.prepare([sample for sample, _ in asked], [pictures for _, pictures in asked])
    encoded = model.encode(batch)
    schedule = untouched(model.shape)
    found = model.answer(batch, encoded, None, schedule, seed=0, max_new_tokens=new_tokens)
    return [answer.text for answer in found]


def by_generate(model: VisionLanguageModel, asked: Asked, new_tokens: int) -> list[str]:
    """The same with what transformers offers, and nothing of ours."""
    processor, prompts = model.processor, []
    for sample, pictures in asked:
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": sample.question}]
        turn = [{"role": "user", "content": content}]
        prompts.append(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
    images = [picture.convert("RGB") for _, pictures in asked for picture in pictures]
    inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt").to(model.device)
    with torch.no_grad():
        said = model.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    answers = said[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(answers, skip_special_tokens=True)]


def measure(
    model: VisionLanguageModel, asked: Asked, batch_size: int, rounds: int, new_tokens: int
) -> dict[str, object]:
    """Both ways in turn, one batch in each round, the same for both."""
    batches = [asked[i : i + batch_size] for i in range(0, len(asked), batch_size)]
    ways = {"generate": by_generate, "toksweep": through_the_harness}
    for batch in batches:
        said = {name: way(model, batch, new_tokens) for name, way in ways.items()}
        if said["generate"] != said["toksweep"]:
            sys.exit(f"The two ways give other answers, so that their times say nothing: {said}")

    def case(way: Callable[..., list[str]]) -> Callable[[], object]:
        turns = cycle(batches)
        return lambda: way(model, next(turns), new_tokens)

    found = probe({name: case(way) for name, way in ways.items()}, "generate", rounds=rounds)
    return {"batch_size": batch_size, "questions": len(asked)} | {name: asdict(t) for name, t in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="toksweep-mini", help="a name, a folder or a hub id")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--samples", type=int, default=16, help="questions, asked over and over")
    parser.add_argument("--batch-size", type=int, action="append", help="repeats; default 1 and 8")
    parser.add_argument("--max-new-tokens", type=int, default=16, help="longest answer")
    parser.add_argument("--rounds", type=int, default=101, help="measured rounds, two at least")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = islice(registry("tasks").get("synth_vqa").load()(None), options.samples)
    asked = [(sample, tuple(load() for load in sample.images)) for sample in samples]
    model = open_model(options.model, device=options.device)
    found = [
        measure(model, asked, size, options.rounds, options.max_new_tokens) for size in options.batch_size or (1, 8)
    ]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'batch':>5}{'generate ms':>13}{'toksweep ms':>13}{'ratio':>8}{'quartiles':>16}  allowed {ALLOWED}")
    for row in found:
        plain, ours = row["generate"], row["toksweep"]
        quartiles = f"{ours['ratio_q1']:.3f} to {ours['ratio_q3']:.3f}"
        print(
            f"{row['batch_size']:>5}{plain['median_ms']:>13.1f}{ours['median_ms']:>13.1f}{ours['ratio']:>8.3f}"
            f"{quartiles:>16}"
        )


if __name__ == "__main__":
    main()
