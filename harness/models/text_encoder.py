"""A CLIP checkpoint of its own, for methods that hold patches against the question in CLIP's space.

The model's own tower and the checkpoint's projections work together, so the checkpoint must be the one that the tower
comes from; a tower of another width is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..contracts import UserError
from .published import hub_revision, load_config, local_folder

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig


NEEDED = "a text encoder: add --text-encoder with the CLIP checkpoint that the model's vision tower comes from"


@dataclass(frozen=True)
class TextEncoderInfo:
    """A text encoder by reference: what a plan must know, without weights."""

    ref: str
    config: PretrainedConfig

    @cached_property
    def revision(self) -> str:
        """Digest of a local folder's weights and configuration, or the hub's commit."""
        if folder := local_folder(self.ref):
            from .loading import digest

            return digest(folder)
        return hub_revision(self.ref)

    def check(self, model: str, width: int) -> None:
        """Raises UserError where a vision tower of `width` cannot be projected by this checkpoint."""
        own = self.config.vision_config.hidden_size
        if own != width:
            raise UserError(
                f"The text encoder {self.ref} projects features of width {own}, and the vision tower of {model} has "
                f"{width}: name the CLIP checkpoint that the tower comes from."
            )


def text_encoder_info(ref: str) -> TextEncoderInfo:
    """Raises UserError for a reference without a configuration, or one that is no CLIP."""
    config = load_config(ref)
    if config.model_type != "clip":
        raise UserError(f"The text encoder {ref} is a {config.model_type}: --text-encoder takes a CLIP checkpoint.")
    return TextEncoderInfo(ref, config)


class TextEncoder:
    """CLIP's text tower and both projections, in float32.

    Args:
        model: a CLIPModel; its vision tower is let go.
        tokenize: a text's ids, with begin and end.
    """

    def __init__(self, model: nn.Module, tokenize: Callable[[str], Sequence[int]]) -> None:
        parts: Any = model
        self._text, self._text_projection = parts.text_model, parts.text_projection
        self._visual_projection, self._tokenize = parts.visual_projection, tokenize
        self.length = int(parts.config.text_config.max_position_embeddings)

    def ids(self, text: str) -> torch.Tensor:
        """[segments, length] the ids of a text, padded with zeros to whole segments."""
        import torch

        found = list(self._tokenize(text))
        found += [0] * (-len(found) % self.length)
        return torch.tensor(found, device=self._text_projection.weight.device).view(-1, self.length)

    def text(self, text: str) -> torch.Tensor:
        """[segments, d] a text in the common space."""
        pooled = self._text(input_ids=self.ids(text)).pooler_output
        projected: torch.Tensor = self._text_projection(pooled)
        return projected

    def patches(self, features: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        """[n, d] patches in the common space, of features [n, dim] and the tower's last norm."""
        import torch

        given: Any = norm
        normed = torch.nn.functional.layer_norm(
            features.float(), given.normalized_shape, given.weight.float(), given.bias.float(), given.eps
        )
        projected: torch.Tensor = self._visual_projection(normed)
        return projected


def open_text_encoder(ref: str, device: str, attention: str = "sdpa") -> TextEncoder:
    """Raises UserError as `open_model` does."""
    import torch

    from .loading import load

    text_encoder_info(ref)
    model, processor, _ = load(ref, "CLIPModel", device=device, dtype=torch.float32, attention=attention)
    tokenizer: Any = getattr(processor, "tokenizer", processor)
    return TextEncoder(model, lambda text: tokenizer(text, truncation=False)["input_ids"])
