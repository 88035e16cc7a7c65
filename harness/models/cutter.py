"""Cuts visual tokens between the layers of the LLM, and keeps masks and positions right.

Layers behind a cut compute and cache fewer tokens, while transformers builds masks for the first layer's length only.
So hooks give every layer behind a cut its own mask and rotary embedding, at prefill and in every decoding step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property, partial

import torch
from torch import nn

from ..contracts import UserError
from ..schedule import Cut
from ..watching import Watch
from .calls import Calls
from .holding import turns
from .kernels import causal_mask
from .signals import DecoderSignals
from .span import Span, hide_in_span, reduce_span
from .unmerging import Unmerging, unmerged

Call = tuple[tuple[object, ...], dict[str, object]]


class Cutter:
    """One prompt's way through a text model whose layers may see ever fewer visual tokens.

    Attributes:
        spans: what every layer saw at prefill, as its hook found it.
    """

    def __init__(
        self, text_model: nn.Module, cuts: Sequence[Cut], calls: Calls | None, span: Span, whole: Span | None = None,
        along: Sequence[torch.Tensor] = (), watch: Watch | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            cuts: of which those inside the LLM concern it, and whether it unmerges.
            span: of the prompt that enters; whole: of the prompt before any cut, needed to unmerge.
            along: of every image's tokens, what runs along with them; see `Encoded.along`.
        """
        layers = text_model.layers
        assert isinstance(layers, nn.ModuleList)
        self._unmerging, self._watch = None, watch or Watch()
        if any(cut.stage.place == "attention" for cut in cuts):
            assert calls is not None and whole is not None
            with self._watch.phase("compressor"):
                self._unmerging = Unmerging(text_model, unmerged(whole, span, calls))
        self._text_model, self._layers, self._calls = text_model, layers, calls
        self._cuts = {cut.stage.layer: cut for cut in cuts if cut.stage.place == "decoder"}
        stages = [cut.stage for cut in self._cuts.values()]
        if 0 in self._cuts:
            raise ValueError("a cut before layer 0 belongs to the projector: the cache counts its length by layer 0")
        self._kernel = str(text_model.config._attn_implementation)  # type: ignore[union-attr]
        if self._kernel.startswith("flash") and any(stage.masks for stage in stages):
            raise UserError("Flash attention cannot mask tokens amid a prompt, as this method does: add --attn sdpa.")
        self._first = min((layer for layer in self._cuts if layer is not None), default=len(layers))
        self._span = span
        self._signals = DecoderSignals(text_model, stages, span.behind)
        self._rope: object = None
        self._along = _spread(along, span) if along else None
        self.spans: list[Span] = []

    @contextmanager
    def prefill(self) -> Iterator[None]:
        """Cut while the context lasts; the text model is called once in it, on the whole prompt."""
        with ExitStack() as stack:
            for number, layer in enumerate(self._layers):
                hook = partial(self._before_layer, number)
                stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
            stack.enter_context(self._signals.listening())
            stack.enter_context(self._attention())
            yield

    @cached_property
    def _shifted(self) -> list[bool]:
        """Does a new token stand elsewhere in a layer than in the first one?"""
        return [bool((span.shift != self.spans[0].shift).any()) for span in self.spans]

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Give layers behind a cut their own masks and positions while the context lasts."""
        with ExitStack() as stack:
            for number in range(self._first, len(self._layers)):
                hook = partial(self._before_step, number)
                stack.callback(self._layers[number].register_forward_pre_hook(hook, with_kwargs=True).remove)
            stack.enter_context(self._attention())
            yield

    def _attention(self) -> AbstractContextManager[None]:
        return self._unmerging.attached() if self._unmerging else nullcontext()

    def _before_layer(
        self, number: int, layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Call | None:
        tokens = args[0]
        assert isinstance(tokens, torch.Tensor)
        if tokens.shape[1] != self._span.valid.shape[1]:
            raise ValueError(f"layer {number} was given {tokens.shape[1]} of {self._span.valid.shape[1]} tokens")
        if number == 0:
            self._signals.enter(tokens, self._span.slots())
            if self._span.held is not None:
                rope = self._text_model.config.rope_parameters  # type: ignore[union-attr]
                self._rope = turns(self._text_model.rotary_emb, tokens, self._span.held, rope)  # type: ignore[arg-type]
        elif self._along is not None:
            tokens = self._added(tokens, self._along)
        if cut := self._cuts.get(number):
            with self._watch.phase("compressor"):
                tokens = self._cut(cut, tokens, self._rope or kwargs["position_embeddings"])
        self.spans.append(self._span)
        if number < self._first and self._rope is None:
            return None if tokens is args[0] else ((tokens, *args[1:]), kwargs)
        rope = self._rope or kwargs["position_embeddings"]
        return (tokens, *args[1:]), self._behind_cut(kwargs, self._span.visible, tokens, rope)

    def _cut(self, cut: Cut, tokens: torch.Tensor, rope: object) -> torch.Tensor:
        assert self._calls is not None
        slots = self._span.slots()
        signals = self._signals.at(cut.stage, tokens, self._span, rope)
        if cut.stage.masks:
            given = [tokens[row, places] for row, places in slots]
            self._span = hide_in_span(self._span, cut, self._calls, given, signals)
            return tokens
        width = tokens.shape[-1]
        tokens = tokens.clone() if self._along is None else torch.cat([tokens, self._along], -1)
        given = [tokens[row, places] for row, places in slots]
        order, span, reduced, seats = reduce_span(self._span, cut, self._calls, given, signals, width=width)
        for (row, _), taken, rows in zip(slots, seats, reduced, strict=True):
            tokens[row, taken] = rows
        tokens = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))
        if self._along is not None:
            tokens, self._along = tokens[..., :width].contiguous(), tokens[..., width:]
        self._span, self._rope = span, self._rotary(tokens, span.position)
        return tokens

    def _added(self, tokens: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
        """Tokens behind one more layer, with the first list that runs along; the next layer's turn is the next one."""
        width = tokens.shape[-1]
        self._along = along[..., width:] if along.shape[-1] > width else None
        return tokens + along[..., :width]

    def next_position(self, number: int, past: int) -> torch.Tensor:
        """[..., batch, 1] where the token after `past` new ones stands in layer `number`.

        Behind cuts that keep positions that is where it would stand without them; behind cuts that renumber the prompt
        it is the length of the layer's own cache.
        """
        return self.spans[0].position[..., -1:] + 1 + past - self.spans[number].shift

    def _before_step(self, number: int, layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
        tokens, cache, span = args[0], kwargs["cache"], self.spans[number]
        assert isinstance(tokens, torch.Tensor)
        size, prompt = span.valid.shape
        past = cache.get_seq_length(number) - prompt  # type: ignore[attr-defined]
        visible = torch.cat([span.visible, span.valid.new_ones(size, past + tokens.shape[1])], 1)
        rope = kwargs["position_embeddings"]
        if self._shifted[number]:
            rope = self._rotary(tokens, self.next_position(number, past))
        return (tokens, *args[1:]), self._behind_cut(kwargs, visible, tokens, rope)

    def _rotary(self, tokens: torch.Tensor, position: torch.Tensor) -> object:
        rotary = self._text_model.rotary_emb
        assert isinstance(rotary, nn.Module)
        return rotary(tokens, position_ids=position)

    def _behind_cut(
        self, kwargs: dict[str, object], visible: torch.Tensor, tokens: torch.Tensor, rope: object
    ) -> dict[str, object]:
        # Position ids only serve to guess packed sequences from gaps, and there are none.
        mask = causal_mask(self._kernel, visible, tokens.shape[1], tokens.dtype)
        return {**kwargs, "attention_mask": mask, "position_embeddings": rope, "position_ids": None}


def _spread(along: Sequence[torch.Tensor], span: Span) -> torch.Tensor:
    """What runs along, of every image [tokens, width], at its tokens' slots: [batch, n, width], zeros elsewhere."""
    spread = along[0].new_zeros(*span.visual.shape, along[0].shape[-1])
    for (row, places), rows in zip(span.slots(), along, strict=True):
        spread[row, places] = rows
    return spread
