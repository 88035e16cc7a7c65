"""What a compressor costs: its own matrix products, and the signals that are computed because it reads them.

Signals are counted on the meta device by the functions that compute them. What a method computes itself (similarities
of tokens, say) runs for real, on random tensors of the real shapes, since its control flow may depend on values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..contracts import Compressor, Stage, View
from ..schedule import Schedule, cuts
from .closed_form import Images, of_images
from .towers import Tower, feature_width, features

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


def on_meta(work: Callable[[torch.Tensor], object], shape: tuple[int, ...]) -> int:
    """The FLOPs of `work` on a tensor of that shape, without computing anything."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        work(torch.empty(shape, device="meta"))
    return int(counter.get_total_flops())


# -------------------------------------------------------------------------------------------------------------- signals


def signals_on_meta(
    config: PretrainedConfig, llm: Any, schedule: Schedule, text_tokens: int, encoder: PretrainedConfig | None,
    images: int = 1,
) -> int:  # fmt: skip
    """Of a prompt with all text behind its images, and a question of one segment; `llm` is on the meta device."""
    reads = {name for s in schedule.stages if s.place == "projector" for name in s.reads}
    total = sum(
        _tower_signal(config, schedule, name, encoder) * (1 if name == "clip_text" else images) for name in reads
    )
    for stage in schedule.stages:
        if stage.place == "decoder" and stage.layer:
            total += _decoder_signals(llm, stage, text_tokens, images * schedule.layers[stage.layer - 1])
    return total


