"""Which method fits which model, task and budget, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from . import schedule
from .contracts import Budget, Compressor, Convention, Refusal, UserError
from .models import ModelInfo
from .models.text_encoder import NEEDED
from .registry import Entry
from .schedule import Schedule
from .spec import MethodChoice


def fit_compressor(
    entry: Entry, choice: MethodChoice, budget: Budget | None, convention: Convention, model: ModelInfo
) -> tuple[Compressor | None, Schedule]:
    """A compressor with its schedule on a model; no budget means no method.

    Raises:
        Refusal: it is no compressor, acts or reads where the model's family lets it not, or misses the budget.
    """
    if budget is None:
        return None, schedule.untouched(model.shape)
    method = build_compressor(entry, choice.parameters)
    check_model(entry, model)
    merges = bool(entry.meta["merges"])
    return method, schedule.resolve(method, budget, convention, model.shape, merges=merges)


def build_compressor(entry: Entry, parameters: Mapping[str, object]) -> Compressor:
    """A method that acts in a model.

    Raises:
        Refusal: it is no compressor.
        UserError: parameters that it does not take, or a class that lacks a part of the contract.
    """
    if entry.kind != "compressor":
        raise Refusal(f"{entry.name} is a {entry.kind} and codes pictures; only a compressor acts in a model")
    method = entry.build(parameters)
    if not isinstance(method, Compressor):
        raise UserError(f"{entry.name} in {entry.path} lacks stages() or reduce(): see the Compressor contract.")
    return method


def check_model(entry: Entry, model: ModelInfo) -> None:
    """Raises Refusal for a compressor that acts or reads where a model's family lets it not."""
    places, needs = entry.meta["places"], entry.meta["needs"]
    assert isinstance(places, tuple) and isinstance(needs, tuple)
    if missing := model.family.lacking(places, needs):
        where = " on clips" if model.shape.clip else ""
        raise Refusal(f"{entry.name} needs {' and '.join(missing)}, which the family {model.family.name} lacks{where}")
    if entry.meta.get("operator") and not model.family.several_places:
        raise Refusal(f"{entry.name} stands tokens at several places, which the family {model.family.name} lacks")
    if model.text_encoder is None and asks_text_encoder(entry):
        raise Refusal(f"{entry.name} needs {NEEDED}")


def check_task(entry: Entry, task: Entry, model: ModelInfo | None = None) -> None:
    """Raises Refusal for a method of clips on a task that shows none, or of frames on pictures in uneven crops."""
    if entry.kind == "compressor" and entry.meta.get("clips") and task.meta["family"] != "video_qa":
        raise Refusal(f"{entry.name} leaves out what frames have in common, and {task.name} shows no clips")
    if entry.meta.get("frames") and model and model.family.uneven:
        raise Refusal(
            f"{entry.name} takes images of one size, and the family {model.family.name} shows a picture in crops of "
            "several"
        )


def asks_text_encoder(entry: Entry) -> bool:
    """Does a method hold patches against the question in CLIP's space?"""
    needs = entry.meta.get("needs", ())
    assert isinstance(needs, tuple)
    return any(name.startswith("clip_") for name in needs)


def verified(entry: Entry, model: ModelInfo | None) -> str | None:
    """How far a method is known to equal its authors' code; of one that reads a substitute, which for what."""
    needs = entry.meta.get("needs", ())
    assert isinstance(needs, tuple)
    read = [(need.split("|")[0], model.shape.served(need)) for need in needs if "|" in need] if model else []
    if found := [f"{got} for {wanted}" for wanted, got in read if got != wanted]:
        return f"substitute: {', '.join(found)}"
    stated = entry.meta.get("verified")
    return None if stated is None else str(stated)


def check_budgets(budgets: Iterable[Budget], models: Sequence[ModelInfo]) -> None:
    """Raises UserError for a count that no model here has."""
    if any(m.shape.varies for m in models):
        return
    full = max((m.shape.tokens for m in models), default=None)
    for budget in budgets:
        if full is not None and budget.unit == "tokens" and budget.value > full:
            names = ", ".join(m.ref for m in models)
            raise UserError(
                f"Budget {budget.text} is above the full count of {full} tokens of {names}: write at most {full}."
            )
