"""Cuts visual tokens out of a prompt, in front of the LLM or between its layers, and keeps masks and positions right.

Layers behind a cut compute and cache fewer tokens, while transformers builds masks for the first layer's length only.
So hooks give every layer behind a cut its own mask and rotary embedding, at prefill and in every decoding step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ..contracts import Reduction, Stage
from .calls import Calls
from .taps import Seen, tap

Call = tuple[tuple[object, ...], dict[str, object]]


@dataclass(frozen=True)
class Span:
    """The sequence as one layer sees it; dropped tokens sink to the left and become padding.

    Attributes:
        visual: [batch, n] the image of the batch that each slot belongs to, -1 for text and padding.
        valid: [batch, n] False for padding.
        position: [..., batch, n] rotary positions (one row, or three for M-RoPE).
        shift: [..., batch, 1] how far a new token's position lies behind the place that the prompt would give it.
    """

    visual: torch.Tensor
    valid: torch.Tensor
    position: torch.Tensor
    shift: torch.Tensor

    def slots(self, images: int) -> list[tuple[int, torch.Tensor]]:
        """For every image its batch row and the slots of its tokens, in order."""
        found = []
        for image in range(images):
            places = (self.visual == image).nonzero()
            row = int(places[0, 0]) if len(places) else -1
            found.append((row, places[:, 1]))
        return found

    def counts(self) -> torch.Tensor:
        """[batch] visual tokens of each sample."""
        return (self.valid & (self.visual >= 0)).sum(1)

    def cut(self, kept: Mapping[int, torch.Tensor], renumber: bool) -> tuple[torch.Tensor, Span]:
        """Keep the leading slots of every image, with new positions, and all text.

        Args:
            kept: per image the positions [..., count] of the tokens that are left, in order.
            renumber: make the positions of the whole prompt contiguous again.

        Returns:
            The slots of this span that the next one consists of, [batch, m], and that span.
        """
        keep = self.valid & (self.visual < 0)
        position = self.position.clone()
        for (row, slots), new in zip(self.slots(len(kept)), (kept[i] for i in range(len(kept))), strict=True):
            left = slots[: new.shape[-1]]
            keep[row, left], position[..., row, left] = True, new
        width = int(keep.sum(1).max())
        order = torch.sort(keep.int(), dim=1, stable=True).indices[:, -width:]
        valid, visual = keep.gather(1, order), self.visual.gather(1, order)
        moved = position.gather(-1, order.expand(*position.shape[:-1], width))
        shift = self.shift
        if renumber:
            contiguous = (valid.cumsum(1) - 1).clamp(min=0).expand_as(moved)
            shift = shift + moved[..., -1:] - contiguous[..., -1:]
            moved = contiguous
        return order, Span(visual.masked_fill(~valid, -1), valid, moved, shift)


def reduce_span(
    span: Span, stage: Stage, calls: Calls, tokens: Sequence[torch.Tensor],
    signals: Mapping[str, Sequence[torch.Tensor]], *, class_index: int | None = None,
) -> tuple[torch.Tensor, Span, list[torch.Tensor]]:  # fmt: skip
    """Reduce the tokens of every image ([n, dim] each), and the span with them.

    Returns:
        As `Span.cut`, and the reduced tokens of every image.
    """
    slots = span.slots(len(tokens))
    kept: dict[int, torch.Tensor] = {}
    reduced: dict[int, torch.Tensor] = {}
    renumber = False
    for images in calls.groups([len(t) for t in tokens]):
        if not len(tokens[images[0]]):  # an earlier cut left nothing
            for image in images:
                reduced[image], kept[image] = tokens[image], span.position[..., 0, :0]
            continue
        stacked = torch.stack([tokens[i] for i in images])
        seen = {name: torch.stack([rows[i] for i in images]) for name, rows in signals.items()}
        reduction = calls.reduce(stage, images, stacked, seen, class_index=class_index)
        renumber = renumber or _renumbers(reduction)
        rows = reduction.apply(stacked)
        for number, image in enumerate(images):
            count, (row, places) = int(reduction.counts[number]), slots[image]
            reduced[image] = rows[number, :count]
            kept[image] = _positions(span.position[..., row, :], places, reduction, number, count)
    order, shorter = span.cut(kept, renumber)
    return order, shorter, [reduced[i] for i in range(len(tokens))]


def _renumbers(reduction: Reduction) -> bool:
    return isinstance(reduction.position, str) and reduction.position == "renumber"


def _positions(
    position: torch.Tensor, places: torch.Tensor, reduction: Reduction, number: int, count: int
) -> torch.Tensor:
    """Positions of the rows of image `number`, given those of its sample's prompt, [..., n]."""
    if isinstance(reduction.position, torch.Tensor):
        return reduction.position[number, :count].to(position)
    anchor = reduction.anchor[number, :count].clamp(max=len(places) - 1)  # a class token stands at the end
    return position[..., places[anchor]]