def _tower_signal(config: PretrainedConfig, schedule: Schedule, name: str, encoder: PretrainedConfig | None) -> int:
    import torch

    kind, _, layer = name.partition("@")
    tower = Tower.of(config)
    if kind in ("class_attention", "received_attention"):
        segments = tower.segments(schedule, int(layer))
        every = kind == "received_attention"
        return sum(
            on_meta(partial(_mean_row, rows=n if every else 1), (1, tower.heads, n, tower.width // tower.heads))
            for n in segments
        )
    if kind in ("clip_patches", "clip_text") and encoder is not None:
        if kind == "clip_text":
            return _text_encoder(encoder)
        project = torch.nn.Linear(tower.width, encoder.projection_dim, bias=False, device="meta")
        return on_meta(project, (features(schedule), tower.width))
    return 0


def _mean_row(query: torch.Tensor, rows: int, groups: int | None = None) -> torch.Tensor:
    from ..models.taps import Seen

    return Seen(query, query[:, :groups], None, 1.0, causal=False).mean_row(range(rows))


def _text_encoder(encoder: PretrainedConfig) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(encoder, attn_implementation="eager", dtype=torch.float32)
        ids = torch.zeros(1, encoder.text_config.max_position_embeddings, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return int(counter.get_total_flops())


def _decoder_signals(llm: Any, stage: Stage, text_tokens: int, visual: int) -> int:
    import torch

    from ..models.taps import Probe

    text, n = llm.config, text_tokens + visual
    rows = {"last_attention": 1, "text_attention": text_tokens, "visual_attention": visual}
    total = 0
    for name in rows.keys() & set(stage.reads):
        work = partial(_mean_row, rows=rows[name], groups=text.num_key_value_heads)
        total += on_meta(work, (1, text.num_attention_heads, n, llm.layers[0].self_attn.head_dim))
    ahead = [name.removeprefix("next_") for name in stage.reads if name.startswith("next_")]

    def probe(tokens: torch.Tensor) -> None:
        turns = llm.rotary_emb(tokens, torch.arange(n, device="meta")[None])
        seen = Probe(llm.layers[stage.layer], tokens, turns, torch.ones(1, n, dtype=torch.bool, device="meta"))
        for name in ahead:
            seen.mean_row(range(rows.get(name, 0)))

    return total + (on_meta(probe, (1, n, text.hidden_size)) if ahead else 0)


# ------------------------------------------------------------------------------------------------------------- selector


def selector_flops(
    config: PretrainedConfig, schedule: Schedule, compressor: Compressor, *, text_tokens: int = 0, images: Images = 1,
    behind: int | None = None, segments: int = 1, encoder: PretrainedConfig | None = None,
) -> int:  # fmt: skip
    """What a compressor's own matrix products cost at every cut of the schedule; arguments as in `closed_form`.

    `reduce` runs on a CPU on random tensors of the real shapes; element-wise work, sorting and the merging itself are
    no matrix products and show in latency only.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    each = of_images(schedule, images)
    shapes = _Shapes(config, text_tokens, text_tokens if behind is None else behind, segments, encoder)
    tokens, total = [one.full for one in each], 0
    for cut in cuts(each):
        if cut.stage.place not in ("pixel", "attention"):
            joint = cut.stage.joint
            rows = Counter([tuple(range(len(each)))] if joint else [_first_like(each, i) for i in cut.stages])
            for row, number in rows.items():
                left = [tokens[i] for i in row]
                if any(left):
                    view = shapes.view(cut.stage, [each[i] for i in row], left)
                    keep = sum(cut.stages[i].keep if i in cut.stages else tokens[i] for i in row)
                    with torch.no_grad(), FlopCounterMode(display=False) as counter:
                        compressor.reduce(view, keep)
                    total += int(counter.get_total_flops()) * number
        for i, stage in cut.stages.items():
            tokens[i] = stage.keep
    return total


def _first_like(each: Sequence[Schedule], image: int) -> tuple[int]:
    """The first image with the same schedule, which costs the same."""
    return (each.index(each[image]),)


def reads_text(schedule: Schedule) -> bool:
    """Does the cost of the compressor's own products depend on the prompt's text?"""
    return any("text" in name or name.startswith("prompt_") for stage in schedule.stages for name in stage.reads)


class _Shapes:
    """Random views with the shapes that a compressor would see."""

    def __init__(
        self, config: PretrainedConfig, text_tokens: int, behind: int, segments: int, encoder: PretrainedConfig | None
    ) -> None:
        import torch

        self.tower, self.text = Tower.of(config), config.get_text_config()
        self.text_tokens, self.behind, self.segments = text_tokens, behind, segments
        self.common = encoder.projection_dim if encoder else 1
        self.features = feature_width(config)
        self.generator = torch.Generator().manual_seed(0)

    def view(self, stage: Stage, each: Sequence[Schedule], tokens: Sequence[int]) -> View:
        """Of one image, or of several, each with so many visual tokens."""
        import torch

        shape, grid = each[0].shape, each[0].seen
        in_tower = stage.place == "encoder"
        extra = int(shape.class_token) if in_tower or "class_token" in stage.reads else 0
        n, width = sum(tokens) + extra, self.features if in_tower or stage.features else self.text.hidden_size
        raster = torch.cat([torch.arange(count) for count in tokens])[None]
        beside = torch.full((1, extra), -1)
        return View(
            tokens=torch.randn(1, n, width, generator=self.generator),
            grid=grid,
            place=stage.place,
            layer=stage.layer,
            sizes=torch.ones(1, n),
            origin=torch.cat([beside, raster] if in_tower else [raster, beside], 1),
            signals={name: self._signal(name, stage, each, sum(tokens), extra) for name in stage.reads},
            generators=(self.generator,),
            class_index=(0 if in_tower else n - 1) if extra else None,
            image=torch.arange(len(tokens)).repeat_interleave(torch.tensor(tokens))[None] if stage.joint else None,
            shape=shape,
        )

    def _signal(self, name: str, stage: Stage, each: Sequence[Schedule], tokens: int, extra: int) -> torch.Tensor:
        import torch

        kind = name.partition("@")[0]
        if name == "places":
            return self.text_tokens + torch.arange(tokens)[None]
        if name == "visible":
            return torch.ones(1, self.text_tokens + tokens, dtype=torch.bool)
        drawn = torch.randn(1, *self._dimensions(kind, stage, each, tokens, extra), generator=self.generator)
        return drawn.softmax(-1) if kind.endswith("attention") else drawn

    def _dimensions(
        self, kind: str, stage: Stage, each: Sequence[Schedule], tokens: int, extra: int
    ) -> tuple[int, ...]:  # fmt: skip
        if stage.place == "decoder":
            return self._in_llm(kind.removeprefix("next_"), tokens, sum(one.entering for one in each))
        heads = self.tower.heads
        patches, head = sum(one.seen[0] * one.seen[1] for one in each), self.tower.width // heads
        in_tower = tokens + extra if stage.place == "encoder" else patches + len(each) * int(each[0].shape.class_token)
        found: dict[str, tuple[int, ...]] = {
            "keys": (heads, in_tower, head),
            "class_query": (len(each), heads, head) if stage.joint else (heads, head),
            "class_attention": (heads, patches),
            "received_attention": (heads, patches),
            "evidence": (patches,),
            "features": (patches, self.features),
            "class_token": (1, self.features if stage.features else self.text.hidden_size),
            "clip_patches": (patches, self.common),
            "clip_text": (self.segments, self.common),
            "text_embeddings": (self.behind, self.text.hidden_size),
        }
        return found[kind]

    def _in_llm(self, kind: str, visual: int, entering: int) -> tuple[int, ...]:
        text = self.text
        heads, groups, width = text.num_attention_heads, text.num_key_value_heads, text.hidden_size
        head, prompt = getattr(text, "head_dim", None) or width // heads, self.text_tokens + visual
        found: dict[str, tuple[int, ...]] = {
            "last_attention": (heads, visual),
            "visual_attention": (heads, visual),
            "text_attention": (heads, self.behind, visual),
            "keys": (groups, visual, head),
            "text_keys": (groups, self.behind, head),
            "prompt_keys": (groups, prompt, head),
            "prompt_queries": (heads, prompt, head),
            "normed": (visual, width),
            "text_normed": (self.behind, width),
            "entering": (entering, width),
            "text_embeddings": (self.behind, width),
        }
        return found[kind]
