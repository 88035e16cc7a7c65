"""TiTok's network: a vision transformer that reads a picture into a row of tokens, and one that draws it from them.

TiTok (arXiv 2406.07550) and One-D-Piece (arXiv 2501.10064), which trains it with tail token drop, so that any prefix of
the tokens makes a picture. Written from the papers and held against the authors' modules; no code of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .quantizers import Kind, quantizer
from .vqgan import VQGANHead


@dataclass(frozen=True)
class ViTSize:
    """Of one of the two transformers."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True)
class TiTokConfig:
    """What the network is built from.

    Attributes:
        image_size, patch: sides in pixels; pictures are square.
        latents: tokens of a picture.
        token_size: channels of a token.
        quantizer, parts: see `methods.quantizers.quantizer`.
        head: `pixels`, a linear map of every patch and a 3 x 3 convolution; `vqgan`, logits over the codes of
            MaskGIT's VQGAN, whose decoder draws the picture (patch 16).
        interleaved: tokens are read across the encoder's output and not along it, as the first checkpoints were trained
            (a reshape where a transpose was meant).
        nested: trained so that any prefix of the tokens makes a picture.
        vqgan_channels: of the VQGAN's last layer.
        tiled: pictures of other sizes are cut into tiles by default, and not scaled to the network's size.
    """

    image_size: int
    patch: int
    latents: int
    token_size: int
    encoder: ViTSize
    decoder: ViTSize
    quantizer: Kind
    parts: tuple[int, ...]
    head: Literal["pixels", "vqgan"] = "pixels"
    interleaved: bool = False
    nested: bool = False
    vqgan_channels: int = 128
    tiled: bool = False

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"patches of {self.patch} pixels do not tile {self.image_size} pixels")
        if self.head == "vqgan" and self.patch != 16:
            raise ValueError(f"a vqgan head draws patches of 16 pixels, not {self.patch}")

    @property
    def grid(self) -> int:
        """Patches of a side."""
        return self.image_size // self.patch

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> TiTokConfig:
        """The inverse of `to_dict`, after JSON."""
        given = dict(values)
        for name in ("encoder", "decoder"):
            given[name] = ViTSize(**given[name])  # type: ignore[arg-type]
        given["parts"] = tuple(given["parts"])  # type: ignore[arg-type]
        return cls(**given)  # type: ignore[arg-type]


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[batch, n, width]; `mask` [batch, 1, 1, n] is true where a token may be looked at."""
        batch, n, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, n, width))
        changed: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return changed


class Trunk(nn.Module):
    """A transformer over a class token, a grid of patches and a row of latent tokens, with learnt positions."""

    def __init__(self, size: ViTSize, cells: int, latents: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(_noise(1, size.width))
        self.grid_positions = nn.Parameter(_noise(1 + cells, size.width))
        self.latent_positions = nn.Parameter(_noise(latents, size.width))
        self.norm_in, self.norm_out = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.blocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.depth))

    def forward(self, grid: Tensor, latents: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both after the last layer, [batch, cells, width] and [batch, n, width].

        Args:
            lengths: [batch], how many latent tokens of each row are looked at; default all.
        """
        batch, cells, _ = grid.shape
        n = latents.shape[1]
        x = torch.cat([self.class_token.expand(batch, 1, -1), grid], 1) + self.grid_positions
        x = self.norm_in(torch.cat([x, latents + self.latent_positions[:n]], 1))
        mask = None
        if lengths is not None:
            order = torch.arange(-1 - cells, n, device=x.device)  # below zero: class token and patches
            mask = (order < lengths[:, None])[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm_out(x[:, 1:])
        return x[:, :cells], x[:, cells:]


class PixelHead(nn.Module):
    """Patch features [batch, cells, width] to a picture: three colours of every pixel, smoothed across patches."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.colours = nn.Linear(width, 3 * patch**2)
        self.smooth = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, cells, _ = x.shape
        side, patch = int(cells**0.5), self.patch
        pixels = self.colours(x).view(batch, side, side, patch, patch, 3)
        picture: Tensor = self.smooth(pixels.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, side * patch, side * patch))
        return picture


class TiTok(nn.Module):
    """Pictures [batch, 3, side, side] in 0 to 1 to tokens and back; what is drawn is not clamped."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        cells, encoder, decoder = config.grid**2, config.encoder, config.decoder
        self.patches = nn.Conv2d(3, encoder.width, config.patch, stride=config.patch)
        self.latents = nn.Parameter(_noise(config.latents, encoder.width))
        self.encoder = Trunk(encoder, cells, config.latents)
        self.quantizer = quantizer(config.quantizer, config.token_size, config.parts)
        self.to_tokens = nn.Linear(encoder.width, self.quantizer.reads)
        self.from_tokens = nn.Linear(config.token_size, decoder.width)
        self.mask_token = nn.Parameter(_noise(1, decoder.width))
        self.decoder = Trunk(decoder, cells, config.latents)
        self.head: nn.Module = (
            PixelHead(decoder.width, config.patch)
            if config.head == "pixels"
            else VQGANHead(decoder.width, config.vqgan_channels)
        )
        self.apply(_initialise)

    def read(self, images: Tensor) -> Tensor:
        """What is quantized, [batch, latents, channels that the quantizer reads]."""
        batch = len(images)
        grid = self.patches(images).flatten(2).transpose(1, 2)
        _, x = self.encoder(grid, self.latents.expand(batch, -1, -1))
        if self.config.interleaved:
            x = x.reshape(batch, -1, self.config.latents).transpose(1, 2)
        vectors: Tensor = self.to_tokens(x)
        return vectors

    def draw(self, vectors: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Pictures of quantized vectors [batch, n, token_size], n up to the number of latents.

        Args:
            lengths: [batch], how many tokens of each row are used, 1 to n; the same as drawing each from its own
                prefix. Default all.
        """
        grid = self.mask_token.expand(len(vectors), self.config.grid**2, -1)
        x, _ = self.decoder(grid, self.from_tokens(vectors), lengths)
        picture: Tensor = self.head(x)
        return picture

    def encode(self, images: Tensor) -> Tensor:
        """Indices [batch, latents, k]."""
        return self.quantizer.encode(self.read(images))

    def decode(self, indices: Tensor) -> Tensor:
        """Pictures of indices [batch, n, k]: those of all latents, or of a prefix where the network is nested."""
        return self.draw(self.quantizer.decode(indices).to(self.mask_token.dtype))

    def forward(self, images: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pictures drawn from the first `lengths` [batch] tokens of each, and the quantizer's loss, for training."""
        made = self.quantizer(self.read(images))
        return self.draw(made.vectors, lengths), made.loss


def prefix(tokens: Tensor, length: int) -> Tensor:
    """The first `length` tokens of [batch, n, ...], or all where there are fewer; nothing takes the others' place."""
    return tokens[:, :length]


def tail_drop(batch: int, latents: int, generator: torch.Generator | None = None) -> Tensor:
    """One-D-Piece's training lengths [batch]: one number from 1 to `latents`, drawn anew for every batch."""
    lengths: Tensor = torch.randint(1, latents + 1, (1,), generator=generator).expand(batch)
    return lengths


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape) / math.sqrt(shape[-1])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
