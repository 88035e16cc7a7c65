"""From how many saved tokens on a method's choosing pays for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Saved:
    """Milliseconds that a method saves of one phase against full tokens, paired by round: median and quartiles."""

    median_ms: float
    q1_ms: float
    q3_ms: float

    @property
    def clear_ms(self) -> float:
        """The median; nothing where the quartiles do not agree on whether anything was saved or lost."""
        return self.median_ms if self.q1_ms > 0 or self.q3_ms < 0 else 0.0


@dataclass(frozen=True)
class BreakEven:
    """The fewest tokens a method must save to pay for its choosing, or why there is no such number."""

    tokens: int | None
    reason: str | None = None


def saving_ms(*, vision: Saved, prefill: Saved, per_token: Saved, answer_tokens: int) -> float:
    """What fewer tokens save of one answer: of the tower, of the prefill and of every output token but the first, which
    the prefill gives. Only what is clear of the spread of the rounds counts, be it saved or lost."""
    return vision.clear_ms + prefill.clear_ms + max(answer_tokens - 1, 0) * per_token.clear_ms


def break_even(*, selection_ms: float, saved_ms: float, tokens_saved: float, tokens_full: float) -> BreakEven:
    """The fewest visual tokens that must be saved for choosing to pay, at the batch size that was timed.

    The line through the two points that were measured, full tokens (which saves nothing) and this cell, says what one
    token less saves: `saved_ms / tokens_saved`. Choosing is taken to cost the same whatever is kept, so that it pays
    from `selection_ms / (saved_ms / tokens_saved)` tokens on, rounded up.

    Args:
        selection_ms: what the method spends on signals, choosing and cutting.
        saved_ms: what everything else saves, see `saving_ms`.
        tokens_saved: visual tokens fewer than full, mean over the LLM's layers.
        tokens_full: all that there are to save.
    """
    if tokens_saved <= 0:
        return BreakEven(None, "it saves no tokens")
    if saved_ms <= 0:
        return BreakEven(None, "never: its fewer tokens save no time beyond the spread of the rounds")
    needed = max(math.ceil(selection_ms * tokens_saved / saved_ms), 1)
    if needed > tokens_full:
        spent, most = f"choosing takes {selection_ms:.3g} ms", saved_ms * tokens_full / tokens_saved
        return BreakEven(None, f"never: {spent}, and all {tokens_full:g} tokens would save {most:.3g} ms")
    return BreakEven(needed)
