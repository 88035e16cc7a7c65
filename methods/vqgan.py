"""The decoder of MaskGIT's VQGAN (arXiv 2202.04200), by which the first TiTok checkpoints draw their pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm

CODES, CODE_SIZE = 1024, 256
WIDTHS = (4, 2, 2, 1, 1)
"""Of the five resolutions, lowest first, in multiples of the last one's channels."""


class VQGANHead(nn.Module):
    """Patch features [batch, cells, width] to a picture of 16 x 16 pixels a patch.

    Every patch gets a mixture of the VQGAN's codes by the softmax of its logits, which the convolutional decoder draws.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(width, 2 * width), nn.Linear(2 * width, CODES)
        self.codes = nn.Embedding(CODES, CODE_SIZE)
        self.decoder = VQGANDecoder(channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, cells, _ = x.shape
        side = int(cells**0.5)
        mixed = self.logits(self.hidden(x).tanh()).softmax(-1) @ self.codes.weight
        picture: Tensor = self.decoder(mixed.transpose(1, 2).reshape(batch, CODE_SIZE, side, side))
        return picture


class VQGANDecoder(nn.Module):
    """Features [batch, 256, side, side] to a picture of 16 times the side, in 0 to 1 but for what is not clamped."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels * w for w in WIDTHS]
        self.conv_in = Conv2d(CODE_SIZE, widths[0], 3, padding=1)
        self.middle = nn.Sequential(Residual(widths[0], widths[0]), Residual(widths[0], widths[0]))
        self.levels = nn.ModuleList(
            nn.Sequential(Residual(before, after), Residual(after, after))
            for before, after in zip([widths[0], *widths], widths, strict=False)
        )
        self.smooth = nn.ModuleList(Conv2d(w, w, 3, padding=1) for w in widths[:-1])
        self.norm_out = GroupNorm(32, channels, eps=1e-6)
        self.conv_out = Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.conv_in(x))
        for level, smooth in zip(self.levels, self.smooth, strict=False):
            x = smooth(F.interpolate(level(x), scale_factor=2.0, mode="nearest"))
        picture: Tensor = self.conv_out(F.silu(self.norm_out(self.levels[-1](x))))
        return picture


class Residual(nn.Module):
    """Two convolutions and what they are added to.

    Where the width changes, that is a projection of their own output and not of the input, as in the released weights'
    network.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(32, before, eps=1e-6), GroupNorm(32, after, eps=1e-6)
        self.conv1 = Conv2d(before, after, 3, padding=1, bias=False)
        self.conv2 = Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = Conv2d(after, after, 1, bias=False) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.shortcut(y) if self.shortcut else x)
