"""What the latency probe found of one cell, as columns of its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from .break_even import BreakEven, Saved, break_even, saving_ms
from .records import SampleRecord
from .store import Cell

Line = Mapping[str, Any]
ENDS = {"q1": "q1_ms", "q3": "q3_ms"}


def latency_columns(lines: Sequence[Line], cell: Cell, records: Sequence[SampleRecord]) -> dict[str, object]:
    """Columns of a cell's row; those of what was not measured are None.

    Args:
        lines: of the cell's folder under `latency/`, oldest first.
        records: of the cell, for the tokens of the samples that were timed.
    """
    found: dict[str, list[Line]] = {}
    for line in lines:
        if "error" not in line:
            found.setdefault(line["quantity"], []).append(line)
    done = [line for own in found.values() for line in own]
    columns: dict[str, object] = {}
    for quantity in ("latency", "tpot", "vision", "compressor", "prefill"):
        own = found.get(quantity, [])
        columns[f"{quantity}_ms"] = _middle(own, "median_ms")
        columns |= {f"{quantity}_{end}_ms": _middle(own, key) for end, key in ENDS.items()}
        if quantity in ("latency", "tpot"):
            columns |= {f"{quantity}_{key}": _middle(own, key) for key in ("ratio", "ratio_q1", "ratio_q3")}
    memory = [t["peak_memory_bytes"] for t in done if t.get("peak_memory_bytes") is not None]
    timed = {line["sample_id"] for line in done}
    errors = [line["error"] for line in lines if "error" in line and line["sample_id"] not in timed]
    even = _break_even(found, [r for r in records if r.sample_id in timed]) if cell.kind == "compressor" else None
    return columns | {
        "peak_memory_bytes": max(memory) if memory else None,
        "latency_device": done[-1]["device"] if done else None,
        "latency_rounds": done[-1]["rounds"] if done else None,
        "latency_samples": len(timed) or None,
        "latency_error": errors[-1] if errors else None,
        "answer_tokens": done[-1].get("answer_tokens") if done else None,
        "break_even_tokens": even.tokens if even else None,
        "break_even_reason": even.reason if even else None,
    }


def _middle(lines: Sequence[Line], key: str) -> float | None:
    values = [line[key] for line in lines if line.get(key) is not None]
    return median(values) if values else None


def _break_even(found: Mapping[str, Sequence[Line]], records: Sequence[SampleRecord]) -> BreakEven | None:
    """None where the cell was not timed by phases."""
    counts = [(r.tokens_full, fmean(r.tokens_per_layer)) for r in records if r.tokens_full and r.tokens_per_layer]
    selection = _middle(found.get("compressor", ()), "median_ms")
    if selection is None or not counts:
        return None
    saved = {name: _saved(found.get(name, ())) for name in ("vision", "prefill", "tpot")}
    parts = [part for part in saved.values() if part is not None]
    if len(parts) < len(saved):
        return BreakEven(None, "full tokens were not timed beside it")
    vision, prefill, per_token = parts
    answer = int(found["tpot"][-1].get("answer_tokens", 1))
    full = fmean(whole for whole, _ in counts)
    return break_even(
        selection_ms=selection,
        saved_ms=saving_ms(vision=vision, prefill=prefill, per_token=per_token, answer_tokens=answer),
        tokens_saved=full - fmean(mean for _, mean in counts),
        tokens_full=full,
    )


def _saved(lines: Sequence[Line]) -> Saved | None:
    values = [_middle(lines, key) for key in ("saved_ms", "saved_q1_ms", "saved_q3_ms")]
    known = [value for value in values if value is not None]
    return Saved(*known) if len(known) == len(values) else None
