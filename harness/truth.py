"""A truth test for anybody's compressor: does it do what every figure about it takes for granted?

Runs it on a small real model over samples that name their evidence, and says in a line per promise whether it is kept,
and what to mend where it is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple

import numpy as np
import torch

from .contracts import Compressor, ModelShape, Reduction, Refusal, Sample, Stage, UserError, View
from .models.base import Answer
from .models.calls import BrokenPromiseError
from .registry import Entry
from .schedule import Place, Schedule, untouched
from .traces import Watched, state
from .trial import BUDGETS, Trial, set_up
from .verify import verify_reference

SURE = 2.0
"""Standard errors by which a difference must stand out before it is called one."""

Status = Literal["pass", "fail", "open"]


class Verdict(NamedTuple):
    """Of a promise: kept, broken (with the mend), or open where this method or this evidence cannot tell."""

    status: Status
    found: str
    mend: str = ""


def truth_test(
    entry: Entry,
    parameters: Mapping[str, object],
    model: str | None = None,
    task: str | None = None,
    *,
    text_encoder: str | None = None,
    questions: int | None = None,
    reference: Path | None = None,
    dump: Path | None = None,
) -> dict[str, Verdict]:
    """Hold a compressor to every promise, and say of each whether it is kept.

    Args:
        model: what it acts in, a name, a folder or a hub id; None: `toksweep-mini`.
        task: a task whose samples name their evidence; None: the one that `toksweep-mini` was made for, of clips where
            the method is for clips.
        text_encoder: a folder or hub id of a CLIP checkpoint; None: for a model of ours the one that comes with it.
        questions: how many of the samples are looked at.
        reference: a folder of arrays that the authors' own code produced, which the method is compared with as well.
        dump: where what it computes from them goes.

    Raises:
        UserError: no compressor, one that the model's family cannot serve, one of clips on a task of pictures, or one
            that reads a text encoder where there is none.
    """
    trial = set_up(entry, parameters, model, task, text_encoder, questions)
    checks = dict(PROMISES)
    if reference is not None:
        checks["reference arrays match"] = partial(_reference, folder=reference, dump=dump)
    return {promise: _verdict(check, trial) for promise, check in checks.items()}


def _verdict(check: Check, trial: Trial) -> Verdict:
    """A check whose method raises has failed, and the others go on."""
    try:
        return check(trial)
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        return Verdict("fail", f"{type(error).__name__}: {text}", "Make the method run on these samples.")


# --------------------------------------------------------------------------------------------------------------- checks


def _budget(trial: Trial) -> Verdict:
    batch = trial.batch(2)
    told, refused = [], []
    for budget in BUDGETS:
        try:
            answers = trial.answer(batch, trial.schedule(budget))
        except Refusal:
            refused.append(budget)
            continue
        except BrokenPromiseError as error:
            return Verdict("fail", f"at {budget}: {error}", "Return exactly as many rows as `keep` says.")
        spent, wanted = max((trial.spent(a, budget) for a in answers), key=lambda pair: pair[0] / pair[1])
        if spent > wanted + 1e-6 and trial.kind != "adaptive":
            return Verdict("fail", f"at {budget}: {spent:g} tokens, mean over layers, of {wanted:g} allowed",
                           "Let stages() promise fewer tokens for a smaller `keep`.")  # fmt: skip
        told.append(f"{budget}: {spent:g}/{wanted:g}")
    note = f"; refused: {', '.join(refused)}" if refused else ""
    if len(told) < 2:
        return Verdict("fail", ", ".join(told) + note, "Serve at least one budget below the full count.")
    return Verdict("pass", ", ".join(told) + note)


def _full(trial: Trial) -> Verdict:
    if trial.entry.meta["merges"]:
        return Verdict("pass", "declared as merging, hence bypassed")
    batch, schedule = trial.batch(2), trial.schedule("100%")
    plain = trial.model.prefill(batch, None, None, untouched(trial.shape), seed=0)
    cut = trial.model.prefill(batch, None, trial.method, schedule, seed=0, budget_kind=trial.kind)
    if torch.equal(plain.logits, cut.logits):
        return Verdict("pass", "logits are those of no method, bit for bit")
    gap = float((plain.logits - cut.logits).abs().max())
    return Verdict("fail", f"logits differ by up to {gap:.2g} though every token may be kept",
                   "Keep all tokens in their order at the full count, or declare merges=True.")  # fmt: skip


def _repeatable(trial: Trial) -> Verdict:
    budget, schedule = trial.reachable()
    batch = trial.batch(4)
    kept = []
    for number in range(2):
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        kept.append([a.kept_indices for a in trial.answer(batch, schedule)])
    if kept[0] == kept[1]:
        return Verdict("pass", f"two runs at {budget} keep the same tokens")
    return Verdict("fail", f"two runs at {budget} keep other tokens",
                   "Draw from view.noise: one random stream for all depends on what ran before.")  # fmt: skip


def _alone(trial: Trial) -> Verdict:
    _, schedule = trial.reachable()
    together = [a.kept_indices for a in trial.answer(trial.batch(4), schedule)]
    alone = [trial.answer(trial.batch(1, start=n), schedule)[0].kept_indices for n in range(len(together))]
    others = sum(a != b for a, b in zip(alone, together, strict=True))
    found = f"{others} of {len(alone)} samples keep other tokens alone"
    if others:
        return Verdict("fail", found, "Let no image of a batch look at another, and draw from view.noise.")
    return Verdict("pass", found)


def _order(trial: Trial) -> Verdict:
    if not trial.entry.meta["keeps_order"]:
        return Verdict("pass", "declared otherwise (keeps_order=False)")
    budget, schedule = trial.reachable()
    for answer in trial.answer(trial.batch(4), schedule):
        ends = list(accumulate(rows * columns for rows, columns in answer.grids))
        for entry in answer.kept_indices:
            firsts = [row[0] if isinstance(row, list) else row for row in entry]
            images = [[f for f in firsts if start <= f < end] for start, end in pairwise([0, *ends])]
            if any(own != sorted(own) for own in images):
                return Verdict("fail", f"at {budget} a later token stands before an earlier one",
                               "Sort what you keep, or declare keeps_order=False.")  # fmt: skip
    return Verdict("pass", f"kept tokens ascend at {budget}")


def _traffic(trial: Trial) -> Verdict:
    _, schedule = trial.reachable()
    watched = Watched(trial.method)
    trial.answer(trial.batch(2), schedule, method=watched)
    if not watched.seen:
        return Verdict("pass", "none seen")
    found = ", ".join(dict.fromkeys(watched.seen))
    return Verdict("fail", found, "Leave these to the harness: a method sees its view and nothing else.")


def _restored(trial: Trial) -> Verdict:
    """Against the state before the first call of all, since a patch may have been left long ago."""
    _, schedule = trial.reachable()
    batch, before = trial.batch(2), trial.before
    trial.answer(batch, schedule, tokens=2)
    after = state(trial.model, batch)
    patched = [name for name, function in after.functions.items() if function is not before.functions.get(name)]
    if torch.equal(before.logits, after.logits) and before.marks == after.marks and not patched:
        return Verdict("pass", "bit-identical logits, no hook left")
    what = f"left patched: {', '.join(patched)}" if patched else "the model answers or is built otherwise afterwards"
    return Verdict("fail", what, "Undo every patch, or rather patch nothing: the harness cuts.")


def _inverted(trial: Trial) -> Verdict:
    """At half the tokens, keeping what the method drops must lose more of the evidence, or of the answers.

    Where one says so and the other denies it, the promise stays open.
    """
    if trial.entry.meta["floor"]:
        return Verdict("open", "a floor chooses without looking")
    schedule = trial.half()
    if schedule is None:
        return Verdict("open", "no schedule leaves about half of the tokens")
    places = [stage.place for stage in schedule.stages]
    selects = places in (["projector"], ["decoder"]) and not trial.entry.meta["merges"]
    more_evidence, more_right = [], []
    for start in range(0, len(trial.samples), 16):
        samples = trial.samples[start : start + 16]
        batch = trial.batch(16, start=start)
        answers = trial.answer(batch, schedule, tokens=8)
        for answer in answers:
            if area := sum(p.area for p in answer.evidence):
                recall = sum(p.area * p.last for p in answer.evidence) / area
                own = schedule.over(answer.grids)
                kept = sum(one.after_cut for one in own) / sum(one.full for one in own)
                more_evidence.append(2 * (recall - kept))  # the complement has what is missing
        if selects:
            inverted = trial.answer(batch, _complement(schedule), method=_Inverted(trial.method), tokens=8)
            pairs = zip(samples, answers, inverted, strict=True)
            more_right += [float(_right(a, sample)) - float(_right(b, sample)) for sample, a, b in pairs]
    sides = {"evidence": more_evidence, "answers": more_right}
    sigmas = {name: _sigmas(values) for name, values in sides.items() if len(values) > 1}
    told = ", ".join(f"{name} {value:+.1f} standard errors" for name, value in sigmas.items())
    told = f"against what it drops, over {len(trial.samples)} questions: {told}"
    low, high = min(sigmas.values(), default=0.0), max(sigmas.values(), default=0.0)
    if low < -SURE and high < SURE:
        return Verdict("fail", told, "Keep the highest scores: what is dropped holds more of the answers.")
    return Verdict("pass" if high > SURE and low > -SURE else "open", told)


def _reference(trial: Trial, *, folder: Path, dump: Path | None) -> Verdict:
    """Arrays are of a method's own functions, or of whole tiny models that it cut."""
    files = verify_reference(folder, dump, [trial.entry.name]).files
    left = "".join(f"; {file.file} was left out: {file.reason}" for file in files if file.reason)
    compared = [file for file in files if file.expected]
    if not compared:
        return Verdict("open", f"{folder} holds none of {trial.entry.name}{left}")
    found = ", ".join(f"{file.file}: {file.right}/{file.expected}" for file in compared)
    wrong = ", ".join(f"{file.first_wrong} of {file.file}" for file in compared if file.status == "wrong")
    if wrong:
        return Verdict(
            "fail", f"{found}; first that differ: {wrong}", "Do as the authors' code does; --dump shows more."
        )
    return Verdict("pass", found + left)


