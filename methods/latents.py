"""Tokenizers of a fixed rate whose network makes a grid of latents or codes: any size goes in, the same comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ..harness.contracts import Budget, Codes, LoadedNetwork, Memo, Spent
from .network import Checkpointed, Size, counted, cropped, on_meta, padded, picture, pixels

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import nn

PROBE = 256
"""Side of the square that factors are measured on: a whole number of every published factor, 128 at most."""
STRIDE = 64
"""How many frames a clip may have to be grown by."""


class Kept(NamedTuple):
    """What is left of a picture or clip: `values` [1, ..., rows, columns], its size and its number of frames."""

    values: torch.Tensor
    size: Size
    frames: int


@dataclass(frozen=True)
class LatentNetwork(Checkpointed, ABC):
    """A network that takes pixels [1, 3, height, width], of clips [1, 3, frames, height, width], to `values` and back.

    Factors are measured on a copy without weights, since attributes of released models are wrong or missing.
    """

    low: ClassVar[float] = -1.0
    """What the network takes for black."""

    def load(self, device: str, dtype: str) -> LatentCoder:
        """See `Network`."""
        from ..harness.models.loading import check_platform

        kind = check_platform(device, dtype, "eager")
        module = self.module(kind).to(device).eval().requires_grad_(False)
        return (ClipCoder if self.takes_clips(module) else LatentCoder)(self, module, device, kind)

    @abstractmethod
    def module(self, dtype: torch.dtype) -> nn.Module:
        """The library's class with its weights, on the CPU.

        Raises:
            UserError: they cannot be had, or are of another class.
        """

    @abstractmethod
    def encoded(self, module: nn.Module, values: torch.Tensor) -> torch.Tensor:
        """What is kept of pixels."""

    @abstractmethod
    def decoded(self, module: nn.Module, kept: torch.Tensor) -> torch.Tensor:
        """The pixels of what was kept."""

    @abstractmethod
    def cost(self, module: nn.Module, kept: torch.Tensor) -> tuple[int, int]:
        """Tokens and bits of what is kept."""

    def unseen(self, module: nn.Module, kept: torch.Tensor) -> float:
        """FLOPs of encoding that torch's counter does not see."""
        return 0.0

    def takes_clips(self, module: nn.Module) -> bool:
        """Whether its pixels have an axis of frames."""
        return False

    def black(self, module: nn.Module) -> float:
        """What it takes for black."""
        return self.low

    def unit(self, module: nn.Module) -> int:
        """The side of which a picture must be a whole multiple, measured on a module of the meta device."""
        import torch

        clip = self.takes_clips(module)
        probe = torch.empty(1, 3, *[1] * clip, PROBE, PROBE, device="meta", dtype=_dtype(module))
        with torch.no_grad():
            side = self.encoded(module, probe).shape[-1]
        if PROBE % side:
            raise ValueError(f"{PROBE} pixels became {side} latents: no whole factor")
        return PROBE // side


