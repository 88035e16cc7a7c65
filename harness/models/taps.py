"""Lets a listener see the queries and keys of single attention layers, whatever kernel computes them.

transformers asks an attention module's `config` which kernel to call. A tapped module gets a shallow copy of its config
that names a function of ours; that function calls the original kernel and then shows queries and keys (after norms and
rotary embedding) to the listeners. No layer leaves its kernel, and masks are built from the model's own config.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Listener = Callable[["Seen"], None]
KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
_PREFIX = "toksweep_"  # the kernel's own name follows, because the library looks for "flash" in it
_TAP = "_toksweep_tap"


@dataclass(frozen=True)
class Seen:
    """What one call of an attention layer computed with: query [batch, heads, q, d], key [batch, groups, k, d]."""

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scale: float
    causal: bool

    def rows(self, places: list[int]) -> torch.Tensor:
        """Attention weights of the queries at `places`, after the softmax, in float32: [batch, heads, places, k]."""
        size, heads, length, dim = self.query.shape
        groups, keys = self.key.shape[1], self.key.shape[2]
        index = torch.tensor([p % length for p in places], device=self.query.device)
        query = self.query[:, :, index].reshape(size, groups, heads // groups, len(places), dim).float()
        scores = torch.einsum("bgrnd,bgsd->bgrns", query, self.key.float()).reshape(size, heads, len(places), keys)
        scores = scores * self.scale
        mask = self.mask
        ahead = torch.arange(keys, device=index.device) > (index + keys - length)[:, None]
        if mask is None or mask.ndim == 2:
            hidden = ahead if self.causal else torch.zeros_like(ahead)
            if mask is not None:  # flash kernels are given one row of valid keys per sequence
                hidden = hidden | ~mask[:, None, None, :].bool()
            scores = scores.masked_fill(hidden, -torch.inf)
        else:
            mask = mask[:, :, index] if mask.shape[2] > 1 else mask
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1)


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
        bool(getattr(module, "is_causal", False)),
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
