"""Continuous autoencoders of the diffusers library, for pictures and for clips."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...harness.contracts import UserError
from ...harness.registry import tokenizer
from ..latents import LatentNetwork
from ..network import joined, tiles
from ..weights import from_diffusers

if TYPE_CHECKING:
    import torch
    from torch import nn

BITS = {"float16": 16, "bfloat16": 16, "float32": 32}


@dataclass(frozen=True)
class Calling:
    """How a class is called.

    Attributes:
        latent: the field of what `encode` returns: `latent_dist` is a Gaussian, whose mode is taken.
        black: what the class takes for black.
        seeded: decoding draws noise.
        clips: frames are an axis of what it takes.
        tiles: it decodes to one size, whatever it was given: a picture is cut into tiles of that size.
    """

    latent: Literal["latent_dist", "latent", "latents"] = "latent_dist"
    black: float = -1.0
    seeded: bool = False
    clips: bool = False
    tiles: bool = False


CLASSES: Mapping[str, Calling] = {
    "AsymmetricAutoencoderKL": Calling(),
    "AutoencoderDC": Calling("latent"),
    "AutoencoderKL": Calling(),
    "AutoencoderKLCogVideoX": Calling(clips=True),
    "AutoencoderKLCosmos": Calling(clips=True),
    "AutoencoderKLFlux2": Calling(),
    "AutoencoderKLHunyuanImage": Calling(),
    "AutoencoderKLHunyuanVideo": Calling(clips=True),
    "AutoencoderKLHunyuanVideo15": Calling(clips=True),
    "AutoencoderKLKVAE": Calling(),
    "AutoencoderKLLTXVideo": Calling(clips=True),
    "AutoencoderKLMochi": Calling(clips=True),
    "AutoencoderKLQwenImage": Calling(clips=True),
    "AutoencoderKLWan": Calling(clips=True),
    "AutoencoderRAE": Calling("latent", black=0.0, tiles=True),
    "AutoencoderTiny": Calling("latents"),
    "ConsistencyDecoderVAE": Calling(seeded=True),
}
"""diffusers' classes that are served; a test loads a tiny one of each."""


@tokenizer("autoencoder", budget_units=("percent",), network=True, libraries=("diffusers",))
@dataclass(frozen=True)
class Autoencoder(LatentNetwork):
    """Continuous latents of one of diffusers' autoencoders, among them those of SD, SDXL, SD3, FLUX, DC-AE and Wan.

    The rate is fixed: positions x channels x bits of a number, to which latents are really rounded. A Gaussian gives
    its mode. Classes of clips (Wan, HunyuanVideo and others) take them whole, and a picture as a clip of one frame.

    Attributes:
        precision: of a number that is kept, `float16`, `bfloat16` or `float32`.
        seed: of the noise that ConsistencyDecoderVAE decodes with.
    """

    name: ClassVar[str] = "autoencoder"
    precision: str = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in BITS:
            raise UserError(f"autoencoder keeps no {self.precision!r} numbers: write one of {', '.join(BITS)}.")

    def module(self, dtype: torch.dtype) -> nn.Module:
        return from_diffusers(self.source(), CLASSES, dtype)

    def black(self, module: nn.Module) -> float:
        return _calling(module).black

    def takes_clips(self, module: nn.Module) -> bool:
        return _calling(module).clips

    def unit(self, module: Any) -> int:
        return int(module.decoder_image_size) if _calling(module).tiles else super().unit(module)

    def encoded(self, module: Any, values: torch.Tensor) -> torch.Tensor:
        import torch

        calling = _calling(module)
        if calling.tiles:
            values, columns = tiles(values, self.unit(module)), values.shape[-1] // self.unit(module)
        found = getattr(module.encode(values), calling.latent)
        latents = found.mode() if calling.latent == "latent_dist" else found
        kept: torch.Tensor = latents.to(getattr(torch, self.precision))
        return joined(kept, columns) if calling.tiles else kept

    def decoded(self, module: Any, kept: torch.Tensor) -> torch.Tensor:
        import torch

        calling, options = _calling(module), {}
        latents = kept.to(module.dtype)
        if calling.tiles:
            side = math.isqrt(module.num_patches)
            latents, columns = tiles(latents, side), kept.shape[-1] // side
        if calling.seeded:
            options["generator"] = torch.Generator().manual_seed(self.seed)
        if calling.seeded and kept.is_meta:
            module.decoder_scheduler = _Unscaled()
        values: torch.Tensor = module.decode(latents, **options).sample
        return joined(values, columns) if calling.tiles else values

    def cost(self, module: nn.Module, kept: torch.Tensor) -> tuple[int, int]:
        return math.prod(kept.shape[2:]), kept.numel() * BITS[self.precision]


def _calling(module: object) -> Calling:
    return CLASSES[type(module).__name__]


class _Unscaled:
    """Stands in for ConsistencyDecoderVAE's scheduler where FLOPs are counted: as many steps, without the arithmetic
    between them, which looks at values that tensors of the meta device do not have."""

    init_noise_sigma = 1.0

    def set_timesteps(self, count: int, device: object) -> None:
        import torch

        self.timesteps = torch.zeros(count, dtype=torch.long)

    def scale_model_input(self, values: torch.Tensor, step: object) -> torch.Tensor:
        return values

    def step(self, output: torch.Tensor, step: object, values: torch.Tensor, generator: object) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=output)
