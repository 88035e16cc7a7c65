"""Which phase of its work a model is in: said where phases meet, and heard by the latency probe alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

PHASES = ("vision", "compressor", "prefill")
"""Up to the first token. `vision` is tower and projector; `compressor` everything that is there for the method's sake:
signals, choosing, cutting, a text encoder of its own; `prefill` the LLM."""


class Watch:
    """Is told of phases; this one does not listen."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """The work inside belongs to a phase, that of phases inside it to those."""
        return nullcontext()
