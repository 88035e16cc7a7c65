"""FLOPs as the real model class spends them, counted on the meta device and held against the closed form.

Nothing is loaded and nothing computed: a 7B model is built and run in seconds. Every LLM layer runs with its own number
of tokens, so that no hook of a method is needed. Only what a method computes itself (similarities of tokens, say) runs
for real, on random tensors of the real shapes, since its control flow may depend on values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..contracts import Compressor, ModelShape, Stage, View
from ..schedule import Schedule
from . import closed_form as closed
from .closed_form import Flops

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

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
        self._tower = model.model.vision_tower
        self._projector = model.model.multi_modal_projector
        self._llm = model.model.language_model
        self._built = [str(layer) for layer in self._llm.layers]
        self._known: dict[tuple[str, int, int], int] = {}

    def count(self, schedule: Schedule, text_tokens: int, compressor: Compressor | None = None) -> Flops:
        """The FLOPs of a prompt with one picture.

        Raises:
            FlopsMismatchError: a stage differs from its closed form by more than 2%.
            Refusal: a vision tower or a signal that the closed form does not cover.
        """
        selector = selector_flops(self.config, schedule, compressor) if compressor else 0
        expected = closed.closed_form(self.config, schedule, text_tokens, selector=selector)
        per_layer = tuple(self._llm_layer(i, text_tokens + n, 0) for i, n in enumerate(schedule.layers))
        steps = (self._llm_layer(i, 1, text_tokens + n) for i, n in enumerate(schedule.layers))
        head = self._on_meta(self._head, (1, 1, self._llm.config.hidden_size))
        counted = Flops(
            vision=self._vision(schedule),
            projector=self._on_meta(
                self._projector, (1, closed.features(schedule), self._projector.linear_1.in_features)
            ),
            compressor=expected.compressor,
            prefill=sum(per_layer) + head,
            decode_token=sum(steps) + head,
            per_layer=per_layer,
        )
        _compare(counted, expected)
        return counted

    def _vision(self, schedule: Schedule) -> int:
        vision = self.config.vision_config
        rows, columns = closed.patch_grid(self.config, schedule)
        picture = (1, vision.num_channels, rows * vision.patch_size, columns * vision.patch_size)
        smaller = any(s.place == "pixel" for s in schedule.stages)
        if not closed.encoder_stages(schedule):
            return self._on_meta(lambda x: self._tower(x, interpolate_pos_encoding=smaller), picture)
        total = self._on_meta(lambda x: self._tower.embeddings(x, interpolate_pos_encoding=smaller), picture)
        tokens = closed.tower_tokens(self.config, schedule)
        for layer, (before, after) in zip(self._tower.encoder.layers, tokens, strict=True):
            attend = partial(layer.self_attn, attention_mask=None)
            total += self._on_meta(attend, (1, before, vision.hidden_size))
            total += self._on_meta(layer.mlp, (1, after, vision.hidden_size))
        if getattr(vision, "vision_use_head", False):
            total += self._on_meta(self._tower.head, (1, after, vision.hidden_size))
        return total

    def _llm_layer(self, index: int, tokens: int, cached: int) -> int:
        """One layer on `tokens` new positions behind `cached` ones; layers that are built alike are run once."""
        key = (self._built[index], tokens, cached)
        if key not in self._known:
            self._known[key] = self._run_llm_layer(index, tokens, cached)
        return self._known[key]

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
        return self._on_meta(
            lambda x: layer(
                x, attention_mask=None, position_ids=places, past_key_values=cache, position_embeddings=turns
            ),
            shape,
        )

    def _on_meta(self, work: Callable[[torch.Tensor], object], shape: tuple[int, ...]) -> int:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            work(torch.empty(shape, device="meta"))
        return int(counter.get_total_flops())


def selector_flops(config: PretrainedConfig, schedule: Schedule, compressor: Compressor) -> int:
    """What a compressor's own matrix products cost on one picture, at every cut of the schedule.

    `reduce` runs on a CPU on random tensors of the real shapes; element-wise work, sorting and the merging itself are
    no matrix products and show in latency only.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens, grid = schedule.full, closed.patch_grid(config, schedule)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for stage in schedule.stages:
            if stage.place != "pixel":
                compressor.reduce(_random_view(config, stage, tokens, grid), stage.keep)
            tokens = stage.keep
    return int(counter.get_total_flops())


def _random_view(config: PretrainedConfig, stage: Stage, tokens: int, grid: tuple[int, int]) -> View:
    import torch

    generator = torch.Generator().manual_seed(0)
    vision, text = config.vision_config, config.get_text_config()
    in_tower = stage.place == "encoder"
    extra = closed.CLASS_TOKENS.get(vision.model_type, 0) if in_tower or "class_token" in stage.reads else 0
    n, width = tokens + extra, vision.hidden_size if in_tower else text.hidden_size

    def signal(name: str) -> torch.Tensor:
        kind, heads = name.partition("@")[0], vision.num_attention_heads
        if kind == "keys":
            return torch.randn(1, heads, n, vision.hidden_size // heads, generator=generator)
        if kind == "evidence":
            return torch.rand(1, grid[0] * grid[1], generator=generator)
        if kind == "class_token":
            return torch.randn(1, width, generator=generator)
        heads, keys = (heads, grid[0] * grid[1]) if kind == "class_attention" else (text.num_attention_heads, tokens)
        return torch.rand(1, heads, keys, generator=generator).softmax(-1)

    places = torch.arange(n)[None]
    return View(
        tokens=torch.randn(1, n, width, generator=generator),
        grid=grid,
        place=stage.place,
        layer=stage.layer,
        sizes=torch.ones(1, n),
        origin=places - extra if in_tower else torch.where(places < tokens, places, -1),
        signals={name: signal(name) for name in stage.reads},
        generators=(generator,),
        class_index=(0 if in_tower else tokens) if extra else None,
        shape=ModelShape(
            config.model_type,
            grid[0] * grid[1],
            grid,
            vision.num_hidden_layers,
            text.num_hidden_layers,
            vision.model_type in closed.CLASS_TOKENS,
        ),
    )


def _compare(counted: Flops, expected: Flops) -> None:
    for stage in ("vision", "projector", "prefill", "decode_token"):
        ran, formula = getattr(counted, stage), getattr(expected, stage)
        if abs(ran - formula) > TOLERANCE * formula:
            raise FlopsMismatchError(
                f"{stage}: the model class spends {ran:.4g} FLOPs, the closed form says {formula:.4g}"
            )