class Cutter:
    """One prompt's way through a text model whose layers may see ever fewer visual tokens.

    Attributes:
        spans: what every layer saw at prefill, as its hook found it.
    """

    def __init__(self, text_model: nn.Module, stages: Sequence[Stage], calls: Calls | None, span: Span) -> None:
        layers = text_model.layers
        assert isinstance(layers, nn.ModuleList)
        self._text_model, self._layers, self._calls = text_model, layers, calls
        self._stages = {stage.layer: stage for stage in stages}
        if 0 in self._stages:
            raise ValueError("a cut before layer 0 belongs to the projector: the cache counts its length by layer 0")
        self._first = min((s for s in self._stages if s is not None), default=len(layers))
        self._span = span
        self._rope: object = None
        self._attention: torch.Tensor | None = None
        self._moved = False
        self._shifted: list[bool] = []
        self.spans: list[Span] = []

    @contextmanager
    def prefill(self) -> Iterator[None]:
        """Cut while the context lasts; the text model is called once in it, on the whole prompt."""
        with ExitStack() as stack:
            for number, layer in enumerate(self._layers):
                hook = partial(self._before_layer, number)
                stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
            for cut, stage in self._stages.items():
                if "last_attention" in stage.reads and cut is not None:
                    attention = self._layers[cut - 1].self_attn
                    assert isinstance(attention, nn.Module)
                    stack.enter_context(tap(attention, self._see))
            yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Give layers behind a cut their own masks and positions while the context lasts."""
        with ExitStack() as stack:
            for number in range(self._first, len(self._layers)):
                hook = partial(self._before_step, number)
                stack.callback(self._layers[number].register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield

    def _see(self, seen: Seen) -> None:
        self._attention = seen.rows([-1])[:, :, 0]

    def _before_layer(
        self, number: int, layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Call | None:
        tokens = args[0]
        assert isinstance(tokens, torch.Tensor)
        if tokens.shape[1] != self._span.valid.shape[1]:
            raise ValueError(f"layer {number} was given {tokens.shape[1]} of {self._span.valid.shape[1]} tokens")
        if stage := self._stages.get(number):
            tokens = self._cut(stage, tokens)
        self.spans.append(self._span)
        self._shifted.append(self._moved)
        if number < self._first:
            return None
        return (tokens, *args[1:]), self._behind_cut(kwargs, self._span.valid, tokens, self._rope)

    def _cut(self, stage: Stage, tokens: torch.Tensor) -> torch.Tensor:
        assert self._calls is not None
        slots = self._span.slots(len(self._calls.names))
        given = [tokens[row, places] for row, places in slots]
        signals = {}
        if "last_attention" in stage.reads:
            assert self._attention is not None
            signals["last_attention"] = [self._attention[row][:, places] for row, places in slots]
        order, span, reduced = reduce_span(self._span, stage, self._calls, given, signals)
        tokens = tokens.clone()
        for (row, places), rows in zip(slots, reduced, strict=True):
            tokens[row, places[: len(rows)]] = rows
        tokens = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))
        self._span, self._rope = span, self._rotary(tokens, span.position)
        self._moved = bool((span.shift != 0).any())
        return tokens

    def _before_step(self, number: int, layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
        tokens, cache, span = args[0], kwargs["past_key_values"], self.spans[number]
        assert isinstance(tokens, torch.Tensor)
        size, prompt = span.valid.shape
        past = cache.get_seq_length(number) - prompt  # type: ignore[attr-defined]
        valid = torch.cat([span.valid, span.valid.new_ones(size, past + tokens.shape[1])], 1)
        rope = kwargs["position_embeddings"]
        if self._shifted[number]:
            rope = self._rotary(tokens, self.spans[0].position[..., -1:] + 1 + past - span.shift)
        return (tokens, *args[1:]), self._behind_cut(kwargs, valid, tokens, rope)

    def _rotary(self, tokens: torch.Tensor, position: torch.Tensor) -> object:
        rotary = self._text_model.rotary_emb
        assert isinstance(rotary, nn.Module)
        return rotary(tokens, position_ids=position)

    def _behind_cut(
        self, kwargs: dict[str, object], valid: torch.Tensor, tokens: torch.Tensor, rope: object
    ) -> dict[str, object]:
        # Position ids only serve to guess packed sequences from gaps, and there are none.
        mask = self._mask(valid, tokens)
        return {**kwargs, "attention_mask": mask, "position_embeddings": rope, "position_ids": None}

    def _mask(self, valid: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor | None:
        kernel = self._text_model.config._attn_implementation  # type: ignore[union-attr]
        if kernel != "eager" and bool(valid.all()):
            return None  # causal for many queries, everything for one
        if str(kernel).startswith("flash"):
            return valid
        queries, keys = tokens.shape[1], valid.shape[1]
        causal = torch.ones(queries, keys, dtype=torch.bool, device=valid.device).tril(keys - queries)
        mask = causal & valid[:, None, None]
        if queries == keys:  # padding looks at itself: a softmax over nothing is not a number
            mask = mask | torch.eye(keys, dtype=torch.bool, device=valid.device)
        if kernel != "eager":
            return mask
        return torch.zeros(mask.shape, dtype=tokens.dtype, device=valid.device).masked_fill(
            ~mask, torch.finfo(tokens.dtype).min
        )


def whole_span(visual: torch.Tensor, valid: torch.Tensor) -> Span:
    """The span of a left-padded prompt with positions from 0; `visual` and `valid` are [batch, n]."""
    position = (valid.long().cumsum(1) - 1).clamp(min=0)
    return Span(visual, valid, position, torch.zeros_like(position[:, -1:]))


def settled(span: Span) -> Span:
    """A span after cuts in front of the LLM: what a new token's position is counted from."""
    return replace(span, shift=torch.zeros_like(span.shift))
