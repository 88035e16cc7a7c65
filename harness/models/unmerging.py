"""Virtual unmerging (DyMU, arXiv 2504.17040): the LLM computes on merged tokens, and attends as if none were merged.

Every token stands at the places of all that was merged into it. In each layer queries, keys and values are repeated at
those places and turned by the positions there, attention runs over the full prompt under its causal mask, and a token
gets the mean of what it attended to at its places. So that keys can be turned anew at each place, a rotary embedding of
no turn lets them into the cache as they are: the cache holds one key per token, as the rest of the model does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from .calls import Calls
from .kernels import Kernel, causal_mask, rotary_turn, wrap

if TYPE_CHECKING:
    from .span import Span


@dataclass(frozen=True)
class Places:
    """Where the tokens of a prompt stand in the prompt that nothing was merged in.

    Attributes:
        token: [batch, n] for every place of the full prompt the slot, of `tokens`, of the token that stands there.
        valid: [batch, n] False for padding.
        position: [..., batch, n] rotary positions.
    """

    tokens: int
    token: torch.Tensor
    valid: torch.Tensor
    position: torch.Tensor

    def after(self, new: int) -> Places:
        """The same with `new` more tokens behind the prompt."""
        steps = torch.arange(new, device=self.token.device)
        return Places(
            self.tokens + new,
            torch.cat([self.token, (self.tokens + steps).expand(len(self.token), -1)], -1),
            torch.cat([self.valid, self.valid.new_ones(len(self.valid), new)], -1),
            torch.cat([self.position, self.position[..., -1:] + 1 + steps], -1),
        )


def unmerged(whole: Span, span: Span, calls: Calls) -> Places:
    """Where the tokens that entered the LLM (`span`) stand in the prompt that came before all cuts (`whole`).

    Raises:
        BrokenPromiseError: a patch for which no token stands, or more than one.
    """
    token = torch.zeros_like(whole.visual)
    for row in range(len(token)):
        images = [image for image, owner in enumerate(span.owner) if owner == row]
        visual, text = ((span.visual[row] >= 0), (span.visual[row] < 0) & span.valid[row])
        stand = calls.stand_ins(images).to(token.device)
        token[row, whole.visual[row] >= 0] = visual.nonzero()[:, 0][stand]
        token[row, (whole.visual[row] < 0) & whole.valid[row]] = text.nonzero()[:, 0]
    return Places(span.valid.shape[1], token, whole.valid, whole.position)


class Unmerging:
    """Virtual unmerging in all layers of a text model, for one prompt and what is written behind it."""

    def __init__(self, text_model: nn.Module, places: Places) -> None:
        layers, rotary = text_model.layers, text_model.rotary_emb
        assert isinstance(layers, nn.ModuleList) and isinstance(rotary, nn.Module)
        self._attentions, self._rotary = [layer.self_attn for layer in layers], rotary
        self._prompt = self._places = places
        self._turns: tuple[torch.Tensor, torch.Tensor] | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Unmerge in every layer while the context lasts."""
        with ExitStack() as stack:
            stack.callback(self._rotary.register_forward_hook(_no_turn).remove)
            for attention in self._attentions:
                assert isinstance(attention, nn.Module)
                stack.enter_context(wrap(attention, self._attend))
            yield

    def _attend(
        self, kernel: Kernel, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        mask: torch.Tensor | None, **kwargs: object,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """In a kernel's place; queries [batch, heads, q, d] are of the whole prompt or of the last tokens."""
        places, (cosine, sine) = self._at(key)
        count, turn = query.shape[2], rotary_turn(module)
        token = places.token if count == places.tokens else places.token[:, -count:]
        first = places.tokens - count
        asked = token.shape[1]
        query = turn(_repeated(query, token - first), cosine[..., -asked:, :], sine[..., -asked:, :])
        key = turn(_repeated(key, places.token), cosine, sine)
        name = module.config._attn_implementation  # type: ignore[union-attr]
        full = causal_mask(name, places.valid, asked, query.dtype)
        # Position ids only serve to guess packed sequences from gaps, and there are none.
        kwargs["position_ids"] = None
        out, _ = kernel(module, query, key, _repeated(value, places.token), full, **kwargs)
        return _mean(out, token - first, places.valid[:, -asked:], count), None

    def _at(self, key: torch.Tensor) -> tuple[Places, tuple[torch.Tensor, torch.Tensor]]:
        """Places, and cosines and sines of their positions, for the tokens that there are keys of: once per step."""
        if self._turns is None or self._places.tokens != key.shape[2]:
            self._places = self._prompt.after(key.shape[2] - self._prompt.tokens)
            self._turns = self._rotary.forward(key, position_ids=self._places.position)
        return self._places, self._turns


def _no_turn(
    rotary: nn.Module, args: object, turns: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones_like(turns[0]), torch.zeros_like(turns[1])


def _repeated(states: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """[batch, heads, tokens, d] at every place of [batch, n] tokens: [batch, heads, n, d]."""
    return states.gather(2, token[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))


def _mean(out: torch.Tensor, token: torch.Tensor, valid: torch.Tensor, tokens: int) -> torch.Tensor:
    """The mean of every token over its valid places, [batch, n, heads, d] to [batch, tokens, heads, d]."""
    wide = out.to(torch.promote_types(out.dtype, torch.float32)) * valid[:, :, None, None]
    index = token[:, :, None, None]
    total = wide.new_zeros(len(out), tokens, *out.shape[2:]).scatter_add_(1, index.expand_as(wide), wide)
    count = wide.new_zeros(len(out), tokens, 1, 1).scatter_add_(1, index, valid[:, :, None, None].to(wide))
    return (total / count.clamp(min=1)).to(out.dtype)  # padding stands nowhere
