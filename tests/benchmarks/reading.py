"""How fast are words read in batches, as the metrics do, beside a plain loop that reads crop by crop?

docTR's PARSeq with random weights that end words at many lengths; both are told how long the longest transcript of a
word's batch is, and must read the same. Usage: python tests/benchmarks/reading.py [--crops N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from toksweep.harness.cost.latency import probe
from toksweep.harness.registry import registry
from toksweep.metrics.backends import ocr
from toksweep.metrics.backends.parseq import fit
from torchvision.transforms.functional import normalize

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--crops", type=int, default=72, help="words to read, 72 at most")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, two at least")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from random_parseq import random_parseq

    with tempfile.TemporaryDirectory() as folder:
        random_parseq(Path(folder))
        os.environ["DOCTR_CACHE_DIR"] = folder
        import doctr.utils.data

        doctr.utils.data._check_integrity = lambda *_: True  # random weights have another digest
        reader = ocr.parseq()
    crops, longest = [], []
    for sample in registry("tasks").get("text").load()(None):
        image = sample.images[0]()
        crops += [image.crop(tuple(int(edge) for edge in region.box)) for region in sample.regions]
        longest += [region.longest for region in sample.regions]
    crops, longest = crops[: options.crops], longest[: options.crops]

    def batched() -> list[str]:
        return reader.decode(reader.encode(crops), longest)

    def one_by_one() -> list[str]:
        model, readings = reader._model, []
        model.max_length = reader._longest
        with torch.inference_mode():
            for crop, length in zip(crops, longest, strict=True):
                shown = normalize(fit(crop, 32, 128), model.cfg["mean"], model.cfg["std"])
                readings.append(model(shown[None], ["a" * length], return_preds=True)["preds"][0][0])
        return readings

    if batched() != one_by_one():
        sys.exit("the loop reads other words, so that times say nothing")
    found = probe({"batched": batched, "loop": one_by_one}, "loop", rounds=max(options.rounds, 2), warmup=0)
    if options.json:
        print(json.dumps({name: dataclasses.asdict(timing) for name, timing in found.items()}, indent=2))
        return
    for name, timing in found.items():
        each, low, high = timing.median_ms / len(crops), timing.ratio_q1, timing.ratio_q3
        print(f"{name:<8}{each:>8.1f} ms a crop   ratio {timing.ratio:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
