"""How numbers, budgets and settings are printed, wherever a report prints them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from .ranking import SETTING, missing, number

COSTS = {
    "bits_per_pixel": "bits per pixel",
    "tokens_mean": "tokens, mean over layers",
    "tokens_entering": "tokens entering",
    "flops": "FLOPs to first token",
    "flops_decode": "FLOPs, decode",
    "latency_ms": "latency, ms",
}
"""Cost columns in the order shown, with their headings."""
OF_TOKENIZERS = {
    "tokens_mean": "tokens",
    "flops": "FLOPs, encode + decode",
    "latency_ms": "latency, encode + decode, ms",
}
"""Headings where nothing is answered: there is no first token, and there are no layers."""


@dataclass(frozen=True)
class Estimate:
    """A value, its 95% interval (NaN where there is none), and how much it rests on (0 where that is not known)."""

    value: float
    low: float
    high: float
    n: int
    n_items: int
    n_clusters: int
    unit: str

    @classmethod
    def of(cls, row: dict[str, Any]) -> Estimate:
        """The estimate in a row of the table of cells."""
        value, low, high = (number(row[c]) for c in ("value", "ci_low", "ci_high"))
        n, n_items, n_clusters = (0 if missing(row[c]) else int(row[c]) for c in ("n", "n_items", "n_clusters"))
        return cls(value, low, high, n, n_items, n_clusters, row["unit"] or "")

    @property
    def interval(self) -> str:
        """`0.750 to 0.850`."""
        return "no interval" if math.isnan(self.low) else f"{show(self.low, self.unit)} to {show(self.high, self.unit)}"

    @property
    def counts(self) -> str:
        """`40 samples, 80 items, 12 clusters`; items where a sample has another number of them than one."""
        if not self.n_clusters and not math.isnan(self.value):
            return "counts not known"
        items = f", {self.n_items} items" if self.n_items != self.n else ""
        return f"{self.n} samples{items}, {self.n_clusters} clusters"


def cost_name(cost: str, family: str) -> str:
    """The heading of a cost column, for tasks of a family."""
    return OF_TOKENIZERS.get(cost, COSTS[cost]) if family == "reconstruction" else COSTS[cost]


def show(value: float, unit: str = "", *, gain_of: float | None = None) -> str:
    """A score as printed: three decimals below 10, two above; the unit `%` turns a fraction into percent.

    Args:
        gain_of: the score that `value` is a gain of: printed with its sign and with as many decimals as that score.
    """
    if math.isnan(value):
        return "–"
    if unit == "%":
        return f"{100 * value:.1f}%" if gain_of is None else f"{100 * value:+.1f}%"
    decimals = 3 if abs(value if gain_of is None else gain_of) < 10 else 2
    return f"{value:{'' if gain_of is None else '+'}.{decimals}f}"


def show_cost(name: str, value: float, *, exact: bool = True) -> str:
    """A cost as printed, without its unit; the ticks of an axis need no trailing zeros."""
    if math.isnan(value):
        return "–"
    if name in ("flops", "flops_decode"):
        for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
            if value >= factor:
                return f"{value / factor:.3g} {prefix}"
    if name == "bits_per_pixel" and exact:
        return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def budget_text(row: dict[str, Any]) -> str:
    """A budget as typed, with what its number counts."""
    typed = text(row["budget"])
    if not typed:
        return "fixed rate" if row["kind"] == "tokenizer" else "all"
    unit = " tokens" if row["budget_unit"] == "tokens" else ""
    convention = text(row["budget_convention"])
    return f"{typed}{unit}" + (f" ({convention})" if convention else "")


def text(value: object) -> str:
    """As text; empty for what is missing."""
    return "" if missing(value) else str(value)


def setting_text(row: dict[str, Any]) -> str:
    """Model, dtype, attention and device of a row, for captions; task and subset apart."""
    return ", ".join(text(row[c]) for c in SETTING[2:] if c != "model_revision" and text(row[c]))


def new_stem(taken: set[str], *parts: str) -> str:
    """A file name that cannot leave its folder and is not taken yet; it is then."""
    stem = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", p).strip("._") or "_" for p in parts)
    while stem in taken:
        stem += "_"
    taken.add(stem)
    return stem
