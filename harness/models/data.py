"""What passes between a model and the runner: a family's abilities, a prepared batch, its encoding, an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..contracts import Survival
from .calls import ImageName

if TYPE_CHECKING:
    from PIL.Image import Image


SEPARATOR = -2
"""Stands in the place of an image's number for a visual token that shows no patch: a newline behind a row of patches,
or a class token that enters the LLM. Separators are in no budget, and leave with the first token that a method takes
from their sample."""


@dataclass(frozen=True)
class Crop:
    """A picture, or a part of one, as a vision tower sees it: what the engine calls an image.

    Attributes:
        pixels: in the family's own form.
        grid: rows and columns of visual tokens.
        picture: that it shows; `under` is the box of it, in its pixels, that lies under the grid, which may reach
            beyond the picture where the processor adds a margin.
        whole: does it show a whole picture, and not a part?
        separators: that come with it.
    """

    pixels: torch.Tensor
    grid: tuple[int, int]
    picture: Image
    under: tuple[float, float, float, float]
    whole: bool = True
    separators: int = 0

    @property
    def tokens(self) -> int:
        """Its visual tokens."""
        return self.grid[0] * self.grid[1]

    def to(self, device: torch.device) -> Crop:
        """The same, with its pixels on a device."""
        return replace(self, pixels=self.pixels.to(device))


@dataclass(frozen=True)
class Frame(Crop):
    """A frame of a clip, or several that the model joins to one image; `picture` is the first of them.

    Attributes:
        frames: numbers, within the clip, and pictures of all of them.
        seconds: from it to the next, where positions tell the time.
    """

    frames: tuple[tuple[int, Image], ...] = ()
    seconds: float = 1.0


@dataclass(frozen=True)
class Shown:
    """A picture, or a whole clip, as a prompt shows it.

    Attributes:
        crops: the images that it is to the model.
        order: [placeholders] which of them each stands for, or `SEPARATOR`; None where they come one after another.
    """

    crops: tuple[Crop, ...]
    order: torch.Tensor | None = None

    def slots(self, first: int) -> torch.Tensor:
        """`order`, the crops numbered from `first` on."""
        if self.order is not None:
            return torch.where(self.order >= 0, self.order + first, self.order)
        counts = torch.tensor([crop.tokens for crop in self.crops])
        return torch.arange(first, first + len(self.crops)).repeat_interleave(counts)


class Sight(NamedTuple):
    """What a tower saw of some crops.

    Attributes:
        rows: of every crop [n, dim], a class token in front where the tower has one.
        tokens: makes the visual tokens of every crop, where they are not `rows` through the projector one by one.
        along: of every crop, see `Encoded.along`.
    """

    rows: Sequence[torch.Tensor]
    tokens: Callable[[], Sequence[torch.Tensor]] | None = None
    along: Sequence[torch.Tensor] = ()


@dataclass(frozen=True)
class Batch:
    """Samples, decoded, preprocessed and tokenised.

    Attributes:
        crops: the images of all samples, in the order of their placeholders.
        owner: for every image the row of its sample.
        input_ids, attention_mask: [batch, length], left-padded, with a picture's placeholder for every visual token, of
            clips as well: the model fills it with what it is given, whatever it stands for.
        order: for every sample, [placeholders] which image of it each of them stands for, or `SEPARATOR`.
        evidence: for every image, [patches] the share of each patch that its sample's regions cover.
        questions: one per sample.
        clip: samples are clips, shown as such; else they are pictures, all of them.
    """

    sample_ids: tuple[str, ...]
    crops: tuple[Crop, ...]
    owner: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    order: tuple[torch.Tensor, ...]
    evidence: tuple[torch.Tensor, ...]
    questions: tuple[str, ...] = ()
    clip: bool = False

    @property
    def names(self) -> list[ImageName]:
        return [ImageName(self.sample_ids[row], self.owner[:i].count(row)) for i, row in enumerate(self.owner)]

    def images_of(self, row: int) -> list[int]:
        return [image for image, owner in enumerate(self.owner) if owner == row]

    def of(self, row: int) -> Batch:
        """One sample, without the padding that it had beside the others."""
        images, on = self.images_of(row), self.attention_mask[row].bool()
        return Batch(
            (self.sample_ids[row],), tuple(self.crops[i] for i in images), (0,) * len(images),
            self.input_ids[row : row + 1, on], self.attention_mask[row : row + 1, on], self.order[row : row + 1],
            tuple(self.evidence[i] for i in images), self.questions[row : row + 1], self.clip,
        )  # fmt: skip


@dataclass(frozen=True)
class Encoded:
    """What a vision pass left of every image; what nobody asks for is not computed.

    Attributes:
        features: [patches, dim] as they go into the projector.
        class_rows: [1, dim], the class token beside them; empty where the tower has none.
        project: through the projector, [rows, dim] to [rows, dim].
        whole: makes the visual tokens of all images, where they are not `features` through the projector row by row.
        signals: what was asked for, a tensor per image.
        along: [patches, lists * dim], further features of every visual token that no compressor sees: whatever is done
            to the tokens is done to them, and the LLM adds one list of them behind each of its first layers. Empty in
            families whose LLM adds none.
    """

    features: tuple[torch.Tensor, ...]
    class_rows: tuple[torch.Tensor, ...]
    project: Callable[[torch.Tensor], torch.Tensor]
    signals: Mapping[str, tuple[torch.Tensor, ...]] = field(default_factory=dict)
    whole: Callable[[], Sequence[torch.Tensor]] | None = None
    along: tuple[torch.Tensor, ...] = ()

    @cached_property
    def tokens(self) -> tuple[torch.Tensor, ...]:
        """[patches, dim] as the LLM gets them."""
        return tuple(self.whole()) if self.whole else self.projected(self.features)

    @cached_property
    def class_tokens(self) -> tuple[torch.Tensor, ...]:
        """[1, dim], class tokens behind the projector."""
        return self.projected(self.class_rows)

    def projected(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Features of every image, or what was made of them, through the projector in one go."""
        rows = self.project(torch.cat(list(features)))
        return tuple(torch.split(rows, [len(own) for own in features]))

    def of(self, images: Sequence[int]) -> Encoded:
        """The share of some images, which is computed no second time."""

        def pick(values: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            return tuple(values[i] for i in images)

        signals = {name: pick(values) for name, values in self.signals.items()}
        classes = pick(self.class_rows) if self.class_rows else ()
        whole = (lambda: pick(self.tokens)) if self.whole else None
        along = pick(self.along) if self.along else ()
        share = Encoded(pick(self.features), classes, self.project, signals, whole, along)
        for name in {"tokens", "class_tokens"} & set(self.__dict__):
            share.__dict__[name] = pick(getattr(self, name))
        return share


@dataclass(frozen=True)
class Answer:
    """What a model said of one sample, and what it cost.

    Attributes:
        text_tokens: prompt tokens that are not visual; `text_behind` of them stand behind the last picture.
        segments: of the question, as a text encoder was given it; 0 where it was not asked.
        tokens_full: visual tokens without a method, separators included; `grids` are rows and columns of every image.
        visual_tokens: at the input of every LLM layer, as the layers' hooks found them, separators included.
        kv_tokens: visual tokens in the cache of every layer after prefill.
        kv_bytes: of the cache of this sample alone after prefill, text tokens included, in the dtype that it has.
        kept_indices: an entry per cut; see `Calls.kept`.
        evidence: what was left of every patch that holds evidence; empty where the sample names none.
    """

    text: str
    token_ids: tuple[int, ...]
    text_tokens: int
    tokens_full: int
    visual_tokens: tuple[int, ...]
    kv_tokens: tuple[int, ...]
    kept_indices: tuple[list[int] | list[list[int]], ...]
    evidence: tuple[Survival, ...] = ()
    text_behind: int = 0
    segments: int = 0
    grids: tuple[tuple[int, int], ...] = ()
    kv_bytes: int = 0
