"""FLOPs and cache bytes from a configuration and token counts alone, in microseconds and without torch.

Convention: two FLOPs per multiply-add; matrix products and convolutions only; causal attention counted dense; `lm_head`
on the last position only; every vision layer, the ones behind the features included, since the model computes them.
Behind virtual unmerging attention runs over all places of the full prompt, all else over the tokens that are left.
`flops.py` counts the same by running the real model class on the meta device, and holds these formulas against it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..contracts import Refusal, UserError
from ..schedule import Schedule, cuts
from .towers import Tower, features, projector_flops

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Images = int | Sequence[tuple[int, int]]
"""So many images of one grid, or the grid of every image."""

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Flops:
    """FLOPs of one prompt with its pictures.

    Attributes:
        vision, projector: of all pictures of the prompt.
        compressor: the method's own matrix products, and attention rows that are computed for it alone.
        prefill: all LLM layers, and `lm_head` on the last position.
        decode_token: the first output token after the prefill.
        per_layer: of the prefill, one number per LLM layer; the rest of `prefill` is `lm_head`.
    """

    vision: int
    projector: int
    compressor: int
    prefill: int
    decode_token: int
    per_layer: tuple[int, ...]

    @property
    def to_first_token(self) -> int:
        """What it takes until the first output token is there."""
        return self.vision + self.projector + self.compressor + self.prefill


def closed_form(
    config: PretrainedConfig,
    schedule: Schedule,
    text_tokens: int,
    *,
    layers: Sequence[int] | None = None,
    images: Images = 1,
    behind: int | None = None,
    segments: int = 1,
    encoder: PretrainedConfig | None = None,
    selector: int = 0,
) -> Flops:
    """The FLOPs of one prompt.

    Args:
        schedule: what happens to each picture.
        text_tokens: prompt tokens that are no visual tokens.
        layers: visual tokens of the whole prompt at every LLM layer, as executed; default: as the schedule promises.
        images: in the prompt; their grids where they are not all that of the schedule.
        behind: text tokens behind the last picture; default all of them.
        segments: of the question, as the text encoder is given it.
        encoder: configuration of the text encoder, a CLIP, if there is one.
        selector: the method's own FLOPs, from `selector.selector_flops`.

    Raises:
        Refusal: a vision tower or a signal that the formulas do not cover.
        ValueError: `layers` does not have one count per LLM layer.
    """
    each, tower = of_images(schedule, images), Tower.of(config)
    counts = list(layers) if layers is not None else [sum(seen) for seen in zip(*(s.layers for s in each), strict=True)]
    llm = Llm.of(config)
    places = sum(s.full for s in each) if schedule.unmerges else None
    per_layer = llm.prefill_layers(text_tokens, counts, places)
    return Flops(
        vision=sum(number * sum(tower.layers(one)) for one, number in Counter(each).items()),
        projector=projector_flops(config, projected(tower, each, counts[0])),
        compressor=selector
        + _signals(config, each, text_tokens, counts, behind=behind, segments=segments, encoder=encoder),
        prefill=sum(per_layer) + llm.head(),
        decode_token=llm.decode(text_tokens, counts, places),
        per_layer=per_layer,
    )


def flops_to_first_token(
    config: PretrainedConfig,
    schedule: Schedule,
    text_tokens: int,
    layers: Sequence[int],
    *,
    images: Images = 1,
    behind: int | None = None,
    segments: int = 1,
    encoder: PretrainedConfig | None = None,
    selector: int = 0,
) -> int:
    """Vision, projector, compressor and prefill of one sample; arguments and errors as in `closed_form`."""
    return closed_form(
        config, schedule, text_tokens, layers=layers, images=images, behind=behind, segments=segments, encoder=encoder,
        selector=selector,
    ).to_first_token  # fmt: skip


def prefill_flops(config: PretrainedConfig, text_tokens: int, visual_tokens_per_layer: Sequence[int]) -> int:
    """All LLM layers, each with its own number of tokens, and `lm_head` on the last position."""
    llm = Llm.of(config)
    return sum(llm.prefill_layers(text_tokens, visual_tokens_per_layer)) + llm.head()


def of_images(schedule: Schedule, images: Images) -> list[Schedule]:
    """The schedules of the images of a prompt."""
    return schedule.over([schedule.shape.grid] * images if isinstance(images, int) else images)


def _signals(
    config: PretrainedConfig, each: Sequence[Schedule], text_tokens: int, visual: Sequence[int], *,
    behind: int | None, segments: int, encoder: PretrainedConfig | None,
) -> int:  # fmt: skip
    """What is computed beside the model because a method reads it: attention rows, queries and keys ahead of a layer,
    and the text encoder. Keys, queries and tokens of what has run already are there anyway.

    Args:
        each: the schedules of the prompt's images.
        visual: visual tokens of the whole prompt at every LLM layer; the rest as in `closed_form`.

    Raises:
        Refusal: a signal whose cost is not known.
    """
    after = text_tokens if behind is None else behind
    stages = [cut.stage for cut in cuts(each)]
    at_projector = {name for s in stages if s.place == "projector" for name in s.reads}
    total = sum(_tower_signal(config, each, name, segments, encoder) for name in at_projector)
    for stage in stages:
        if stage.place == "decoder" and stage.layer:
            seen = visual[stage.layer - 1]
            total += _decoder_signals(Llm.of(config), frozenset(stage.reads), text_tokens + seen, seen, after)
        elif stage.place == "encoder" and (unknown := set(stage.reads) - {"keys"}):
            raise Refusal(f"the cost of the signal {min(unknown)} is not known")
    return total


_FREE_AT_PROJECTOR = frozenset({"keys", "class_token", "class_query", "features", "text_embeddings", "evidence"})
_FREE_IN_DECODER = frozenset(
    {
        "keys", "text_keys", "normed", "text_normed", "entering", "text_embeddings", "prompt_queries", "prompt_keys",
        "places", "visible",
    }
)  # fmt: skip


def _tower_signal(
    config: PretrainedConfig, each: Sequence[Schedule], name: str, segments: int, encoder: PretrainedConfig | None
) -> int:
    kind, _, layer = name.partition("@")
    tower = Tower.of(config)
    if kind in ("class_attention", "received_attention"):
        return sum(tower.attention(one, int(layer), every=kind == "received_attention") for one in each)
    if kind in ("clip_patches", "clip_text"):
        if encoder is None:
            raise Refusal(f"the cost of the signal {name} is known only where a text encoder is named")
        if kind == "clip_patches":
            return 2 * sum(map(features, each)) * tower.width * int(encoder.projection_dim)
        return segments * text_encoder_flops(encoder)
    if kind not in _FREE_AT_PROJECTOR:
        raise Refusal(f"the cost of the signal {name} is not known")
    return 0


def _decoder_signals(llm: Llm, reads: frozenset[str], tokens: int, visual: int, behind: int) -> int:
    """Of one cut: `tokens` arrive, `visual` of them visual; `behind` are text behind the last picture."""
    row, query = 2 * tokens * llm.queries, 2 * llm.width * llm.queries
    known = {
        "last_attention": row, "text_attention": behind * row, "next_last_attention": row + query,
        "next_text_attention": behind * (row + query), "next_visual_attention": visual * (row + query), "next_keys": 0,
    }  # fmt: skip
    if unknown := reads - known.keys() - _FREE_IN_DECODER:
        raise Refusal(f"the cost of the signal {min(unknown)} is not known")
    total = sum(known.get(name, 0) for name in reads)
    if any(name.startswith("next_") for name in reads):
        total += 2 * tokens * llm.width * llm.groups
    return total


def text_encoder_flops(encoder: PretrainedConfig) -> int:
    """CLIP's text tower and projection on one segment of its full length."""
    text = encoder.text_config
    n, width = text.max_position_embeddings, text.hidden_size
    layer = 8 * n * width**2 + 4 * n**2 * width + 4 * n * width * text.intermediate_size
    return int(text.num_hidden_layers * layer + 2 * width * encoder.projection_dim)


