"""The penalty on repeated tokens that some checkpoints prescribe (Qwen2.5-VL: 1.05), as `generate` applies it."""

from __future__ import annotations

import torch


class RepetitionPenalty:
    """Logits of tokens that the prompt or the answer holds: divided by `factor` where positive, else multiplied.

    transformers applies it in greedy decoding too, so without it answers are not those of the untouched model.

    Args:
        factor: of the checkpoint's generation settings; 1 changes nothing.
        prompt, valid: [batch, length] the tokens of the prompts, and which of them are no padding.
    """

    def __init__(self, factor: float, prompt: torch.Tensor, valid: torch.Tensor) -> None:
        self.factor = factor
        self._prompt, self._valid = prompt, valid.bool()
        self._seen: torch.Tensor | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """[batch, vocabulary] to the same."""
        if self.factor == 1:
            return logits
        if self._seen is None:
            self._seen = torch.zeros_like(logits, dtype=torch.bool)
            for row, (ids, valid) in enumerate(zip(self._prompt, self._valid, strict=True)):
                own = ids[valid]
                self._seen[row, own[own < logits.shape[-1]]] = True  # some families count placeholders beyond the words
        penalised = torch.where(logits < 0, logits * self.factor, logits / self.factor)
        return torch.where(self._seen, penalised, logits)

    def saw(self, tokens: torch.Tensor) -> None:
        """[batch] the tokens that were just written."""
        if self._seen is not None:
            self._seen[torch.arange(len(tokens)), tokens] = True
