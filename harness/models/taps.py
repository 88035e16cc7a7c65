"""Lets a listener see the queries and keys of single attention layers, whatever kernel computes them.

transformers asks an attention module's `config` which kernel to call. A tapped module gets a shallow copy of its config
that names a function of ours; that function calls the original kernel and then shows queries and keys (after norms and
rotary embedding) to the listeners. No layer leaves its kernel, and masks are built from the model's own config.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..contracts import UserError

Listener = Callable[["Seen"], None]
KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
_PREFIX = "toksweep_"  # the kernel's own name follows, because the library looks for "flash" in it
_TAP = "_toksweep_tap"


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
        self._turn: Any = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
        if not self._turn or not hasattr(layer, "input_layernorm") or not hasattr(attention, "q_proj"):
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
        turned: torch.Tensor = self._turn(states, states, cosine, sine)[0]
        return turned


@dataclass
class _Tap:
    config: object
    listeners: list[Listener] = field(default_factory=list)


def _tapped(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
    **kwargs: object,
) -> object:  # fmt: skip
    tap: _Tap = module.__dict__[_TAP]
    ours, module.config = module.config, tap.config  # type: ignore[assignment]
    try:
        default: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(tap.config._attn_implementation, default)  # type: ignore[attr-defined]
        out = kernel(module, query, key, value, mask, **kwargs)
    finally:
        module.config = ours
    scale = kwargs.get("scaling")
    seen = Seen(
        query, key, mask, float(scale) if isinstance(scale, int | float) else query.shape[-1] ** -0.5,
        causal=bool(getattr(module, "is_causal", False)),
    )  # fmt: skip
    for listener in tap.listeners:
        listener(seen)
    return out


for _kernel in KERNELS:
    AttentionInterface.register(_PREFIX + _kernel, _tapped)


@contextmanager
def tap(attention: nn.Module, listener: Listener) -> Iterator[None]:
    """Show every call of an attention layer to `listener` while the context lasts; taps may be nested."""
    if _TAP not in attention.__dict__:
        attention.__dict__[_TAP] = _Tap(attention.config)
        attention.config = copy.copy(attention.config)
        attention.config._attn_implementation_internal = _PREFIX + attention.config._attn_implementation  # type: ignore
    mine: _Tap = attention.__dict__[_TAP]
    mine.listeners.append(listener)
    try:
        yield
    finally:
        mine.listeners.remove(listener)
        if not mine.listeners:
            attention.config = mine.config  # type: ignore[assignment]
            del attention.__dict__[_TAP]
