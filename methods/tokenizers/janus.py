"""Janus' tokenizer of pictures that it draws, as transformers has it."""

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


@tokenizer(
    "janus", budget_units=("percent",), network=True, paper="2410.13848", repository="github.com/deepseek-ai/Janus"
)
@dataclass(frozen=True)
class Janus(LatentNetwork):
    """Codes of transformers' JanusVQVAE (LlamaGen's tokenizer): 16 x 16 pixels to one of 16384.

    The rate is fixed. Of a larger model (Janus-Pro) the tokenizer alone is loaded. Both sides are scaled to unit length
    before the nearest row is looked for, as the authors do and as the library's `decode` takes for granted; the
    library's own `encode` compares unscaled ones. Pictures need not be square, as they must for the library.
    """

    name: ClassVar[str] = "janus"
    checkpoint: str = "janus-pro-1b"

    def module(self, dtype: torch.dtype) -> nn.Module:
        return from_transformers(self.source(), "JanusVQVAE", dtype)

    def encoded(self, module: Any, values: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn.functional import normalize

        latents = normalize(module.quant_conv(module.encoder(values)), dim=1)  # [1, dim, rows, columns]
        rows = normalize(module.quantize.embedding.weight, dim=1)
        codes: torch.Tensor = torch.einsum("bdhw,kd->bhwk", latents, rows).argmax(-1)
        return codes

    def decoded(self, module: Any, kept: torch.Tensor) -> torch.Tensor:
        module.quantize.quant_state_dims = list(kept.shape[1:])
        values: torch.Tensor = module.decode(kept.reshape(1, -1))
        return values

    def cost(self, module: Any, kept: torch.Tensor) -> tuple[int, int]:
        return kept.numel(), code_bits(kept.numel(), module.config.num_embeddings)
