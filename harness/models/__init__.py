"""Vision-language models by reference: their shape from a configuration, and the model itself with its weights.

One file per family; a family is named here by the `model_type` of its configurations. Nothing heavy is imported before
a model is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ..contracts import ModelShape, Sample, UserError
from .embedded import text_encoder_of
from .published import hub_revision, load_config, local_folder
from .text_encoder import TextEncoderInfo, open_text_encoder, text_encoder_info

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from .abilities import FamilyInfo
    from .base import VisionLanguageModel

FAMILIES = {
    "internvl": ("internvl", "InternVL"),
    "llava": ("llava", "Llava"),
    "llava_next": ("llava_next", "LlavaNext"),
    "llava_next_video": ("llava_next_video", "LlavaNextVideo"),
    "llava_onevision": ("llava_onevision", "LlavaOnevision"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen2_5_VL"),
    "qwen3_vl": ("qwen3_vl", "Qwen3_VL"),
    "video_llava": ("video_llava", "VideoLlava"),
}
"""By `model_type`: module and class."""


@dataclass(frozen=True)
class ModelInfo:
    """A model by reference, as far as a plan must know it; see `ModelShape` and `FamilyInfo`."""

    ref: str
    shape: ModelShape
    family: FamilyInfo
    text_encoder: TextEncoderInfo | None = None

    def asked_about(self, samples: Iterable[Sample]) -> ModelInfo:
        """The same with the shape and the abilities that it has for these samples, pictures or clips.

        Raises:
            UserError: some are clips, and some are not, where the model shows them in different ways.
        """
        if self.family.clips is None or not (clips := {sample.clip for sample in samples}):
            return self
        if len(clips) > 1:
            raise UserError(f"{self.ref} is asked about pictures and clips in one task: make two of it.")
        return replace(self, shape=self.shape.of_clips(), family=self.family.clips) if clips == {True} else self

    @cached_property
    def revision(self) -> str:
        """Digest of a local folder's weights and configuration, or the hub's commit.

        Raises:
            UserError: a hub id that is neither reachable nor in the local cache.
        """
        if folder := local_folder(self.ref):
            from .loading import digest

            return digest(folder)
        return hub_revision(self.ref)


def model_info(ref: str, text_encoder: str | None = None) -> ModelInfo:
    """See `model_shape`.

    Args:
        text_encoder: a folder or hub id of a CLIP checkpoint, for methods that hold patches against the question; None:
            the one that comes with an embedded model.

    Raises:
        UserError: also for a text encoder that is no CLIP, or comes from another tower than the model's.
    """
    shape, family = model_shape(ref)
    text_encoder = text_encoder or text_encoder_of(ref)
    if text_encoder is None:
        return ModelInfo(ref, shape, family)
    encoder = text_encoder_info(text_encoder)
    if "clip_patches" in family.signals:
        encoder.check(ref, load_config(ref).vision_config.hidden_size)
    return ModelInfo(ref, shape, family, encoder)


def model_shape(ref: str) -> tuple[ModelShape, FamilyInfo]:
    """What a method may know about a model, and what its family serves, from the configuration alone.

    Args:
        ref: the name of an embedded model, a local folder, or a hub id.

    Raises:
        UserError: no configuration to be had, or a class that no family serves.
    """
    return describe(load_config(ref), ref)


def describe(config: PretrainedConfig, ref: str = "the model") -> tuple[ModelShape, FamilyInfo]:
    """`model_shape` of a configuration that is at hand; `ref` names it in an error."""
    return _family(ref, config).describe(config)


def open_model(
    ref: str, *, device: str = "cpu", dtype: str = "float32", attention: str = "sdpa", text_encoder: str | None = None
) -> VisionLanguageModel:
    """Load a model with its weights, by plain `from_pretrained`; code that comes with a checkpoint is never run.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `float32`, `bfloat16`, `float16`, or their short forms `fp32`, `bf16`, `fp16`.
        attention: `sdpa`, `eager`, `flash_attention_2` or `flash_attention_3`.
        text_encoder: see `model_info`.

    Raises:
        UserError: no weights, a class that no family serves, a hub that cannot be reached, a device or an attention
            kernel that this machine lacks.
    """
    from .loading import check_platform, load

    config = load_config(ref)
    family = _family(ref, config)
    shape, info = family.describe(config)
    kind = check_platform(device, dtype, attention)
    model, processor, revision = load(ref, family.architecture, device=device, dtype=kind, attention=attention)
    opened = family(model, processor, shape, info, revision)
    if text_encoder is not None:
        opened.text_encoder = open_text_encoder(text_encoder, device)
    return opened


def _family(ref: str, config: PretrainedConfig) -> type[VisionLanguageModel]:
    if config.model_type in FAMILIES:
        module, name = FAMILIES[config.model_type]
        family: type[VisionLanguageModel] = getattr(importlib.import_module(f".{module}", __name__), name)
        if family.architecture in (config.architectures or [family.architecture]):
            return family
    named = ", ".join(config.architectures or [config.model_type])
    raise UserError(f"{ref} is a {named}, which no family serves; there are: {', '.join(sorted(FAMILIES))}.")
