"""A compressed model as one of lmms-eval's: `--model toksweep --model_args pretrained=...,method=divprune,budget=64`.

Method and budget stand among the model's arguments, hence in lmms-eval's results file and in the key of its cache. Its
cache knows nothing of our version or of weights under an unchanged path: use a new one after changing either.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import cast

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from ..tasks.lmms.borrowed import LmmsTask
from ..tasks.lmms.wrappers import WRAPPERS, wrapper_of
from .contracts import CONVENTIONS, Budget, Generation, Memo, Sample, UserError
from .fitting import fit_compressor
from .models import model_info, open_model
from .models.calls import BudgetKind
from .registry import registry
from .spec import DTYPE_ALIASES, MethodChoice

log = logging.getLogger("toksweep")


class Toksweep(lmms):  # type: ignore[misc]
    """One method at one budget in one model, asked with the prompts of the model's own wrapper.

    Args:
        pretrained: a folder or hub id, or the name of a model that comes with us.
        method: as `--method` takes it, such as `divprune` or `fastv(layer=3)`.
        budget: tokens per image, or a share such as `25%`; not needed for `none`.
        prompts_as: the lmms-eval model whose variant of a task's prompts is used; default: that of the family.
        convention, seed, dtype, device, attention, text_encoder, min_pixels, max_pixels: as for `toksweep sweep`.

    Raises:
        UserError: what `toksweep sweep` would refuse.
    """

    is_simple = False

    def __init__(
        self, pretrained: str, method: str = "none", budget: str | int | float | None = None, *,
        convention: str = "mean", seed: int = 0, device: str = "cpu", dtype: str = "float32", attention: str = "sdpa",
        text_encoder: str | None = None, batch_size: int | str = 1, max_batch_size: int | None = None,
        prompts_as: str | None = None, min_pixels: int | None = None, max_pixels: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if convention not in CONVENTIONS:
            raise UserError(f"convention must be one of {', '.join(CONVENTIONS)}, not {convention!r}.")
        choice = MethodChoice.parse(str(method))
        entry = registry("methods").get(choice.name)
        if entry.kind != "untouched" and budget is None:
            raise UserError(f"{choice.label} needs a budget: add budget=64 or budget=25% to --model_args.")
        info = model_info(str(pretrained), text_encoder)
        asked = None if entry.kind == "untouched" else Budget.parse(budget or "")
        self._fit = partial(fit_compressor, entry, choice, asked, convention)
        self._fit(info)  # what cannot be is said before anything is loaded
        self._info = info
        self.kind = cast(BudgetKind, entry.meta.get("budget_kind", "exact"))
        self.seed, self.batch_size_per_gpu = int(seed), int(batch_size)
        wrapper = wrapper_of(info.family.name)
        if prompts_as:
            named = [w for w in WRAPPERS.values() if w.name == prompts_as]
            wrapper = named[0] if named else wrapper_of(prompts_as)
        self.wrapper = wrapper.limited(min_pixels, max_pixels)
        self.seen = open_model(
            info.ref, device=device, dtype=DTYPE_ALIASES.get(dtype, dtype), attention=attention,
            text_encoder=info.text_encoder.ref if info.text_encoder else None,
        )  # fmt: skip
        if self.wrapper.pixels:
            self.seen.limit_pixels(*self.wrapper.pixels)
        self.failed = 0
        self._tasks: dict[str, LmmsTask] = {}

    @property
    def batch_size(self) -> int:
        """As lmms-eval asks for it."""
        return self.batch_size_per_gpu

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests; a sample whose method failed is an empty one, and is counted."""
        found: list[GenerationResult] = []
        for start in range(0, len(requests), self.batch_size):
            asked = requests[start : start + self.batch_size]
            found += self._answers([self._sample(r) for r in asked])
        if self.failed:
            log.warning("%d of %d samples failed; their answers are empty", self.failed, len(requests))
        return found

    def _sample(self, request: Instance) -> Sample:
        _, doc_to_messages, _, number, name, _ = request.args
        if name not in self._tasks:
            task = doc_to_messages.__self__
            task.model_name = self.wrapper.name  # lmms-eval loaded it for a model called toksweep
            task._prepare_model_specific_config()
            self._tasks[name] = LmmsTask(name, Path(), task, self.wrapper)
        return self._tasks[name].opened(number)

    def _answers(self, samples: list[Sample]) -> list[GenerationResult]:
        first = samples[0].generation
        assert first is not None
        if len({(s.generation, s.clip) for s in samples}) > 1:
            return [answer for s in samples for answer in self._answers([s])]
        try:
            return self._written(samples, first)
        except UserError:
            raise
        except Exception as error:
            if len(samples) > 1:
                return [answer for s in samples for answer in self._answers([s])]
            self.failed += 1
            log.warning("sample %s failed: %s: %s", samples[0].id, type(error).__name__, error)
            return [GenerationResult("")]

    def _written(self, samples: list[Sample], generation: Generation) -> list[GenerationResult]:
        batch = self.seen.prepare(samples, [[load() for load in s.images] for s in samples])
        compressor, schedule = self._fit(self._info.asked_about(samples))
        answers = self.seen.answer(
            batch, None, compressor, schedule, seed=self.seed, budget_kind=self.kind, memo=Memo(),
            max_new_tokens=generation.max_new_tokens, tokenizer_end=generation.tokenizer_end,
        )  # fmt: skip
        return [GenerationResult(a.text, TokenCounts(output_tokens=len(a.token_ids))) for a in answers]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not ours: raises UserError."""
        raise UserError("toksweep answers generate_until tasks only, not multiple choice by likelihood.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not ours: raises UserError."""
        raise UserError("toksweep answers generate_until tasks only, not several rounds.")
