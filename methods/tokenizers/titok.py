"""TiTok and One-D-Piece: a picture as a short row of tokens, of which One-D-Piece draws any prefix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from ...harness.contracts import Budget, Codes, Memo, Spent
from ...harness.registry import tokenizer
from ..bitstream import pack, unpack, width_of
from ..network import Checkpointed, Size, counted, cropped, joined, on_meta, padded, picture, pixels
from ..network import tiles as cut
from ..parameters import truth
from ..titok_checkpoints import CONFIGS, load, read_config

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

    from ..titok import TiTok, TiTokConfig

BATCH = 32
"""Tiles that are coded at once."""


@tokenizer(
    "titok",
    budget_units=("tokens", "percent", "bpp"),
    network=True,
    paper="arXiv 2406.07550, 2501.10064",
    repository="bytedance/1d-tokenizer, turingmotors/One-D-Piece",
    verified="selection",
)
@dataclass(frozen=True)
class TiTokTokenizer(Checkpointed):
    """A vision transformer's latent tokens, quantized; another draws the picture from them (TiTok, One-D-Piece).

    A checkpoint that was trained with tail token drop (One-D-Piece, ours) codes any number of tokens from one to all:
    the first ones; the others have a fixed rate. Bits are those of the stream: a token's indices in whole bits (12 for
    4096 codes), and the number of tokens where it varies (8 bits for 256), once for a picture; its size is not counted,
    as nobody counts it. Continuous latents (the `vae` checkpoints) are the posterior's mean in 16-bit floats.

    Networks take one picture size. Other pictures are scaled to fit (bicubic, as the authors scale theirs) and centred
    on black; or, with `tiles`, cut into tiles of that size from the top left, the rest filled by repeating the last row
    and column. A budget in tokens is then one for each tile, and all tiles get alike many.

    Departs from the authors' code: they crop pictures to a square; where theirs samples a posterior, its mean is coded.

    Attributes:
        tiles: cut into tiles or scale; by default as the checkpoint's configuration says, which of the authors' is to
            scale.
    """

    name: ClassVar[str] = "titok"
    tiles: bool | None = None

    def __post_init__(self) -> None:
        truth(self, "tiles")
        super().__post_init__()

    @cached_property
    def config(self) -> TiTokConfig:
        """Of the network; a checkpoint that is on the hub and not published by name is asked for it."""
        return CONFIGS.get(self.checkpoint) or read_config(self.source().local("config.json"))

    @property
    def variable(self) -> bool:
        """See `Network`."""
        return self.config.nested

    def check(self, budget: Budget) -> None:
        """See `Network`."""
        super().check(budget)
        if budget.unit != "bpp":
            budget.tokens(self.config.latents)

    def load(self, device: str, dtype: str) -> LoadedTiTok:
        """See `Network`."""
        from ...harness.models.loading import check_platform

        network = load(self.source().local("config.json", "model.safetensors", "pytorch_model.bin"), self.config)
        tiled = self.config.tiled if self.tiles is None else self.tiles
        place = check_platform(device, dtype, "sdpa")
        return LoadedTiTok(network.to(device, place), tiled=tiled)


class LoadedTiTok:
    """The network on its device."""

    def __init__(self, network: TiTok, *, tiled: bool) -> None:
        self.network, self.config, self.tiled = network, network.config, tiled
        self.sizes = network.quantizer.sizes
        self.lengths = network.config.latents if network.config.nested else 1
        self._meta = on_meta(network)
        self._spent: dict[int, Spent] = {}

    def encode(self, image: Image, budget: Budget, memo: Memo) -> Codes:
        """See `Tokenizer`: the first tokens of every tile, as many as the budget allows.

        Raises:
            Refusal: a count of tokens that there is not.
        """
        import numpy as np

        latents = self.config.latents
        indices = memo.once((self, "indices"), lambda: self._indices(image))
        head, each = width_of(self.lengths), len(indices) * sum(map(width_of, self.sizes))
        if budget.unit == "bpp":
            length = min(latents, int((budget.value * image.width * image.height - head) // each))
        else:
            length = budget.tokens(latents)
        kept = indices[:, : max(length, 1)]
        columns = kept.reshape(-1, len(self.sizes)).T
        stream = pack([(np.array([kept.shape[1] - 1]), self.lengths), *zip(columns, self.sizes, strict=True)])
        return Codes(
            stream, ".titok", head + each * kept.shape[1], len(indices) * kept.shape[1], indices[..., 0].size,
            infeasible=length < 1, payload=image.size,
        )  # fmt: skip

    def decode(self, codes: Codes) -> Image:
        """See `Tokenizer`; the payload is the picture's size."""
        import numpy as np
        import torch
        from PIL.Image import Resampling

        size = self._size(codes)
        count, length = self._tiles(size), self.config.latents
        if self.config.nested:
            length = 1 + int(unpack(codes.stream, [(1, self.lengths)])[0][0])
        _, *columns = unpack(codes.stream, [(1, self.lengths), *((count * length, s) for s in self.sizes)])
        indices = torch.from_numpy(np.stack(columns, -1)).view(count, length, -1)
        with torch.inference_mode():
            drawn = torch.cat(
                [self.network.decode(part.to(self._device)).float() for part in torch.split(indices, BATCH)]
            )
        if self.tiled:
            return picture(cropped(joined(drawn, -(-size[0] // self.config.image_size)), size), 0)
        return picture(drawn, 0).crop(_box(size, self.config.image_size)).resize(size, Resampling.BICUBIC)

    def flops(self, size: Size, codes: Codes) -> Spent:
        """See `LoadedNetwork`."""
        count = self._tiles(size)
        assert codes.tokens
        length = codes.tokens // count
        if length not in self._spent:
            self._spent[length] = self._count(length)
        encode, decode = self._spent[length]
        return Spent(count * encode, count * decode)

    def _count(self, length: int) -> Spent:
        """Of one tile."""
        import torch

        tile = torch.empty(1, 3, self.config.image_size, self.config.image_size, device="meta")
        indices = torch.empty(1, length, len(self.sizes), dtype=torch.long, device="meta")
        tile = tile.to(self.network.mask_token.dtype)
        return Spent(counted(lambda: self._meta.encode(tile)), counted(lambda: self._meta.decode(indices)))

    def _indices(self, image: Image) -> np.ndarray:
        """[tiles, latents, k] of a picture."""
        import torch

        side, dtype = self.config.image_size, self.network.mask_token.dtype
        if self.tiled:
            parts = cut(padded(pixels(image, 0, "cpu", torch.float32), (side, side)), side)
        else:
            parts = pixels(_fitted(image, side), 0, "cpu", torch.float32)
        with torch.inference_mode():
            found = [self.network.encode(part.to(self._device, dtype)).cpu() for part in torch.split(parts, BATCH)]
        return torch.cat(found).numpy()

    def _tiles(self, size: Size) -> int:
        side = self.config.image_size
        return -(-size[0] // side) * -(-size[1] // side) if self.tiled else 1

    def _size(self, codes: Codes) -> Size:
        assert isinstance(codes.payload, tuple)
        width, height = codes.payload
        return int(width), int(height)

    @property
    def _device(self) -> torch.device:
        return self.network.mask_token.device


def _box(size: Size, side: int) -> tuple[int, int, int, int]:
    """Where a picture that is scaled to fit lies in a square: left, top, right, bottom."""
    width, height = (max(1, round(length * side / max(size))) for length in size)
    left, top = (side - width) // 2, (side - height) // 2
    return left, top, left + width, top + height


def _fitted(image: Image, side: int) -> Image:
    """A picture scaled to fit, on a black square."""
    from PIL import Image as Pillow

    left, top, right, bottom = _box(image.size, side)
    square = Pillow.new("RGB", (side, side))
    square.paste(image.convert("RGB").resize((right - left, bottom - top), Pillow.Resampling.BICUBIC), (left, top))
    return square
