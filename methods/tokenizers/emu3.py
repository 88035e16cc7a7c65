"""Emu3's tokenizer of pictures and clips, as transformers has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...harness.registry import tokenizer
from ..latents import LatentNetwork
from ..network import code_bits
from ..weights import from_transformers

if TYPE_CHECKING:
    import torch
    from torch import nn


@tokenizer("emu3", budget_units=("percent",), network=True, paper="2409.18869", repository="github.com/baaivision/Emu3")
@dataclass(frozen=True)
class Emu3(LatentNetwork):
    """Codes of transformers' Emu3VQVAE: 8 x 8 pixels and 4 frames to one of 32768; a picture is shown four times.

    The rate is fixed. Of a larger model (Emu3-Chat) the tokenizer alone is loaded.
    """

    name: ClassVar[str] = "emu3"
    checkpoint: str = "emu3"

    def module(self, dtype: torch.dtype) -> nn.Module:
        return from_transformers(self.source(), "Emu3VQVAE", dtype)

    def takes_clips(self, module: nn.Module) -> bool:
        return True

    def encoded(self, module: Any, values: torch.Tensor) -> torch.Tensor:
        import torch

        frames = values.permute(0, 2, 1, 3, 4)  # [1, frames, 3, height, width]
        given = frames[:, 0] if frames.shape[1] == 1 else frames
        codes: torch.Tensor = module.encode(given, torch.tensor([values.shape[-2:]])).image_tokens[0]
        return codes[None]

    def decoded(self, module: Any, kept: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = module.decode(kept)
        return values[:, :, None] if values.ndim == 4 else values.permute(0, 2, 1, 3, 4)

    def cost(self, module: Any, kept: torch.Tensor) -> tuple[int, int]:
        return kept.numel(), code_bits(kept.numel(), module.config.codebook_size)
