"""A truth test for anybody's compressor: does it do what every figure about it takes for granted?

Runs it on a small real model over samples that name their evidence, and says in a line per promise whether it is kept,
and what to mend where it is not.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Literal, cast

import numpy as np
import torch

from .contracts import Budget, Compressor, Memo, ModelShape, Reduction, Refusal, Sample, Stage, Task, UserError, View
from .models import open_model
from .models.base import Answer, Batch, VisionLanguageModel
from .models.calls import BrokenPromiseError, BudgetKind
from .models.embedded import embedded
from .registry import Entry, registry
from .runner import open_sample
from .schedule import Schedule, lay_out, resolve, untouched

BUDGETS = ("100%", "75%", "50%", "25%", "10%")
QUESTIONS = 96
OURS = "toksweep-mini"
SURE = 2.0
"""Standard errors by which a difference must stand out before it is called one."""

Status = Literal["pass", "fail", "open"]


@dataclass(frozen=True)
class Finding:
    """One promise: kept, broken (with the mend), or open where this method or this evidence cannot tell."""

    promise: str
    status: Status
    found: str
    mend: str = ""


@dataclass(frozen=True)
class _Subject:
    """A compressor on a model, with samples, and what the process was like before the first call."""

    entry: Entry
    method: Compressor
    model: VisionLanguageModel
    samples: Sequence[Sample]
    before: _State
    trained: bool

    @property
    def kind(self) -> BudgetKind:
        return cast(BudgetKind, self.entry.meta["budget_kind"])

    def schedule(self, budget: str) -> Schedule:
        """The schedule of a budget under the convention `mean`."""
        merges = bool(self.entry.meta["merges"])
        return resolve(self.method, Budget.parse(budget), "mean", self.model.shape, merges=merges)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        opened = [open_sample(s) for s in samples]
        return self.model.prepare([o.sample for o in opened], [o.images for o in opened])

    def answer(
        self, batch: Batch, schedule: Schedule, *, method: Compressor | None = None, tokens: int = 1, seed: int = 0
    ) -> list[Answer]:
        chosen = method or self.method
        return self.model.answer(
            batch, None, chosen if schedule.stages else None, schedule, seed=seed, max_new_tokens=tokens,
            budget_kind=self.kind,
        )  # fmt: skip

    def reachable(self) -> tuple[str, Schedule]:
        """A budget that is no full one, and its schedule."""
        for budget in BUDGETS[2:0:-1]:
            try:
                return budget, self.schedule(budget)
            except Refusal:
                continue
        raise UserError(
            f"{self.entry.name} refuses every budget of {', '.join(BUDGETS[1:3])}: there is nothing to test."
        )


def truth_test(
    entry: Entry, parameters: dict[str, object], model: str | None, task: str, *, questions: int = QUESTIONS
) -> list[Finding]:
    """Run every check on a compressor.

    Args:
        model: what it acts in, a name, a folder or a hub id; None: `toksweep-mini`, with random weights where none come
            with this version, so that nothing is said about answers.
        task: a task whose samples name their evidence.
        questions: how many of them the check against inverted scores asks.

    Raises:
        UserError: no compressor, or one that the model's family cannot serve.
    """
    if entry.kind != "compressor":
        raise UserError(f"{entry.name} is a {entry.kind}; only compressors are verified.")
    method = entry.build(parameters)
    if not isinstance(method, Compressor):
        raise UserError(f"{entry.name} in {entry.path} lacks stages() or reduce(): see the Compressor contract.")
    with TemporaryDirectory() as folder:
        chosen = model or (OURS if OURS in embedded() else str(_untrained(Path(folder))))
        opened = open_model(chosen)
    places, needs = entry.meta["places"], entry.meta["needs"]
    assert isinstance(places, tuple) and isinstance(needs, tuple)
    if missing := opened.info.lacking(places, needs):
        raise UserError(f"{entry.name} needs {' and '.join(missing)}, which {chosen} lacks: give another --model.")
    listed = cast(Task, registry("tasks").get(task).load())(None)
    samples = [s for s in islice(listed, questions) if s.regions]
    if not samples:
        raise UserError(f"The samples of {task} name no evidence: give another --task, such as synth_vqa.")
    subject = _Subject(entry, method, opened, samples, _state(opened, samples[:2]), chosen in (model, OURS))
    return [finding for check in CHECKS for finding in _guarded(check, subject)]


def _guarded(check: Callable[[_Subject], Iterator[Finding]], subject: _Subject) -> Iterator[Finding]:
    """A check whose method raises has failed, and the others go on."""
    try:
        yield from check(subject)
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        name = check.__name__.strip("_").replace("_", " ")
        yield Finding(name, "fail", f"{type(error).__name__}: {text}", "Make the method run on these samples.")


# --------------------------------------------------------------------------------------------------------------- checks


def _budget(subject: _Subject) -> Iterator[Finding]:
    promise = "budget honoured, by the ledger"
    batch, full = subject.batch(subject.samples[:2]), subject.model.shape.tokens
    told, refused = [], []
    for budget in BUDGETS:
        try:
            schedule = subject.schedule(budget)
        except Refusal:
            refused.append(budget)
            continue
        wanted = Budget.parse(budget).tokens(full)
        try:
            answers = subject.answer(batch, schedule)
        except BrokenPromiseError as error:
            yield Finding(promise, "fail", f"at {budget}: {error}", "Return exactly as many rows as `keep` says.")
            return
        spent = max(fmean(a.visual_tokens) for a in answers)
        if spent > wanted + 1e-6 and subject.kind != "adaptive":
            yield Finding(promise, "fail", f"at {budget}: {spent:g} tokens, mean over layers, of {wanted} allowed",
                          "Let stages() promise fewer tokens for a smaller `keep`.")  # fmt: skip
            return
        told.append(f"{budget}: {spent:g}/{wanted}")
    note = f"; refused: {', '.join(refused)}" if refused else ""
    yield Finding(promise, "pass" if len(told) > 1 else "fail", ", ".join(told) + note,
                  "" if len(told) > 1 else "Serve at least one budget below the full count.")  # fmt: skip


def _full(subject: _Subject) -> Iterator[Finding]:
    promise = "full budget changes nothing"
    batch, shape = subject.batch(subject.samples[:2]), subject.model.shape
    if subject.entry.meta["merges"]:
        yield Finding(promise, "pass", "declared as merging, hence bypassed")
        return
    schedule = subject.schedule("100%")
    plain = subject.model.prefill(batch, None, None, untouched(shape), seed=0)
    cut = subject.model.prefill(batch, None, subject.method, schedule, seed=0, budget_kind=subject.kind)
    if torch.equal(plain.logits, cut.logits):
        yield Finding(promise, "pass", "logits are those of no method, bit for bit")
        return
    gap = float((plain.logits - cut.logits).abs().max())
    yield Finding(promise, "fail", f"logits differ by up to {gap:.2g} though every token may be kept",
                  "Keep all tokens in their order at the full count, or declare merges=True.")  # fmt: skip


def _repeatable(subject: _Subject) -> Iterator[Finding]:
    budget, schedule = subject.reachable()
    batch = subject.batch(subject.samples[:4])
    kept = []
    for number in range(2):
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        kept.append([a.kept_indices for a in subject.answer(batch, schedule)])
    same = kept[0] == kept[1]
    yield Finding(
        "same seed, same tokens", "pass" if same else "fail",
        f"two runs at {budget} keep {'the same' if same else 'other'} tokens",
        "" if same else "Draw from view.noise: one random stream for all depends on what ran before.",
    )  # fmt: skip
    alone = [subject.answer(subject.batch([s]), schedule)[0].kept_indices for s in subject.samples[:4]]
    equal = alone == kept[1]
    yield Finding("a batch of four equals four batches of one", "pass" if equal else "fail",
                  f"{sum(a != b for a, b in zip(alone, kept[1], strict=True))} of 4 samples keep other tokens alone",
                  "" if equal else "Let no image of a batch look at another, and draw from view.noise.")  # fmt: skip


def _order(subject: _Subject) -> Iterator[Finding]:
    promise = "raster order kept"
    if not subject.entry.meta["keeps_order"]:
        yield Finding(promise, "pass", "declared otherwise (keeps_order=False)")
        return
    budget, schedule = subject.reachable()
    full = subject.model.shape.tokens
    for answer in subject.answer(subject.batch(subject.samples[:4]), schedule):
        for entry in answer.kept_indices:
            firsts = [row[0] if isinstance(row, list) else row for row in entry]
            images = [[f for f in firsts if f // full == i] for i in range(len(firsts) and max(firsts) // full + 1)]
            if any(own != sorted(own) for own in images):
                yield Finding(promise, "fail", f"at {budget} a later token stands before an earlier one",
                              "Sort what you keep, or declare keeps_order=False.")  # fmt: skip
                return
    yield Finding(promise, "pass", f"kept tokens ascend at {budget}")


def _traffic(subject: _Subject) -> Iterator[Finding]:
    """First of the checks that look at the process, so that what a method imports late has been imported by then."""
    _, schedule = subject.reachable()
    batch = subject.batch(subject.samples[:2])
    watched = _Watched(subject.method)
    subject.answer(batch, schedule, method=watched)
    found = ", ".join(dict.fromkeys(watched.seen))
    yield Finding(
        "no traffic with files, environment or global randomness", "fail" if found else "pass", found or "none seen",
        "Leave these to the harness: a method sees its view and nothing else." if found else "",
    )  # fmt: skip


def _restored(subject: _Subject) -> Iterator[Finding]:
    """Against the state before the first call of all, since a patch may have been left long ago."""
    _, schedule = subject.reachable()
    subject.answer(subject.batch(subject.samples[:2]), schedule, tokens=2)
    before, after = subject.before, _state(subject.model, subject.samples[:2])
    patched = [name for name, function in after.functions.items() if function is not before.functions.get(name)]
    fine = torch.equal(before.logits, after.logits) and before.marks == after.marks and not patched
    what = f"left patched: {', '.join(patched)}" if patched else "the model answers or is built otherwise afterwards"
    yield Finding(
        "the model is as it was afterwards", "pass" if fine else "fail",
        "bit-identical logits, no hook left" if fine else what,
        "" if fine else "Undo every patch, or rather patch nothing: the harness cuts.",
    )  # fmt: skip


def _inverted(subject: _Subject) -> Iterator[Finding]:
    """At half the tokens, keeping what the method drops must lose more of the evidence, and of the answers."""
    promise = "inverted scores do worse"
    if subject.entry.meta["floor"] or not subject.trained:
        why = "a floor chooses without looking" if subject.trained else "the model's weights are random: give a --model"
        yield Finding(promise, "open", why)
        return
    schedule = _half(subject)
    if schedule is None:
        yield Finding(promise, "open", "no schedule leaves about half of the tokens")
        return
    selects = len(schedule.stages) == 1 and not subject.entry.meta["merges"] and schedule.stages[0].place != "encoder"
    more_evidence, more_right = [], []
    for start in range(0, len(subject.samples), 16):
        samples = subject.samples[start : start + 16]
        batch = subject.batch(samples)
        answers = subject.answer(batch, schedule, tokens=8)
        inverted = (
            subject.answer(batch, _complement(schedule), method=_Inverted(subject.method), tokens=8) if selects else []
        )
        for number, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
            area = sum(p.area for p in answer.evidence)
            recall = sum(p.area * p.last for p in answer.evidence) / area
            kept = schedule.after_cut / schedule.full
            more_evidence.append(2 * (recall - kept))  # the complement has what is missing
            if inverted:
                more_right.append(float(_right(answer, sample)) - float(_right(inverted[number], sample)))
    sides = {"evidence": _sigmas(more_evidence)} | ({"answers": _sigmas(more_right)} if more_right else {})
    told = ", ".join(f"{name} {value:+.1f} standard errors" for name, value in sides.items())
    told = f"against what it drops, over {len(more_evidence)} questions: {told}"
    if min(sides.values()) < -SURE:
        yield Finding(promise, "fail", told, "Keep the highest scores: what is dropped holds more of the answers.")
    else:
        yield Finding(promise, "pass" if max(sides.values()) > SURE else "open", told)


CHECKS: tuple[Callable[[_Subject], Iterator[Finding]], ...] = (
    _budget, _full, _repeatable, _order, _traffic, _restored, _inverted,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- helpers


def _half(subject: _Subject) -> Schedule | None:
    """The schedule whose last layers see nearest to half of the tokens, if that is near it."""
    shape = subject.model.shape
    for keep in sorted(range(1, shape.tokens), key=lambda k: abs(k - shape.tokens // 2)):
        try:
            found = lay_out(tuple(subject.method.stages(keep, shape)), shape)
        except Refusal:
            continue
        return found if 0.3 < found.after_cut / found.full < 0.7 else None
    return None


def _complement(schedule: Schedule) -> Schedule:
    """The same cut, with the other tokens."""
    (stage,) = schedule.stages
    left = schedule.full - stage.keep
    layers = tuple(left if n == stage.keep else n for n in schedule.layers)
    return replace(schedule, stages=(replace(stage, keep=left),), layers=layers)


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


class _Watched:
    """Passes calls on, and notes what the method does to the process meanwhile."""

    def __init__(self, method: Compressor) -> None:
        self._method = method
        self.seen: list[str] = []

    def stages(self, keep: int, shape: ModelShape) -> Sequence[Stage]:
        return self._method.stages(keep, shape)

    def reduce(self, view: View, keep: int) -> Reduction:
        self._method.reduce(replace(view, memo=Memo()), keep)  # late imports open files, once
        environment, streams = dict(os.environ), _streams()
        with _audited(self.seen):
            reduction = self._method.reduce(view, keep)
        if dict(os.environ) != environment:
            self.seen.append("environment variables")
        if not all(torch.equal(a, b) for a, b in zip(streams, _streams(), strict=True)):
            self.seen.append("a global random stream")
        return reduction


def _streams() -> tuple[torch.Tensor, torch.Tensor]:
    """The states of the global random streams of torch, numpy and Python."""
    others = [hash(str(np.random.get_state())), hash(random.getstate())]
    return torch.get_rng_state(), torch.tensor(others)


_EVENTS = {
    "open": "files", "os.remove": "files", "os.rename": "files", "os.mkdir": "files", "os.listdir": "files",
    "os.putenv": "environment variables", "os.unsetenv": "environment variables", "socket.connect": "the network",
    "subprocess.Popen": "other processes", "os.system": "other processes",
}  # fmt: skip
_notes: list[list[str]] = []
_hooked: list[bool] = []


def _untrained(folder: Path) -> Path:
    from .models.embedded.export import untrained  # it draws the tasks' pictures, which the engine does not

    return untrained(folder)[0]


@contextmanager
def _audited(seen: list[str]) -> Iterator[None]:
    """Note what the process does while the context lasts. Audit hooks stay for good, so there is one, mostly idle."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(lambda event, _: _notes[-1].append(_EVENTS[event]) if _notes and event in _EVENTS else None)
    _notes.append(seen)
    try:
        yield
    finally:
        _notes.pop()


@dataclass(frozen=True)
class _State:
    """What a method could change for good: untouched logits, what hangs on modules, functions of torch."""

    logits: torch.Tensor
    marks: list[tuple[str, list[str], int, int]]
    functions: dict[str, object]


def _state(model: VisionLanguageModel, samples: Sequence[Sample]) -> _State:
    opened = [open_sample(s) for s in samples]
    batch = model.prepare([o.sample for o in opened], [o.images for o in opened])
    logits = model.prefill(batch, None, None, untouched(model.shape), seed=0).logits
    modules = model.model.named_modules()
    marks = [(name, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules]
    places = {"torch": torch, "torch.nn.functional": torch.nn.functional, "torch.Tensor": torch.Tensor}
    functions = {f"{name}.{k}": v for name, place in places.items() for k, v in vars(place).items() if callable(v)}
    return _State(logits, marks, functions)


def _right(answer: Answer, sample: Sample) -> bool:
    return answer.text.strip().casefold() in {a.casefold() for a in sample.answers}


def _sigmas(values: Sequence[float]) -> float:
    """The mean in standard errors."""
    spread = stdev(values) / len(values) ** 0.5
    return fmean(values) / spread if spread else (0.0 if not fmean(values) else float("inf") * np.sign(fmean(values)))
