"""What methods cost on a model at given budgets: the rows of `toksweep cost`, without weights or network."""

from __future__ import annotations

from collections.abc import Sequence

from ..contracts import Budget, Convention, Refusal, UserError
from ..fitting import check_budgets, fit_compressor
from ..models import model_info
from ..models.published import load_config
from ..plan import Refused
from ..spec import MethodChoice
from .closed_form import kv_bytes
from .conventions import flops_conventions
from .flops import FlopCounter


def cost_table(
    model: str,
    methods: Sequence[str],
    budgets: Sequence[str],
    *,
    text_tokens: int = 64,
    images: int = 1,
    convention: Convention = "mean",
    dtype: str = "bf16",
    text_encoder: str | None = None,
    flops: Sequence[str] = (),
) -> tuple[list[dict[str, object]], list[Refused]]:
    """One row per method and budget, and the combinations that cannot run with the reason.

    Args:
        model: a folder with a `config.json`, or a hub id.
        methods: as typed, such as `fastv(layer=3)`; `none` has one row, at the full count.
        budgets: as typed; what they count is the convention's matter.
        text_tokens: prompt tokens that are no visual tokens.
        images: of the model in the prompt: pictures, crops of one, or frames of a clip.
        dtype: of the KV cache.
        text_encoder: a folder or hub id of a CLIP checkpoint, for methods that read one.
        flops: published conventions by name, each a further column `flops[NAME]` beside ours.

    Raises:
        UserError: an unknown method, model, dtype, budget or FLOPs convention; a budget above the full count; a
            compressor without a budget; or no row left, with the reasons.
    """
    conventions = flops_conventions(flops)
    choices = {c.label: c for c in map(MethodChoice.parse, methods)}
    parsed = [Budget.parse(b) for b in budgets]
    info = model_info(model, text_encoder)
    check_budgets(parsed, [info])
    needy = [c.label for c in choices.values() if c.entry.kind != "untouched"]
    if needy and not parsed:
        raise UserError(f"{needy[0]} needs a budget: add --budget, such as --budget 64 or --budget 25%.")
    config = load_config(model)
    kv_bytes(config, dtype, 0, ())  # so that a wrong dtype is told at once
    counter = FlopCounter(config)
    encoder = info.text_encoder.config if info.text_encoder else None
    rows: list[dict[str, object]] = []
    refused: list[Refused] = []
    for choice in choices.values():
        entry = choice.entry
        for budget in [None] if entry.kind == "untouched" else parsed:
            try:
                compressor, schedule = fit_compressor(entry, choice, budget, convention, info)
                spent = counter.count(schedule, text_tokens, compressor, encoder, images)
            except Refusal as reason:
                refused.append(Refused("cost", model, choice.label, budget.text if budget else None, str(reason)))
                continue
            layers = [images * n for n in schedule.layers]
            rows.append(
                {
                    "model": model,
                    "method": choice.label,
                    "budget": schedule.full
                    if budget is None
                    else budget.tokens(schedule.full, capped=info.shape.varies),
                    "text_tokens": text_tokens,
                    "images": images,
                    "tokens_entering": images * schedule.entering,
                    "tokens_mean": images * schedule.mean,
                    "flops_vision": spent.vision,
                    "flops_projector": spent.projector,
                    "flops_compressor": spent.compressor,
                    "flops_prefill": spent.prefill,
                    "flops_decode_token": spent.decode_token,
                    "kv_bytes": kv_bytes(config, dtype, text_tokens, layers),
                    "flops_per_layer": list(spent.per_layer),
                }
                | {f"flops[{n}]": round(of(config, layers, text_tokens)) for n, of in conventions.items()}
            )
    if not rows:
        reasons = dict.fromkeys(f"{r.method}{f' at {r.budget}' if r.budget else ''}: {r.reason}" for r in refused)
        raise UserError(f"No row is left: {'; '.join(reasons)}.")
    return rows, refused
