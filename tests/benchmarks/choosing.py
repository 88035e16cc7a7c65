"""How long every compressor takes to choose, beside a plain loop that chooses the same.

One image of 24 x 24 tokens, or a clip of 8 frames of 14 x 14 for methods that see one at once, in the widths of a 7B
model. Usage: python tests/benchmarks/choosing.py [--method NAME]... [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from plain_loops import LOOPS, Part
from toksweep.harness.contracts import ModelShape, Reduction, Refusal, Stage, View
from toksweep.harness.cost.latency import probe
from toksweep.harness.registry import Entry, registry
from views import Sizes, images, view

BUDGETS = (64, 192)
PICTURE = ModelShape("llava", 576, (24, 24), 24, 32, True, feature_layers=23)
FRAME = ModelShape("llava", 196, (14, 14), 24, 32, True, feature_layers=23)
SIZES = Sizes(features=1024, llm=4096, common=768, vision_heads=16, vision_head=64, llm_heads=32, llm_head=128, text=40)


def seen(stage: Stage) -> View:
    """What one image or clip looks like to a stage; half of a clip's places hardly change from frame to frame."""
    shape = FRAME if stage.joint else PICTURE
    found = view(stage, shape.tokens, 1, shape=shape, sizes=SIZES)
    if stage.joint:
        frames = found.tokens.view(images(stage), shape.tokens, -1)
        still = torch.arange(shape.tokens) % 2 == 0
        frames[1:, still] = frames[0, still] + 0.2 * frames[1:, still]
    return found


def rows(chosen: object) -> list[list[int]]:
    """The sources of every row that is kept, whatever their order."""
    given = chosen.describe(0) if isinstance(chosen, Reduction) else chosen
    return sorted(sorted(row) if isinstance(row, list) else [row] for row in given)


def same(ours: object, loops: object) -> bool:
    if isinstance(ours, Reduction):
        return rows(ours) == rows(loops)
    tensors = ours if isinstance(ours, tuple) else (ours,)
    plain = loops if isinstance(loops, tuple) else (loops,)
    return all(np.allclose(t[0].numpy(), p, rtol=1e-4) for t, p in zip(tensors, plain, strict=True))


def measure(entry: Entry, budget: int, rounds: int) -> Iterator[dict[str, object]]:
    """The first cut at each of a compressor's places."""
    method, done = entry.build(), set()
    for stage in method.stages(budget, PICTURE):
        if stage.place in done or stage.place == "pixel":
            continue
        done.add(stage.place)
        asked = stage.keep if stage.place == "encoder" else budget * images(stage)
        row = {"method": entry.name, "place": stage.place, "sources": seen(stage).tokens.shape[1], "kept": asked}
        cases = {"ours": partial(method.reduce, seen(stage), asked)}
        try:
            chosen = cases["ours"]()
        except Refusal as refusal:
            yield row | {"refused": str(refusal)}
            continue
        prepare = LOOPS.get((entry.name, stage.place))
        if prepare is not None:
            part = prepare(seen(stage), asked)
            if isinstance(part, Part):
                chosen = part.ours()
                cases |= {"part": part.ours, "loop": part.loop}
            else:
                cases["loop"] = part
            if not same(chosen, cases["loop"]()):
                sys.exit(f"{entry.name} at {budget}: the loop keeps other tokens, so that times say nothing.")
            row["by"] = part.name if isinstance(part, Part) else "all of it"
        found = probe(cases, "loop" if prepare else None, rounds=max(rounds, 2), warmup=0)
        row |= {name: dataclasses.asdict(timing) for name, timing in found.items()}
        yield row | {"ratio": found["part" if "part" in found else "ours"].ratio}


def line(row: dict[str, object]) -> str:
    start = f"{row['method']:<14}{row['place']:<10}{row['sources']:>6}{row['kept']:>6}"
    if "refused" in row:
        return f"{start}  refused: {row['refused']}"
    if "loop" not in row:
        return f"{start}{row['ours']['median_ms']:>10.2f}  no loop of ours does the same"
    return (
        f"{start}{row['ours']['median_ms']:>10.2f}{row['loop']['median_ms']:>12.1f}{row['ratio']:>10.4f}  {row['by']}"
    )


def main() -> None:
    entries = [e for e in registry("methods") if e.kind == "compressor" and not e.meta["floor"]]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", action="append", choices=[e.name for e in entries], help="default: all of them")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, two at least")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [e for e in entries if not options.method or e.name in options.method]
    found = (row for entry in wanted for budget in BUDGETS for row in measure(entry, budget, options.rounds))
    if options.json:
        print(json.dumps(list(found), indent=2))
        return
    print(f"{'method':<14}{'place':<10}{'of':>6}{'kept':>6}{'ms':>10}{'loop ms':>12}{'ratio':>10}  ratio is of")
    for row in found:
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
