"""Tokens that stand at several places of the full prompt at once (PPE, arXiv 2510.22936).

A merged token holds the positions of several patches that were merged into it, each of which turns a share of the
rotary channels. Keys are cached as they were turned, so that only the prefill has to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..contracts import Refusal
from .calls import BrokenPromiseError, Calls
from .data import SEPARATOR

if TYPE_CHECKING:
    from .cutter import Span

Turns = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, [batch, n, d] each."""


def held_places(members: Sequence[Sequence[int]], count: int) -> torch.Tensor:
    """Which `count` patches give every token its places: [tokens, count].

    Its members from the last to the first, and round again where there are fewer than `count`.
    """
    last_first = [sorted(own, reverse=True) for own in members]
    return torch.tensor([[own[i % len(own)] for i in range(count)] for own in last_first]).view(-1, count)


def hold(span: Span, whole: Span, calls: Calls, count: int) -> Span:
    """The span that enters the LLM: tokens at `count` places each of the full prompt `whole`, and text where it was.

    Raises:
        BrokenPromiseError: a token that no patch was merged into.
    """
    held = torch.zeros_like(span.position).expand(count, *span.position.shape).clone()
    for row in range(len(span.valid)):
        images = [image for image, owner in enumerate(span.owner) if owner == row]
        members = calls.members(images)
        if not all(members):
            raise BrokenPromiseError("a token that no patch was merged into stands at no place")
        places = held_places(members, count).to(span.position.device)
        stood = whole.position[..., row, _by_image(whole.visual[row])]
        held[..., row, _by_image(span.visual[row])] = stood[..., places].movedim(-1, 0)
        for other in (-1, SEPARATOR):
            left = (span.visual[row] == other) & span.valid[row]
            if bool(left.any()):  # separators stay all or leave all
                held[..., row, left] = whole.position[..., row, (whole.visual[row] == other) & whole.valid[row]]
    return replace(span, position=held[0], held=held)


def _by_image(visual: torch.Tensor) -> torch.Tensor:
    """Slots of visual tokens, one image after another."""
    slots = (visual >= 0).nonzero()[:, 0]
    return slots[visual[slots].argsort(stable=True)]


def turns(rotary: Callable[..., Turns], tokens: torch.Tensor, held: torch.Tensor, rope: Mapping[str, Any]) -> Turns:
    """Rotary tables of tokens at several places, held [count, batch, n] or, of three numbers, [count, 3, batch, n].

    The channels of every number (`mrope_section` of them, or all) are divided among the places, in the order of
    frequency; where that leaves a rest, neighbouring channels take turns, as in the authors' code.

    Args:
        rotary: makes the tables of one place. rope: the text model's `rope_parameters`.

    Raises:
        Refusal: the channels of three numbers are interleaved.
    """
    if rope.get("mrope_interleaved"):
        raise Refusal("stands tokens at several places, and this model interleaves the channels of their numbers")
    count, several = len(held), held.ndim == 4
    rows = held.transpose(0, 1).flatten(0, 1) if several else held  # by number, then by place
    tables = [rotary(tokens, position_ids=row.expand(held.shape[1:]) if several else row) for row in rows]
    half = tables[0][0].shape[-1] // 2
    sections = rope["mrope_section"] if several else [half]
    if all(section % count == 0 for section in sections):
        row = torch.arange(len(rows)).repeat_interleave(torch.tensor(sections).repeat_interleave(count) // count)
    else:
        row = torch.arange(half) % len(rows)
    channel = torch.arange(2 * half)
    cosines, sines = (torch.stack(made, -2)[..., row.repeat(2), channel] for made in zip(*tables, strict=True))
    return cosines, sines
