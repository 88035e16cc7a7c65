"""Vector-quantised autoencoders of the diffusers library: a code per position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...harness.registry import tokenizer
from ..latents import LatentNetwork
from ..network import code_bits
from ..weights import from_diffusers

if TYPE_CHECKING:
    import torch
    from torch import nn


@tokenizer("vq_model", budget_units=("percent",), network=True, libraries=("diffusers",))
@dataclass(frozen=True)
class VqModel(LatentNetwork):
    """Codes of diffusers' VQModel: Kandinsky's MoVQ, aMUSEd's, and the small one that comes with us.

    The rate is fixed: positions x log2 of the code book. What is decoded are the rows of the code book that the codes
    name, since the library's own `decode` would look for the nearest rows again.
    """

    name: ClassVar[str] = "vq_model"

    def module(self, dtype: torch.dtype) -> nn.Module:
        return from_diffusers(self.source(), ("VQModel",), dtype)

    def encoded(self, module: Any, values: torch.Tensor) -> torch.Tensor:
        latents = module.encode(values).latents
        codes: torch.Tensor = module.quantize(latents)[2][2]
        return codes.reshape(1, *latents.shape[2:])

    def decoded(self, module: Any, kept: torch.Tensor) -> torch.Tensor:
        shape = (*kept.shape, module.config.vq_embed_dim or module.config.latent_channels)
        if module.config.lookup_from_codebook:
            rows = kept.reshape(-1)
        else:
            rows = module.quantize.get_codebook_entry(kept.reshape(-1), shape)
        values: torch.Tensor = module.decode(rows, force_not_quantize=True, shape=shape).sample
        return values

    def cost(self, module: Any, kept: torch.Tensor) -> tuple[int, int]:
        return kept.numel(), code_bits(kept.numel(), module.config.num_vq_embeddings)

    def unseen(self, module: Any, kept: torch.Tensor) -> float:
        """The search for the nearest rows, by `cdist`."""
        return 2.0 * kept.numel() * int(module.quantize.embedding.weight.numel())
