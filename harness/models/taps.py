"""What one call of an attention layer computed with, shown to a listener, or worked out beside the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..contracts import UserError
from .kernels import Kernel, rotary_turn, wrap

Listener = Callable[["Seen"], None]

_CHUNK = 64
"""Queries whose rows are held at a time where only their mean is asked for."""


class Seen:
    """What one call of an attention layer computed with.

    Attributes:
        query: [batch, heads, q, d]; key: [batch, groups, k, d]; the last query stands where the last key does.
        mask: as the kernel got it: [batch, 1, q, k] (boolean or additive), [batch, k] valid keys, or None.
    """

    def __init__(
        self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float, *, causal: bool
    ) -> None:  # fmt: skip
        self.query, self.key, self.mask, self.scale, self.causal = query, key, mask, scale, causal
        self.length = query.shape[2]

    def queries(self, places: torch.Tensor) -> torch.Tensor:
        """[batch, heads, places, d]"""
        return self.query[:, :, places]

    def rows(self, places: Sequence[int]) -> torch.Tensor:
        """Attention weights of the queries at `places`, after the softmax, in float32: [batch, heads, places, k]."""
        index = torch.tensor([p % self.length for p in places], dtype=torch.long, device=self.key.device)
        query = self.queries(index)
        (size, heads, count, dim), groups, keys = query.shape, self.key.shape[1], self.key.shape[2]
        grouped = query.reshape(size, groups, heads // groups, count, dim).float()
        scores = torch.einsum("bgrnd,bgsd->bgrns", grouped, self.key.float()).reshape(size, heads, count, keys)
        return self._masked(scores * self.scale, index).softmax(-1)

    def _masked(self, scores: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        mask, keys = self.mask, scores.shape[-1]
        if mask is not None and mask.ndim > 2:
            mask = mask[:, :, index] if mask.shape[2] > 1 else mask
            return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        ahead = torch.arange(keys, device=index.device) > (index + keys - self.length)[:, None]
        hidden = ahead if self.causal else torch.zeros_like(ahead)
        if mask is None:
            return scores.masked_fill(hidden, -torch.inf)
        hidden = hidden | ~mask[:, None, None, :].bool()
        return scores.masked_fill(hidden & ~hidden.all(-1, keepdim=True), -torch.inf)  # padding sees no key at all

    def mean_row(self, places: Sequence[int], counted: torch.Tensor | None = None) -> torch.Tensor:
        """The mean row of the queries at `places`, [batch, heads, k]; only some rows are held at a time.

        Args:
            counted: [batch, places], which of them count in each batch row; default all.
        """
        total = self.rows([]).sum(2)
        for start in range(0, len(places), _CHUNK):
            rows = self.rows(places[start : start + _CHUNK])
            if counted is not None:
                rows = rows * counted[:, None, start : start + _CHUNK, None]
            total = total + rows.sum(2)
        return total / (max(len(places), 1) if counted is None else counted.sum(1).clamp(min=1)[:, None, None])


class Probe(Seen):
    """What an LLM layer would compute with if it ran on given tokens: all keys, and queries where they are read."""

    def __init__(self, layer: nn.Module, tokens: torch.Tensor, rope: object, valid: torch.Tensor) -> None:
        """
        Args:
            tokens: [batch, n, dim] that would enter the layer.
            rope: cosines and sines of their positions, [batch, n, d] each.
            valid: [batch, n], False for padding.

        Raises:
            UserError: a layer that does not project queries and keys apart, behind a norm of its own.
        """
        attention: Any = layer.self_attn
        self._turn = rotary_turn(attention)
        if not hasattr(layer, "input_layernorm") or not hasattr(attention, "q_proj"):
            raise UserError(
                f"Queries cannot be computed beside a {type(layer).__name__}: choose a method that reads no signal "
                "named next_*."
            )
        assert isinstance(rope, tuple)
        self._attention, self._rope = attention, rope
        self._normed = layer.input_layernorm(tokens)  # type: ignore[operator]
        self.length, self.mask, self.causal = tokens.shape[1], valid, True
        self.key = self._project("k", slice(None))
        self.scale = float(getattr(attention, "scaling", self.key.shape[-1] ** -0.5))

    def queries(self, places: torch.Tensor) -> torch.Tensor:
        return self._project("q", places)

    def _project(self, which: str, places: torch.Tensor | slice) -> torch.Tensor:
        attention, given = self._attention, self._normed[:, places]
        states = getattr(attention, f"{which}_proj")(given)
        states = states.unflatten(-1, (states.shape[-1] // attention.head_dim, attention.head_dim))
        if norm := getattr(attention, f"{which}_norm", None):
            states = norm(states)
        states = states.transpose(1, 2)
        cosine, sine = (part[:, places] for part in self._rope)
        return self._turn(states, cosine, sine)


@contextmanager
def tap(attention: nn.Module, listener: Listener) -> Iterator[None]:
    """Show every call of an attention layer to `listener` while the context lasts; taps may be nested."""

    def listen(
        kernel: Kernel, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        attention_mask: torch.Tensor | None, **kwargs: object,
    ) -> object:  # fmt: skip
        out = kernel(module, query, key, value, attention_mask, **kwargs)
        scale, causal = kwargs.get("scaling"), bool(getattr(module, "is_causal", False))
        width = query.shape[-1] ** -0.5
        by = float(scale) if isinstance(scale, int | float) else width
        listener(Seen(query, key, attention_mask, by, causal=causal))
        return out

    with wrap(attention, listen):
        yield
