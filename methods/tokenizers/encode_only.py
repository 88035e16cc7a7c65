"""Tokenizers whose released classes lack a decoder: listed, since people look for them, and refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...harness.contracts import Budget, LoadedNetwork, Refusal, UserError
from ...harness.registry import tokenizer


@dataclass(frozen=True)
class _EncodeOnly:
    why: ClassVar[str]

    @property
    def variable(self) -> bool:
        """Asked about every budget, so that each can be refused."""
        return True

    def check(self, budget: Budget) -> None:
        """See `Network`."""
        raise Refusal(self.why)

    def revision(self) -> str:
        """See `Network`."""
        raise UserError(f"{self.why}.")

    def load(self, device: str, dtype: str) -> LoadedNetwork:
        """See `Network`."""
        raise UserError(f"{self.why}.")


@tokenizer(
    "chameleon",
    budget_units=("tokens", "percent", "bpp"),
    network=True,
    paper="2405.09818",
    repository="github.com/facebookresearch/chameleon",
)
class Chameleon(_EncodeOnly):
    """Encode only, hence refused: transformers' ChameleonVQVAE (facebook/chameleon-7b) has no decoder."""

    why: ClassVar[str] = "chameleon encodes only: transformers' ChameleonVQVAE has no decoder, so nothing is rebuilt"


@tokenizer(
    "glm_image", budget_units=("tokens", "percent", "bpp"), network=True, repository="github.com/zai-org/GLM-Image"
)
class GlmImage(_EncodeOnly):
    """Encode only, hence refused: GlmImageVQVAE (zai-org/GLM-Image) has codes of features, not of pixels."""

    why: ClassVar[str] = (
        "glm_image encodes only: transformers' GlmImageVQVAE has codes of a ViT's features, from which no decoder of "
        "its own makes pixels"
    )


@tokenizer(
    "flava_codebook",
    budget_units=("tokens", "percent", "bpp"),
    network=True,
    paper="2112.04482",
    repository="github.com/facebookresearch/multimodal",
)
class FlavaCodebook(_EncodeOnly):
    """Encode only, hence refused: transformers' FlavaImageCodebook, DALL-E's encoder, comes without the decoder."""

    why: ClassVar[str] = "flava_codebook encodes only: transformers' FlavaImageCodebook has DALL-E's encoder alone"