Check = Callable[[Trial], Verdict]
PROMISES: Mapping[str, Check] = {
    "budget honoured, by the ledger": _budget,
    "full budget changes nothing": _full,
    "same seed, same tokens": _repeatable,
    "a batch of four equals four batches of one": _alone,
    "raster order kept": _order,
    "no traffic with files, environment or global randomness": _traffic,
    "the model is as it was afterwards": _restored,
    "inverted scores do worse": _inverted,
}


# ------------------------------------------------------------------------------------------------------------- helpers


def _complement(schedule: Schedule) -> Schedule:
    """The same cut, with the other tokens."""
    (stage,) = schedule.stages
    left = schedule.full - stage.keep
    layers = tuple(left if n == stage.keep else n for n in schedule.layers)
    anew = schedule.anew

    def other(shape: ModelShape, place: Place | None) -> Schedule:
        return _complement(anew(shape, place))

    return replace(schedule, stages=(replace(stage, keep=left),), layers=layers, anew=other)


class _Inverted:
    """Keeps what a method drops."""

    def __init__(self, method: Compressor) -> None:
        self._method = method

    def stages(self, keep: int, shape: ModelShape) -> Sequence[Stage]:
        return self._method.stages(keep, shape)

    def reduce(self, view: View, keep: int) -> Reduction:
        patches = view.tokens.shape[1] - (view.class_index is not None)
        reduction = self._method.reduce(view, patches - keep)
        dropped = torch.ones(len(reduction.counts), reduction.sources, dtype=torch.bool, device=view.tokens.device)
        dropped[reduction.batch, reduction.source] = False
        if view.class_index is not None:
            dropped[:, view.class_index] = False
        return Reduction.keep([row.nonzero()[:, 0] for row in dropped], reduction.sources, position=reduction.position)


def _right(answer: Answer, sample: Sample) -> bool:
    return answer.text.strip().casefold() in {a.casefold() for a in sample.answers}


def _sigmas(values: Sequence[float]) -> float:
    """The mean in standard errors."""
    spread = stdev(values) / len(values) ** 0.5
    return fmean(values) / spread if spread else (0.0 if not fmean(values) else float("inf") * np.sign(fmean(values)))
