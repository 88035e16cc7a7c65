"""What the truth test tries: a compressor in a small model, with questions whose evidence is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import cast

from .contracts import Budget, Compressor, Convention, ModelShape, Refusal, Sample, Task, UserError
from .fitting import build_compressor, check_model, check_task
from .models import model_info, open_model
from .models.base import Answer, Batch, VisionLanguageModel
from .models.calls import BudgetKind
from .registry import Entry, registry
from .runner import open_sample
from .schedule import Schedule, lay_out, resolve
from .traces import State, state

BUDGETS = ("100%", "75%", "50%", "25%", "10%")
QUESTIONS = {"vqa": 96, "video_qa": 12}
"""By family of the task: as many as half a minute allows."""
OURS = "toksweep-mini"


@dataclass(frozen=True)
class Trial:
    """A compressor in a model, with questions, and what the process was like before the first call; `shape` is that
    of what the questions are about."""

    entry: Entry
    method: Compressor
    model: VisionLanguageModel
    shape: ModelShape
    samples: Sequence[Sample]
    before: State

    @property
    def kind(self) -> BudgetKind:
        return cast(BudgetKind, self.entry.meta["budget_kind"])

    def schedule(self, budget: str, convention: Convention = "mean") -> Schedule:
        """The schedule of a budget."""
        merges = bool(self.entry.meta["merges"])
        return resolve(self.method, Budget.parse(budget), convention, self.shape, merges=merges)

    def spent(self, answer: Answer, budget: str) -> tuple[float, float]:
        """Tokens of an image, mean over images and layers, and as many as the budget allows; separators, which leave
        with the first token that is taken, are in no budget."""
        wanted, full = Budget.parse(budget), [rows * columns for rows, columns in answer.grids]
        allowed = [wanted.tokens(count, capped=self.shape.varies) for count in full]
        return fmean(min(count, sum(full)) for count in answer.visual_tokens) / len(full), fmean(allowed)

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

    def half(self) -> Schedule | None:
        """The schedule whose last layers see nearest to half of the tokens, if that is near it."""
        shape = self.shape
        if shape.varies:  # half of every picture's own
            try:
                return self.schedule("50%", "after_cut")
            except Refusal:
                return None
        for keep in sorted(range(1, shape.tokens), key=lambda k: abs(k - shape.tokens // 2)):
            try:
                found = lay_out(tuple(self.method.stages(keep, shape)), shape)
            except Refusal:
                continue
            return found if 0.3 < found.after_cut / found.full < 0.7 else None
        return None

    def batch(self, number: int, start: int = 0) -> Batch:
        """That many samples, preprocessed."""
        return _prepared(self.model, self.samples[start : start + number])

    def answer(
        self, batch: Batch, schedule: Schedule, *, method: Compressor | None = None, tokens: int = 1
    ) -> list[Answer]:
        """What the model says, with the compressor or another `method`, in at most `tokens` tokens."""
        chosen = (method or self.method) if schedule.stages else None
        return self.model.answer(batch, None, chosen, schedule, seed=0, max_new_tokens=tokens, budget_kind=self.kind)


def set_up(
    entry: Entry, parameters: Mapping[str, object], model: str | None, task: str | None, text_encoder: str | None,
    questions: int | None,
) -> Trial:  # fmt: skip
    """A compressor in a model of the user's, or in ours; see `truth_test`."""
    entry = entry.over(parameters)
    chosen, asked = model or OURS, registry("tasks").get(task) if task else _our_task(entry)
    try:
        method = build_compressor(entry, parameters)
        listed = list(islice(cast(Task, asked.load())(None), questions or QUESTIONS.get(str(asked.meta["family"]), 0)))
        info = model_info(chosen, text_encoder).asked_about(listed)
        check_task(entry, asked, info)
        check_model(entry, info)
    except Refusal as reason:
        raise UserError(f"{reason}.") from reason
    opened = open_model(chosen, text_encoder=info.text_encoder.ref if info.text_encoder else None)
    samples = [s for s in listed if s.regions]
    if not samples:
        raise UserError(f"The samples of {asked.name} name no evidence: give another --task, such as synth_vqa.")
    return Trial(entry, method, opened, info.shape, samples, state(opened, _prepared(opened, samples[:2])))


def _our_task(entry: Entry) -> Entry:
    """What our model was made for: questions about clips for a method of clips, else about pictures."""
    family = "video_qa" if entry.meta.get("clips") else "vqa"
    return next(t for t in registry("tasks") if t.meta.get("model") == OURS and t.meta["family"] == family)


def _prepared(model: VisionLanguageModel, samples: Sequence[Sample]) -> Batch:
    opened = [open_sample(s) for s in samples]
    return model.prepare([o.sample for o in opened], [o.images for o in opened])
