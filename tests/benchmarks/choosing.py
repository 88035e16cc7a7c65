"""How long every compressor takes to choose, beside a plain loop that chooses the same.

One image of 24 x 24 tokens, or a clip of 8 frames of 14 x 14 for methods that see one at once, in the widths of a 7B
model. With --shared, what the budgets of a sweep save by sharing their picks instead. Usage:
python tests/benchmarks/choosing.py [--method NAME]... [--rounds N] [--shared] [--json]
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
from toksweep.harness.contracts import Compressor, ModelShape, Reduction, Refusal, Stage, View
from toksweep.harness.cost.latency import probe
from toksweep.harness.registry import Entry, registry
from views import Sizes, images, view

BUDGETS = (64, 192)
TOGETHER = (32, 64, 128, 192)
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


def choose(method: Compressor, view: View, budgets: tuple[int, ...], *, share: bool = False) -> Reduction:
    """One call per budget, each of which starts anew unless they share."""
    view.memo.forget()
    for keep in budgets:
        if not share:
            view.memo.forget()
        chosen = method.reduce(view, keep)
    return chosen


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
        if stage.place in {*done, "pixel", "attention"}:  # at these nothing is chosen
            continue
        done.add(stage.place)
        asked = stage.keep if stage.place == "encoder" else budget * images(stage)
        row = {"method": entry.name, "place": stage.place, "sources": seen(stage).tokens.shape[1], "kept": asked}
        cases = {"ours": partial(choose, method, seen(stage), (asked,))}
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


def together(entry: Entry, rounds: int) -> Iterator[dict[str, object]]:
    """Four budgets at the first cut behind the vision tower: one call after another, and with a shared memo."""
    method = entry.build()
    stage = method.stages(TOGETHER[0], PICTURE)[0]
    if stage.place != "projector":
        return
    view, asked = seen(stage), tuple(budget * images(stage) for budget in TOGETHER)
    cases = {name: partial(choose, method, view, asked, share=name == "shared") for name in ("apart", "shared")}
    try:
        found = probe(cases, "apart", rounds=max(rounds, 2), warmup=1)
    except Refusal as refusal:
        yield {"method": entry.name, "refused": str(refusal)}
        return
    row = {name: dataclasses.asdict(timing) for name, timing in found.items()}
    yield {"method": entry.name, "budgets": TOGETHER, **row, "ratio": found["shared"].ratio}


def line(row: dict[str, object]) -> str:
    if "shared" in row:
        apart, shared = (row[name]["median_ms"] for name in ("apart", "shared"))
        return f"{row['method']:<14}{apart:>12.2f}{shared:>12.2f}{row['ratio']:>10.4f}"
    if "place" not in row:
        return f"{row['method']:<14}  refused: {row['refused']}"
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
    parser.add_argument("--shared", action="store_true", help="four budgets together, beside four runs")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [e for e in entries if not options.method or e.name in options.method]
    if options.shared:
        found = (row for entry in wanted for row in together(entry, options.rounds))
        head = f"{'method':<14}{'apart ms':>12}{'shared ms':>12}{'ratio':>10}  budgets {TOGETHER}"
    else:
        found = (row for entry in wanted for budget in BUDGETS for row in measure(entry, budget, options.rounds))
        head = f"{'method':<14}{'place':<10}{'of':>6}{'kept':>6}{'ms':>10}{'loop ms':>12}{'ratio':>10}  ratio is of"
    if options.json:
        print(json.dumps(list(found), indent=2))
        return
    print(head)
    for row in found:
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