class LatentCoder(LoadedNetwork):
    """A network on a device, as a tokenizer of pictures."""

    def __init__(self, network: LatentNetwork, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        self.network, self.module, self.device, self.dtype = network, module, device, dtype
        self.black = network.black(module)
        self._meta = on_meta(module)
        self.unit = network.unit(self._meta)
        self._spent: dict[tuple[int, ...], Spent] = {}

    def encode(self, image: Image, budget: Budget, memo: Memo) -> Codes:
        """See `Tokenizer`."""
        return self._codes(self._pixels(image), image.size, 1)

    def decode(self, codes: Codes) -> Image:
        """See `Tokenizer`."""
        return picture(self._values(codes), self.black)

    def flops(self, size: Size, codes: Codes) -> Spent:
        """See `LoadedNetwork`; counted once for every size of padded picture."""
        return self._count((1, 3, *self._grown(size)))

    def _pixels(self, image: Image) -> torch.Tensor:
        grown = (self.unit, self.unit)
        return padded(pixels(image, self.black, self.device, self.dtype), grown)

    def _codes(self, values: torch.Tensor, size: Size, frames: int) -> Codes:
        import torch

        with torch.no_grad():
            kept = self.network.encoded(self.module, values)
        if kept.is_floating_point() and not torch.isfinite(kept).all():
            raise ValueError("the network's latents have values that are no numbers: try another dtype or precision")
        tokens, bits = self.network.cost(self.module, kept)
        return Codes(b"", "", bits, tokens=tokens, payload=Kept(kept, size, frames))

    def _values(self, codes: Codes) -> torch.Tensor:
        import torch

        assert isinstance(codes.payload, Kept)
        with torch.no_grad():
            return cropped(self.network.decoded(self.module, codes.payload.values), codes.payload.size)

    def _grown(self, size: Size) -> tuple[int, int]:
        width, height = (-(-side // self.unit) * self.unit for side in size)
        return height, width

    def _count(self, shape: tuple[int, ...]) -> Spent:
        import torch

        if shape not in self._spent:
            values = torch.empty(shape, device="meta", dtype=self.dtype)
            with torch.no_grad():
                kept = self.network.encoded(self._meta, values)
            encode = counted(lambda: self.network.encoded(self._meta, values)) + self.network.unseen(self._meta, kept)
            self._spent[shape] = Spent(encode, counted(lambda: self.network.decoded(self._meta, kept)))
        return self._spent[shape]


class ClipCoder(LatentCoder):
    """A network that sees frames together; a picture is a clip of one.

    Causal networks give back fewer frames than they were given, without a word: a clip grows, by repeating its last
    frame, to the next length that comes back whole, and is cut afterwards.
    """

    def __init__(self, network: LatentNetwork, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__(network, module, device, dtype)
        self._lengths: dict[int, int] = {}

    def encode(self, image: Image, budget: Budget, memo: Memo) -> Codes:
        return self.encode_clip([image], budget, memo)

    def decode(self, codes: Codes) -> Image:
        return self.decode_clip(codes)[0]

    def encode_clip(self, frames: Sequence[Image], budget: Budget, memo: Memo) -> Codes:
        """See `ClipTokenizer`."""
        import torch

        shown = [self._pixels(frame) for frame in frames]
        shown += shown[-1:] * (self.length(len(frames)) - len(frames))
        return self._codes(torch.stack(shown, dim=2), frames[0].size, len(frames))

    def decode_clip(self, codes: Codes) -> tuple[Image, ...]:
        """See `ClipTokenizer`."""
        assert isinstance(codes.payload, Kept)
        values = self._values(codes)
        return tuple(picture(values[:, :, i], self.black) for i in range(codes.payload.frames))

    def flops(self, size: Size, codes: Codes) -> Spent:
        assert isinstance(codes.payload, Kept)
        return self._count((1, 3, self.length(codes.payload.frames), *self._grown(size)))

    def length(self, frames: int) -> int:
        """The smallest number of frames, from so many on, of which all come back.

        Raises:
            ValueError: none among the next 64.
        """
        if frames not in self._lengths:
            longer = range(frames, frames + STRIDE)
            found = next((n for n in longer if self._comes_back(n)), None)
            if found is None:
                raise ValueError(f"no clip of {frames} to {frames + STRIDE - 1} frames comes back whole")
            self._lengths[frames] = found
        return self._lengths[frames]

    def _comes_back(self, frames: int) -> bool:
        import torch

        values = torch.empty(1, 3, frames, 2 * self.unit, 2 * self.unit, device="meta", dtype=self.dtype)
        try:
            with torch.no_grad():
                back = self.network.decoded(self._meta, self.network.encoded(self._meta, values))
        except (RuntimeError, ValueError):
            return False  # some networks refuse the lengths that others shorten
        return back.shape[2] == frames


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