def kv_bytes(config: PretrainedConfig, dtype: str, text_tokens: int, visual_tokens_per_layer: Sequence[int]) -> int:
    """Bytes of the key-value cache after the prefill: keys and values of every layer's own tokens.

    Raises:
        UserError: a dtype whose size is not known.
    """
    if dtype not in DTYPE_BYTES:
        raise UserError(f"The size of dtype {dtype!r} is not known: choose one of {', '.join(DTYPE_BYTES)}.")
    tokens = sum(text_tokens + n for n in visual_tokens_per_layer)
    return 2 * DTYPE_BYTES[dtype] * Llm.of(config).groups * tokens


def projected(tower: Tower, each: Sequence[Schedule], entering: int) -> int:
    """Rows of all images of a prompt that pass the projector, `entering` visual tokens of which enter the LLM."""
    total, executed = 0, False
    for schedule in each:
        at_projector = [s for s in schedule.stages if s.place == "projector"]
        before = [s for s in at_projector if s.features]
        behind = at_projector[len(before) :]
        total += before[-1].keep if before else tower.handed_on(schedule)
        whole = tower.enters and schedule.shape.clip and schedule.entering == schedule.full
        total += whole or any("class_token" in s.reads for s in behind)
        executed = executed or bool(before and not behind)
    # cut before the projector and not behind it: what was kept is what enters, and may be less than was promised
    # (or more, by separators, which pass no projector)
    return total + (min(entering - sum(s.entering for s in each), 0) if executed else 0)


# ------------------------------------------------------------------------------------------------------------------ LLM


@dataclass(frozen=True)
class Llm:
    """The dimensions of a Llama-like LLM, read once, since attributes of a configuration are slow."""

    depth: int
    width: int
    queries: int
    groups: int
    mlp: int
    vocabulary: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Llm:
        text = config.get_text_config()
        heads = text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // heads
        return cls(
            text.num_hidden_layers, text.hidden_size, heads * head, text.num_key_value_heads * head,
            text.intermediate_size, text.vocab_size,
        )  # fmt: skip

    def layer(self, tokens: int, rows: int, keys: int) -> int:
        """Grouped-query attention of `rows` on `keys`; projections, and a gated MLP of three matrices, of `tokens`."""
        projections = 4 * tokens * self.width * (self.queries + self.groups)
        return projections + 4 * rows * keys * self.queries + 6 * tokens * self.width * self.mlp

    def head(self) -> int:
        """`lm_head` on one position."""
        return 2 * self.width * self.vocabulary

    def prefill_layers(
        self, text_tokens: int, visual: Sequence[int], places: int | None = None
    ) -> tuple[int, ...]:  # fmt: skip
        """Of every layer; `places` counts visual ones that attention runs over, where they are not its tokens."""
        if len(visual) != self.depth:
            raise ValueError(f"{len(visual)} token counts were given for {self.depth} LLM layers")
        seen = [text_tokens + (n if places is None else places) for n in visual]
        return tuple(self.layer(text_tokens + n, rows, rows) for n, rows in zip(visual, seen, strict=True))

    def decode(self, text_tokens: int, visual: Sequence[int], places: int | None = None) -> int:
        keys = (text_tokens + (n if places is None else places) + 1 for n in visual)
        return sum(self.layer(1, 1, seen) for seen in keys) + self.head()
