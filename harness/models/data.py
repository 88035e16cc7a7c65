"""What passes between a model and the runner: a family's abilities, a prepared batch, its encoding, an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from .calls import ImageName

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class FamilyInfo:
    """What a family serves for one configuration: known without weights.

    `signals` are names without the `@layer` behind them.
    """

    name: str
    places: frozenset[str]
    signals: frozenset[str]

    def lacking(self, places: Sequence[str], needs: Sequence[str]) -> list[str]:
        """Those of a method's places and signals that the family does not serve."""
        missing = [f"the place {place}" for place in places if place not in self.places]
        return missing + [f"the signal {need}" for need in needs if need.partition("@")[0] not in self.signals]


@dataclass(frozen=True)
class Batch:
    """Samples, decoded, preprocessed and tokenised.

    Attributes:
        input_ids, attention_mask: [batch, length], left-padded, with a placeholder for every visual token.
        owner: for every image the row of its sample.
        pixels: [images, 3, height, width].
    """

    sample_ids: tuple[str, ...]
    pictures: tuple[Image, ...]
    owner: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pixels: torch.Tensor

    @property
    def names(self) -> list[ImageName]:
        return [ImageName(self.sample_ids[row], self.owner[:i].count(row)) for i, row in enumerate(self.owner)]

    def images_of(self, row: int) -> list[int]:
        return [image for image, owner in enumerate(self.owner) if owner == row]


@dataclass(frozen=True)
class Encoded:
    """What the LLM is given of every image ([n, dim] each), and the signals that were asked for."""

    features: tuple[torch.Tensor, ...]
    signals: Mapping[str, tuple[torch.Tensor, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a model said of one sample, and what it cost.

    Attributes:
        text_tokens: prompt tokens that are not visual.
        tokens_full: visual tokens without a method.
        visual_tokens: at the input of every LLM layer, as the layers' hooks found them.
        kv_tokens: visual tokens in the cache of every layer after prefill.
        kept_indices: an entry per cut; see `Calls.kept`.
    """

    text: str
    token_ids: tuple[int, ...]
    text_tokens: int
    tokens_full: int
    visual_tokens: tuple[int, ...]
    kv_tokens: tuple[int, ...]
    kept_indices: tuple[list[int] | list[list[int]], ...]
