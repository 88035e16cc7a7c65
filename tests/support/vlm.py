"""What tests of compression inside a model share: batches, cells, and a compressor that repeats recorded choices."""

from __future__ import annotations

import dataclasses

import tiny
import torch
from toksweep.harness.contracts import Budget, Region, Sample
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve, untouched

ENTRIES = [e for e in registry("methods") if e.kind == "compressor" and not e.meta["clips"]]
SELECTORS = [e.name for e in ENTRIES if not e.meta["merges"]]
MERGERS = [e.name for e in ENTRIES if e.meta["merges"]]
COMPRESSORS = [*SELECTORS, *MERGERS]


def sample(name: str, question: str) -> Sample:
    evidence = (Region((0, 0, 24, 20)), Region((8, 8, 30, 40), image=1))
    return Sample(name, name, (), name, question=question, regions=evidence)


SHORT = sample("short", "what colour is the ball?")
LONG = sample("long", "how many dogs are there on the left of a red ball?")


def batch(model, *, order=(0, 1)):
    """Two samples of different prompts and different numbers of pictures."""
    both = [(SHORT, [tiny.picture(0)]), (LONG, [tiny.picture(1), tiny.picture(2, (40, 60))])]
    return model.prepare([both[i][0] for i in order], [both[i][1] for i in order])


def cell(model, name: str, budget: str | int = 9, convention: str = "mean", **parameters):
    """Compressor, schedule and budget kind of a registered method."""
    if name == "none":
        return None, untouched(model.shape), "exact"
    entry = registry("methods").get(name)
    method = entry.build(parameters)
    merges = entry.meta["merges"]
    schedule = resolve(method, Budget.parse(budget), convention, model.shape, merges=merges)
    return method, schedule, entry.meta["budget_kind"]


def reads(schedule):
    """What a shared encoding must hold for a schedule."""
    return frozenset(name for stage in schedule.stages if stage.place == "projector" for name in stage.reads)


def keeps_its_promise(answer, images, schedule, kind) -> bool:
    """Tokens at every layer are what a schedule says of so many pictures, or fewer, as the kind of budget allows."""
    promised = [images * n for n in schedule.layers]
    if kind == "exact":
        return list(answer.visual_tokens) == promised
    return kind == "adaptive" or all(got <= n for got, n in zip(answer.visual_tokens, promised, strict=True))


def able(model) -> list[str]:
    """Compressors that read nothing which the model has not."""
    able = []
    for entry in registry("methods"):
        needs = entry.meta.get("needs", ())
        clip = any(need.startswith("clip_") for need in needs) and model.text_encoder is None
        if entry.kind == "compressor" and not clip and not model.info.lacking(entry.meta["places"], needs):
            able.append(entry.name)
    return able


class Recorder:
    """Passes calls on and keeps what came back."""

    def __init__(self, method):
        self.method, self.made = method, []

    def stages(self, keep, shape):
        return self.method.stages(keep, shape)

    def reduce(self, view, keep):
        self.made.append(self.method.reduce(view, keep))
        return self.made[-1]


class Repeater:
    """Answers with recorded reductions, in order."""

    def __init__(self, made):
        self._left = list(made)

    def stages(self, keep, shape):
        raise AssertionError("a repeater runs under the recorded schedule")

    def reduce(self, view, keep):
        return self._left.pop(0)


def longer(batch, tokens):
    """The batch with [batch, steps] more prompt tokens."""
    mask = torch.cat([batch.attention_mask, torch.ones_like(tokens)], 1)
    return dataclasses.replace(batch, input_ids=torch.cat([batch.input_ids, tokens], 1), attention_mask=mask)
