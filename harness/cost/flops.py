"""FLOPs as the real model class spends them, counted on the meta device and held against the closed form.

Nothing is loaded and nothing computed: a 7B model is built and run in seconds. Every LLM layer runs with its own number
of tokens, so that no hook of a method is needed.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from ..contracts import Compressor
from ..schedule import Schedule
from . import closed_form as closed
from .closed_form import Flops
from .compressor import on_meta, selector_flops, signals_on_meta
from .towers import Tower, encoder_stages, feature_width

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..models.unmerging import Unmerging

TOLERANCE = 0.02
"""Largest relative gap between counter and closed form."""


class FlopsMismatchError(Exception):
    """Counter and closed form disagree: a model that the formulas misunderstand, or a new library version."""


class FlopCounter:
    """Counts for one configuration; building it builds the model on the meta device (under a second for 7B)."""

    def __init__(self, config: PretrainedConfig) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        self.config = config
        with torch.device("meta"):
            # Eager attention, whose matrix products every version of the counter sees; FLOPs have no type.
            model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager", dtype=torch.float32)
        self._head = model.lm_head
        core = model.model
        self._packed = hasattr(core, "visual")  # a tower that takes patches of any number of images in one row
        # of Video-LLaVA's two towers, which are built alike, the one for pictures
        self._tower = core.visual if self._packed else getattr(core, "vision_tower", None) or core.image_tower
        self._projector = core.visual.merger if self._packed else core.multi_modal_projector
        self._llm = model.model.language_model
        self._built = [str(layer) for layer in self._llm.layers]
        self._known: dict[tuple[object, ...], int] = {}

    def count(
        self, schedule: Schedule, text_tokens: int, compressor: Compressor | None = None,
        encoder: PretrainedConfig | None = None, images: int = 1,
    ) -> Flops:  # fmt: skip
        """The FLOPs of a prompt with all text behind its images, and a question of one segment.

        Args:
            encoder: configuration of the text encoder, a CLIP, if there is one.
            images: in the prompt, all of the schedule's grid: pictures, crops of one, or frames of a clip.

        Raises:
            FlopsMismatchError: a stage differs from its closed form by more than 2%.
            Refusal: a vision tower or a signal that the closed form does not cover.
        """
        selector = 0
        if compressor:
            selector = selector_flops(
                self.config, schedule, compressor, text_tokens=text_tokens, encoder=encoder, images=images
            )
        expected = closed.closed_form(
            self.config, schedule, text_tokens, encoder=encoder, selector=selector, images=images
        )
        layers = [images * n for n in schedule.layers]
        places = text_tokens + images * schedule.full if schedule.unmerges else None
        per_layer = tuple(self._llm_layer(i, text_tokens + n, 0, places) for i, n in enumerate(layers))
        steps = (self._llm_layer(i, 1, text_tokens + n, places) for i, n in enumerate(layers))
        rows = closed.projected(Tower.of(self.config), [schedule] * images, layers[0])
        head = on_meta(self._head, (1, 1, self._llm.config.hidden_size))
        counted = Flops(
            vision=images * self._vision(schedule),
            projector=self._projected(rows),
            compressor=selector + signals_on_meta(self.config, self._llm, schedule, text_tokens, encoder, images),
            prefill=sum(per_layer) + head,
            decode_token=sum(steps) + head,
            per_layer=per_layer,
        )
        _compare(counted, expected)
        return counted

    def _projected(self, rows: int) -> int:
        width = feature_width(self.config)
        shape = (rows, width)
        if self._packed:  # whose merger joins patches itself
            patches = Tower.of(self.config).merge ** 2
            shape = (rows * patches, width // patches)
        return on_meta(self._projector, shape)

    def _vision(self, schedule: Schedule) -> int:
        tower, vision = Tower.of(self.config), self.config.vision_config
        rows, columns = tower.grid(schedule)
        if self._packed:
            return self._packed_vision(tower, rows, columns)
        side = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        picture = (1, vision.num_channels, rows * side, columns * side)
        smaller = any(s.place == "pixel" for s in schedule.stages) and tower.merge == 1
        extra = {"interpolate_pos_encoding": True} if smaller else {}
        if not encoder_stages(schedule):
            return on_meta(lambda x: self._tower(x, **extra), picture)
        total = on_meta(lambda x: self._tower.embeddings(x, **extra), picture)
        for layer, (before, after) in zip(self._tower.encoder.layers, tower.tokens(schedule), strict=True):
            attend = partial(layer.self_attn, attention_mask=None)
            total += on_meta(attend, (1, before, vision.hidden_size))
            total += on_meta(layer.mlp, (1, after, vision.hidden_size))
        if getattr(vision, "vision_use_head", False):
            total += on_meta(self._tower.head, (1, after, vision.hidden_size))
        return total

    def _packed_vision(self, tower: Tower, rows: int, columns: int) -> int:
        """Of one image; what depends on values is worked out beforehand, since there are none on the meta device."""
        import torch
        from transformers import vision_utils

        vision, grid = self.config.vision_config, torch.tensor([[1, rows, columns]])
        given = {
            "position_ids": vision_utils.get_vision_position_ids(grid, tower.merge).to("meta"),
            "cu_seqlens": vision_utils.get_vision_cu_seqlens(grid),
        }
        if tower.window:
            index, ends = vision_utils.get_vision_window_index(grid, tower.merge, vision.window_size, vision.patch_size)
            given |= {"window_index": index.to("meta"), "cu_window_seqlens": ends}
        else:  # learned places, resampled to the picture's grid
            index, weights = vision_utils.get_vision_interpolation_indices_and_weights(
                grid, self._tower.num_grid_per_side, spatial_merge_size=tower.merge
            )
            given |= {"interp_indices": index.to("meta"), "interp_weights": weights.to("meta")}
        whole = on_meta(lambda x: self._tower(x, grid_thw=grid, **given), (rows * columns, tower.patch))
        return whole - self._projected(rows * columns // tower.merge**2)

    def _llm_layer(self, index: int, tokens: int, cached: int, places: int | None) -> int:
        """One layer on `tokens` new positions behind `cached` ones; layers that are built alike are run once.

        Args:
            places: at which the tokens of the prompt stand behind virtual unmerging.
        """
        key = (self._built[index], tokens, cached, places)
        if key not in self._known:
            with nullcontext() if places is None else self._unmerging(cached or tokens, places).attached():
                self._known[key] = self._run_llm_layer(index, tokens, cached)
        return self._known[key]

    def _unmerging(self, tokens: int, places: int) -> Unmerging:
        import torch

        from ..models.unmerging import Places, Unmerging

        stands = torch.arange(places, device="meta")[None]
        return Unmerging(self._llm, Places(tokens, stands, torch.ones_like(stands, dtype=torch.bool), stands))

    def _run_llm_layer(self, index: int, tokens: int, cached: int) -> int:
        import torch
        from transformers import DynamicCache

        text, layer = self._llm.config, self._llm.layers[index]
        cache = DynamicCache(config=text)
        if cached:
            past = torch.empty(1, text.num_key_value_heads, cached, layer.self_attn.head_dim, device="meta")
            cache.update(past, past, index)
        shape = (1, tokens, text.hidden_size)
        places = torch.arange(cached, cached + tokens, device="meta")[None]
        turns = self._llm.rotary_emb(torch.empty(shape, device="meta"), places)
        return on_meta(
            lambda x: layer(x, attention_mask=None, position_ids=places, cache=cache, position_embeddings=turns),
            shape,
        )


def _compare(counted: Flops, expected: Flops) -> None:
    for stage in ("vision", "projector", "compressor", "prefill", "decode_token"):
        ran, formula = getattr(counted, stage), getattr(expected, stage)
        if abs(ran - formula) > TOLERANCE * formula:
            raise FlopsMismatchError(
                f"{stage}: the model class spends {ran:.4g} FLOPs, the closed form says {formula:.4g}"
            )
