"""What methods cost on a model at given budgets: the rows of `toksweep cost`, without weights or network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..contracts import Budget, Compressor, Convention, Refusal, UserError
from ..models import ModelInfo, model_info
from ..models.published import load_config
from ..plan import Refused
from ..registry import Entry, registry
from ..schedule import Schedule, resolve, untouched
from ..spec import MethodChoice
from .closed_form import kv_bytes
from .flops import FlopCounter


def cost_table(
    model: str,
    methods: Sequence[str],
    budgets: Sequence[str],
    *,
    text_tokens: int = 64,
    convention: Convention = "mean",
    dtype: str = "bf16",
) -> tuple[list[dict[str, object]], list[Refused]]:
    """One row per method and budget, and the combinations that cannot run with the reason.

    Args:
        model: a folder with a `config.json`, or a hub id.
        methods: as typed, such as `fastv(layer=3)`; `none` has one row, at the full count.
        budgets: as typed; what they count is the convention's matter.
        text_tokens: prompt tokens that are no visual tokens.
        dtype: of the KV cache.

    Raises:
        UserError: an unknown method, model, dtype or budget; a budget above the full count; a compressor without a
            budget; or no row left, with the reasons.
    """
    choices = {c.label: c for c in map(MethodChoice.parse, methods)}
    parsed = [Budget.parse(b) for b in budgets]
    info = model_info(model)
    _check(choices.values(), parsed, info)
    config = load_config(model)
    kv_bytes(config, dtype, 0, ())  # so that a wrong dtype is told at once
    counter = FlopCounter(config)
    rows: list[dict[str, object]] = []
    refused: list[Refused] = []
    for choice in choices.values():
        entry = registry("methods").get(choice.name)
        for budget in [None] if entry.kind == "untouched" else parsed:
            try:
                compressor, schedule = _fit(entry, choice, budget, convention, info)
                flops = counter.count(schedule, text_tokens, compressor)
            except Refusal as reason:
                refused.append(Refused("cost", model, choice.label, budget and budget.text, str(reason)))
                continue
            rows.append(
                {
                    "model": model,
                    "method": choice.label,
                    "budget": budget.tokens(info.shape.tokens) if budget else info.shape.tokens,
                    "text_tokens": text_tokens,
                    "tokens_entering": schedule.entering,
                    "tokens_mean": schedule.mean,
                    "flops_vision": flops.vision,
                    "flops_projector": flops.projector,
                    "flops_compressor": flops.compressor,
                    "flops_prefill": flops.prefill,
                    "flops_decode_token": flops.decode_token,
                    "kv_bytes": kv_bytes(config, dtype, text_tokens, schedule.layers),
                }
            )
    if not rows:
        reasons = dict.fromkeys(f"{r.method}{f' at {r.budget}' if r.budget else ''}: {r.reason}" for r in refused)
        raise UserError(f"No row is left: {'; '.join(reasons)}.")
    return rows, refused


def _check(choices: Iterable[MethodChoice], budgets: Sequence[Budget], info: ModelInfo) -> None:
    full = info.shape.tokens
    for budget in budgets:
        if budget.unit == "tokens" and budget.value > full:
            raise UserError(
                f"Budget {budget.text} is above the full count of {full} tokens of {info.ref}: write at most {full}."
            )
    needy = [c.label for c in choices if registry("methods").get(c.name).kind != "untouched"]
    if needy and not budgets:
        raise UserError(f"{needy[0]} needs a budget: add --budget, such as --budget 64 or --budget 25%.")


def _fit(
    entry: Entry, choice: MethodChoice, budget: Budget | None, convention: Convention, info: ModelInfo
) -> tuple[Compressor | None, Schedule]:
    """A method with its schedule on a model.

    Raises:
        Refusal: the method is no compressor, acts or reads where the model's family lets it not, or misses the budget.
    """
    if budget is None:
        return None, untouched(info.shape)
    if entry.kind != "compressor":
        raise Refusal(f"{entry.name} is a {entry.kind} and codes pictures; only a compressor acts in a model")
    places, needs = entry.meta["places"], entry.meta["needs"]
    assert isinstance(places, tuple) and isinstance(needs, tuple)
    for place in places:
        if place not in info.places:
            raise Refusal(f"{entry.name} acts at the place {place}, which {info.shape.family} does not offer")
    for need in needs:
        if need.partition("@")[0] not in info.signals:
            raise Refusal(f"{entry.name} reads {need}, which {info.shape.family} does not have")
    compressor = entry.build(choice.parameters)
    assert isinstance(compressor, Compressor)
    return compressor, resolve(compressor, budget, convention, info.shape, merges=bool(entry.meta["merges"]))
