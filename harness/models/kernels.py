"""Stands between single attention layers and their kernel, whichever it is: to listen, or to change what it is given.

transformers asks an attention module's `config` which kernel to call. A wrapped module gets a shallow copy of its
config that names a function of ours, which hands the original kernel, with queries and keys after norms and rotary
embedding, to the wrappings. No layer leaves its kernel, and masks are built from the model's own config.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..contracts import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Kernel = Callable[..., Any]
"""An attention function of transformers: `(module, query, key, value, mask, **kwargs) -> (output, weights)`."""
Around = Callable[..., Any]
"""What is called in its place, with the kernel in front of the kernel's own arguments."""
KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
_PREFIX = "toksweep_"  # the kernel's own name follows, because the library looks for "flash" in it
_MARK = "_toksweep_wrapped"


@dataclass
class _Wrapped:
    config: Any
    around: list[Around] = field(default_factory=list)


def _through_wrappings(module: nn.Module, *args: object, **kwargs: object) -> object:
    wrapped: _Wrapped = module.__dict__[_MARK]
    ours, module.config = module.config, wrapped.config
    try:
        default: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        kernel: Kernel = ALL_ATTENTION_FUNCTIONS.get_interface(wrapped.config._attn_implementation, default)
        for around in wrapped.around:
            kernel = partial(around, kernel)
        return kernel(module, *args, **kwargs)
    finally:
        module.config = ours


for _kernel in KERNELS:
    AttentionInterface.register(_PREFIX + _kernel, _through_wrappings)


@contextmanager
def wrap(attention: nn.Module, around: Around) -> Iterator[None]:
    """Call `around` in the place of an attention layer's kernel while the context lasts; wrappings may be nested."""
    if _MARK not in attention.__dict__:
        attention.__dict__[_MARK] = _Wrapped(attention.config)
        attention.config = copy.copy(attention.config)
        attention.config._attn_implementation_internal = _PREFIX + attention.config._attn_implementation  # type: ignore
    mine: _Wrapped = attention.__dict__[_MARK]
    mine.around.append(around)
    try:
        yield
    finally:
        mine.around.remove(around)
        if not mine.around:
            attention.config = mine.config
            del attention.__dict__[_MARK]


# ----------------------------------------------------------------------------------------- what kernels are given


def rotary_turn(attention: nn.Module) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """How a layer turns its queries or keys [batch, heads, n, d] by cosines and sines [batch, n, d].

    Raises:
        UserError: a layer whose module has no `apply_rotary_pos_emb`.
    """
    apply: Any = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    if apply is None:
        raise UserError(
            f"A {type(attention).__name__} turns its queries and keys in a way of its own: choose a method that reads "
            "no signal named next_* and does not act at the place attention."
        )

    def turn(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        turned: torch.Tensor = apply(states, states, cosine, sine)[0]
        return turned

    return turn


def causal_mask(kernel: object, valid: torch.Tensor, queries: int, dtype: torch.dtype) -> torch.Tensor | None:
    """The mask of the last `queries` of [batch, keys] tokens, in the form that a kernel takes.

    Args:
        valid: [batch, keys] False for keys that none attends to; flash attention takes it for padding.
    """
    if kernel != "eager" and bool(valid.all()):
        return None  # causal for many queries, everything for one
    if str(kernel).startswith("flash"):
        return valid
    keys = valid.shape[1]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=valid.device).tril(keys - queries)
    mask = causal & valid[:, None, None]
    if queries == keys:  # who sees nothing looks at itself: a softmax over nothing is not a number
        mask = mask | (torch.eye(keys, dtype=torch.bool, device=valid.device) & ~mask.any(-1, keepdim=True))
    if kernel != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=valid.device).masked_fill(~mask, torch.finfo(dtype).min)


def slides(text: PretrainedConfig) -> bool:
    """Does any LLM layer attend in a sliding window? Its cache forgets tokens, which cuts between layers rely on."""
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return any(kind != "full_attention" for kind in kinds)
    return bool(getattr(text, "sliding_window", None)) and getattr(text, "use_sliding_window", True)
