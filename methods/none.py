"""The absence of a method, which every method is measured against."""

from __future__ import annotations

from ..harness.registry import untouched


@untouched("none")
def none() -> None:
    """Every visual token, or the picture as it is: one cell, whatever the budgets."""
